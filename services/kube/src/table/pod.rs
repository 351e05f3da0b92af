//! The pod's row: one word for what a pod is doing, from its phase, its containers and its deletion.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Entry, age, human, items, name, number, or_none, text};

pub(super) const POD: Entry = (
    &[
        ("Name", "string"),
        ("Ready", "string"),
        ("Status", "string"),
        ("Restarts", "string"),
        ("Age", "string"),
        ("IP*", "string"),
        ("Node*", "string"),
        ("Nominated Node*", "string"),
        ("Readiness Gates*", "string"),
    ],
    row,
);

fn row(pod: &Value, now: Timestamp) -> Vec<Value> {
    let summary = Summary::of(pod);
    let restarts = match summary.last_restart {
        Some(at) if summary.restarts > 0 => {
            format!("{} ({} ago)", summary.restarts, human::duration(now.as_second() - at.as_second()))
        }
        _ => summary.restarts.to_string(),
    };
    let status = &pod["status"];
    let ip = items(&status["podIPs"]).first().map_or("", |ip| text(&ip["ip"]));
    let ip = if ip.is_empty() { text(&status["podIP"]) } else { ip };
    let gates = items(&pod["spec"]["readinessGates"]);
    let passed = gates
        .iter()
        .filter(|gate| {
            items(&status["conditions"]).iter().any(|c| c["type"] == gate["conditionType"] && c["status"] == "True")
        })
        .count();
    vec![
        name(pod),
        json!(format!("{}/{}", summary.ready, summary.total)),
        json!(summary.word),
        json!(restarts),
        age(pod, now),
        or_none(ip.to_owned()),
        or_none(text(&pod["spec"]["nodeName"]).to_owned()),
        or_none(text(&status["nominatedNodeName"]).to_owned()),
        or_none(if gates.is_empty() { String::new() } else { format!("{passed}/{}", gates.len()) }),
    ]
}

struct Summary {
    word: String,
    ready: usize,
    total: usize,
    restarts: i64,
    last_restart: Option<Timestamp>,
}

impl Summary {
    fn of(pod: &Value) -> Self {
        let (spec, status) = (&pod["spec"], &pod["status"]);
        let mut word = match text(&status["reason"]) {
            "" => text(&status["phase"]).to_owned(),
            reason => reason.to_owned(),
        };
        let conditions = items(&status["conditions"]);
        if conditions.iter().any(|c| c["type"] == "PodScheduled" && c["reason"] == "SchedulingGated") {
            word = "SchedulingGated".into();
        }
        let mut summary =
            Self { word, ready: 0, total: items(&spec["containers"]).len(), restarts: 0, last_restart: None };
        let initializing = summary.init_containers(spec, status);
        let initialized = conditions.iter().any(|c| c["type"] == "Initialized" && c["status"] == "True");
        if !initializing || initialized {
            summary.containers(status, conditions);
        }
        if !pod["metadata"]["deletionTimestamp"].is_null() {
            if status["reason"] == "NodeLost" {
                summary.word = "Unknown".into();
            } else if !matches!(text(&status["phase"]), "Succeeded" | "Failed") {
                summary.word = "Terminating".into();
            }
        }
        summary
    }

    fn restarted(&mut self, container: &Value) {
        self.restarts += number(&container["restartCount"]);
        let finished = text(&container["lastState"]["terminated"]["finishedAt"]).parse().ok();
        self.last_restart = self.last_restart.max(finished);
    }

    /// Whether an init container is what the pod waits for. Sidecars count among the pod's containers.
    fn init_containers(&mut self, spec: &Value, status: &Value) -> bool {
        let declared = items(&spec["initContainers"]);
        let is_sidecar = |name: &Value| declared.iter().any(|c| c["name"] == *name && c["restartPolicy"] == "Always");
        self.total += declared.iter().filter(|c| c["restartPolicy"] == "Always").count();
        let mut waiting = None;
        let (mut restarts, mut last) = (0, None);
        for (index, container) in items(&status["initContainerStatuses"]).iter().enumerate() {
            let sidecar = is_sidecar(&container["name"]);
            let state = &container["state"];
            restarts += number(&container["restartCount"]);
            last = last.max(text(&container["lastState"]["terminated"]["finishedAt"]).parse().ok());
            if sidecar {
                self.restarted(container);
            }
            if sidecar && container["started"] == true {
                self.ready += usize::from(container["ready"] == true);
                continue;
            }
            let terminated = &state["terminated"];
            if terminated.is_object() && number(&terminated["exitCode"]) == 0 {
                continue;
            }
            if waiting.is_none() {
                waiting = Some(if terminated.is_object() {
                    format!("Init:{}", ended(terminated))
                } else {
                    match text(&state["waiting"]["reason"]) {
                        "" | "PodInitializing" => format!("Init:{index}/{}", declared.len()),
                        reason => format!("Init:{reason}"),
                    }
                });
            }
        }
        let Some(word) = waiting else { return false };
        self.word = word;
        (self.restarts, self.last_restart) = (restarts, last);
        true
    }

    fn containers(&mut self, status: &Value, conditions: &[Value]) {
        let mut running = false;
        // Restarts of one-shot init containers stop counting once the pod runs.
        for container in items(&status["containerStatuses"]).iter().rev() {
            self.restarted(container);
            let state = &container["state"];
            if let Some(reason) = state["waiting"]["reason"].as_str().filter(|r| !r.is_empty()) {
                self.word = reason.into();
            } else if state["terminated"].is_object() {
                self.word = ended(&state["terminated"]);
            } else if container["ready"] == true && state["running"].is_object() {
                running = true;
                self.ready += 1;
            }
        }
        if self.word == "Completed" && running {
            let ready = conditions.iter().any(|c| c["type"] == "Ready" && c["status"] == "True");
            self.word = if ready { "Running" } else { "NotReady" }.into();
        }
    }
}

fn ended(terminated: &Value) -> String {
    match (text(&terminated["reason"]), number(&terminated["signal"])) {
        ("", 0) => format!("ExitCode:{}", number(&terminated["exitCode"])),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}
