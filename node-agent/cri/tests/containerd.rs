//! Against a real containerd: what is made can be observed, read and removed again.

use std::time::Duration;

use galley_node_cri::cgroup::Cgroups;
use galley_node_cri::testing::{BUSYBOX, PrivateContainerd};
use galley_node_cri::{
    ContainerInputs, Cri, MountSpec, SandboxInputs, container_config, log_directory, logs, sandbox_config,
};
use galley_node_plan::qos::{QosClass, container_limits, pod_limits};
use galley_node_plan::{ContainerState, ObservedPod};
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;

fn pod(name: &str, container: serde_json::Value, host_network: bool) -> Pod {
    serde_json::from_value(json!({"metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"hostNetwork": host_network, "containers": [container]}}))
    .unwrap()
}

struct Started {
    sandbox: String,
    container: String,
}

/// What the agent does for a pod, without the agent.
async fn start(runtime: &PrivateContainerd, cri: &Cri, pod: &Pod) -> Result<Started, String> {
    let uid = pod.metadata.uid.clone().unwrap();
    let cgroups = Cgroups::detect(&runtime.cgroup_root()).unwrap();
    let spec = pod.spec.as_ref().unwrap();
    cgroups.pod_create(QosClass::Burstable, &uid, &pod_limits(spec)).unwrap();
    let logs = runtime.directory().join("logs").join(log_directory(pod));
    std::fs::create_dir_all(&logs).unwrap();
    let inputs = SandboxInputs {
        node: cri.node().into(),
        cgroup_parent: cgroups.pod_path(QosClass::Burstable, &uid),
        log_directory: logs.display().to_string(),
        ..Default::default()
    };
    let config = sandbox_config(pod, &inputs);
    let sandbox = cri.run_sandbox(config.clone()).await.unwrap();
    let image = cri.image(BUSYBOX).await.unwrap().expect("imported").id;
    let message = runtime.directory().join(format!("message-{uid}"));
    std::fs::write(&message, "").unwrap();
    let container = &spec.containers[0];
    let inputs = ContainerInputs {
        node: cri.node().into(),
        restart_delay: 10,
        image_ref: image,
        environment: vec![("GREETING".into(), "hello".into())],
        limits: container_limits(spec, container, 1 << 30),
        termination_file: message.display().to_string(),
        mounts: vec![MountSpec {
            host_path: message.display().to_string(),
            container_path: "/dev/termination-log".into(),
            ..Default::default()
        }],
        ..Default::default()
    };
    let id = cri.create_container(&sandbox, container_config(pod, container, &inputs), config).await.unwrap();
    cri.start_container(&id).await.map_err(|e| e.message())?;
    Ok(Started { sandbox, container: id })
}

async fn until(cri: &Cri, uid: &str, wanted: impl Fn(&ObservedPod) -> bool) -> ObservedPod {
    for _ in 0..300 {
        let observed = cri.observe(uid).await.unwrap();
        if wanted(&observed) {
            return observed;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("never as wanted: {:?}", cri.observe(uid).await);
}

fn ended(observed: &ObservedPod) -> bool {
    observed.containers.iter().all(|c| c.state == ContainerState::Exited)
}

#[tokio::test]
async fn a_container_runs_ends_and_is_observed_whole() {
    let runtime = PrivateContainerd::start(201).unwrap();
    let cri = Cri::new(&runtime.socket(), "node-1");
    let info = cri.info().await.unwrap();
    assert!(info.version.starts_with("containerd://"), "{info:?}");
    assert_eq!((info.runtime_error, info.network_error), (None, None));

    let script = "echo $GREETING; echo oops >&2; echo bye > /dev/termination-log; exit 3";
    let p = pod("one", json!({"name": "app", "image": BUSYBOX, "command": ["sh", "-c", script]}), false);
    let started = start(&runtime, &cri, &p).await.unwrap();
    let observed = until(&cri, "uid-one", ended).await;
    let c = &observed.containers[0];
    assert_eq!((c.exit_code, c.reason.as_str(), c.message.as_str()), (3, "Error", "bye\n"));
    assert_eq!((c.attempt, c.restart_delay, c.id.as_str()), (0, 10, started.container.as_str()));
    assert_eq!(c.spec_hash, galley_node_plan::spec_hash(&p.spec.as_ref().unwrap().containers[0]));
    assert!(c.started_at <= c.finished_at && c.started_at.is_some());
    assert!(observed.sandboxes[0].ready && observed.sandboxes[0].ips[0].starts_with("10.201.0."), "{observed:?}");

    let (out, mut lines) = tokio::sync::mpsc::channel(16);
    logs::read(c.log_path.as_ref(), logs::LogOptions::default(), out, || async { false }).await.unwrap();
    let mut text = Vec::new();
    while let Some(bytes) = lines.recv().await {
        text.extend_from_slice(&bytes);
    }
    assert_eq!(String::from_utf8(text).unwrap(), "hello\noops\n");

    let other = Cri::new(&runtime.socket(), "node-2");
    assert!(other.inventory().await.unwrap().0.is_empty(), "another node's agent sees nothing of it");
    cri.stop_sandbox(&started.sandbox).await.unwrap();
    cri.remove_sandbox(&started.sandbox).await.unwrap();
    assert!(cri.inventory().await.unwrap().0.is_empty());
}

#[tokio::test]
async fn a_command_that_does_not_exist_and_one_killed_for_memory_say_so() {
    let runtime = PrivateContainerd::start(202).unwrap();
    let cri = Cri::new(&runtime.socket(), "node-1");
    let p = pod("nope", json!({"name": "app", "image": BUSYBOX, "command": ["nope"]}), true);
    let error = start(&runtime, &cri, &p).await.err().unwrap();
    assert!(error.contains("exec: \"nope\": executable file not found in $PATH"), "{error}");
    let observed = until(&cri, "uid-nope", ended).await;
    assert_eq!((observed.containers[0].reason.as_str(), observed.containers[0].exit_code), ("StartError", 128));

    // tail keeps the whole of a line without end in memory.
    let eater = json!({"name": "app", "image": BUSYBOX, "command": ["sh", "-c", "tail /dev/zero"],
        "resources": {"limits": {"memory": "20Mi"}}});
    start(&runtime, &cri, &pod("eater", eater, true)).await.unwrap();
    let observed = until(&cri, "uid-eater", ended).await;
    assert_eq!((observed.containers[0].reason.as_str(), observed.containers[0].exit_code), ("OOMKilled", 137));
}

#[tokio::test]
async fn commands_run_in_a_container_and_it_stops_in_time() {
    let runtime = PrivateContainerd::start(203).unwrap();
    let cri = Cri::new(&runtime.socket(), "node-1");
    let p = pod("long", json!({"name": "app", "image": BUSYBOX, "command": ["sleep", "1000"]}), true);
    let started = start(&runtime, &cri, &p).await.unwrap();
    let command = ["sh".to_owned(), "-c".into(), "echo hi; exit 4".into()];
    let result = cri.exec_sync(&started.container, &command, Duration::from_secs(5)).await.unwrap();
    assert_eq!((result.exit_code, result.output), (4, b"hi\n".to_vec()));
    cri.stop_container(&started.container, 0).await.unwrap();
    let observed = until(&cri, "uid-long", ended).await;
    assert_eq!(observed.containers[0].exit_code, 137);
}
