//! Defaults of pods and pod templates.

use serde_json::{Map, Value};

use super::{child, empty, get, items, set, text};

type Object = Map<String, Value>;

/// A Pod: a template's defaults, and some that only pods get.
pub(super) fn pod(object: &mut Object) {
    let spec = child(object, "spec");
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            requests_from_limits(container);
        }
    }
    if get(spec, "resources").is_some() {
        requests_from_limits(spec);
    }
    set(spec, "enableServiceLinks", true);
    pod_spec(spec);
}

/// The `template` (or for a PodTemplate, the object's own `template`) of a workload.
pub fn pod_template(owner: &mut Object) {
    let template = child(owner, "template");
    child(template, "metadata");
    pod_spec(child(template, "spec"));
}

pub(super) fn pod_spec(spec: &mut Object) {
    set(spec, "dnsPolicy", "ClusterFirst");
    set(spec, "restartPolicy", "Always");
    set(spec, "securityContext", empty());
    set(spec, "terminationGracePeriodSeconds", 30);
    set(spec, "schedulerName", "default-scheduler");
    // The deprecated name of the field mirrors the new one.
    let account = match text(spec, "serviceAccountName") {
        "" => text(spec, "serviceAccount").to_owned(),
        name => name.to_owned(),
    };
    if !account.is_empty() {
        spec.insert("serviceAccount".into(), account.as_str().into());
        spec.insert("serviceAccountName".into(), account.into());
    }
    let host_network = spec.get("hostNetwork") == Some(&Value::Bool(true));
    for list in ["containers", "initContainers", "ephemeralContainers"] {
        for item in items(spec, list) {
            container(item, host_network && list != "ephemeralContainers");
        }
    }
    for item in items(spec, "volumes") {
        volume(item);
    }
}

fn requests_from_limits(container: &mut Object) {
    let Some(resources) = get(container, "resources") else { return };
    let Some(limits) = get(resources, "limits").cloned() else { return };
    let requests = child(resources, "requests");
    for (name, limit) in limits {
        requests.entry(name).or_insert(limit);
    }
}

fn container(container: &mut Object, host_network: bool) {
    let pull_policy = image_pull_policy(text(container, "image"));
    set(container, "imagePullPolicy", pull_policy);
    set(container, "terminationMessagePath", "/dev/termination-log");
    set(container, "terminationMessagePolicy", "File");
    set(container, "resources", empty());
    for port in items(container, "ports") {
        set(port, "protocol", "TCP");
        if host_network && let Some(number) = port.get("containerPort").cloned() {
            set(port, "hostPort", number);
        }
    }
    for variable in items(container, "env") {
        if let Some(field) = get(variable, "valueFrom").and_then(|from| get(from, "fieldRef")) {
            set(field, "apiVersion", "v1");
        }
    }
    for name in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(probe) = get(container, name) {
            set(probe, "timeoutSeconds", 1);
            set(probe, "periodSeconds", 10);
            set(probe, "successThreshold", 1);
            set(probe, "failureThreshold", 3);
            http_get(probe);
            if let Some(grpc) = get(probe, "grpc") {
                set(grpc, "service", "");
            }
        }
    }
    if let Some(lifecycle) = get(container, "lifecycle") {
        for hook in ["postStart", "preStop"] {
            if let Some(hook) = get(lifecycle, hook) {
                http_get(hook);
            }
        }
    }
}

fn http_get(handler: &mut Object) {
    if let Some(http) = get(handler, "httpGet") {
        set(http, "path", "/");
        set(http, "scheme", "HTTP");
    }
}

/// `Always` for images that may change under their name: the tag `latest`, or no tag and no digest.
pub fn image_pull_policy(image: &str) -> &'static str {
    let (name, digest) = image.split_once('@').map_or((image, false), |(name, _)| (name, true));
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, "latest")) => "Always",
        Some(_) => "IfNotPresent",
        None if digest => "IfNotPresent",
        None => "Always",
    }
}

pub(super) fn volume(volume: &mut Object) {
    const MODE: i32 = 0o644;
    if volume.len() == usize::from(volume.contains_key("name")) {
        volume.insert("emptyDir".into(), empty());
    }
    for source in ["secret", "configMap", "downwardAPI", "projected"] {
        if let Some(source) = get(volume, source) {
            set(source, "defaultMode", MODE);
        }
    }
    if let Some(source) = get(volume, "downwardAPI") {
        downward_items(source);
    }
    if let Some(projected) = get(volume, "projected") {
        for source in items(projected, "sources") {
            if let Some(token) = get(source, "serviceAccountToken") {
                set(token, "expirationSeconds", 3600);
            }
            if let Some(downward) = get(source, "downwardAPI") {
                downward_items(downward);
            }
        }
    }
    if let Some(template) = get(volume, "ephemeral").and_then(|e| get(e, "volumeClaimTemplate")) {
        set(child(template, "spec"), "volumeMode", "Filesystem");
    }
    source_defaults(volume);
}

/// Volume sources that pods and PersistentVolumes share.
pub(super) fn source_defaults(volume: &mut Object) {
    for (source, field, default) in [
        ("hostPath", "type", ""),
        ("iscsi", "iscsiInterface", "default"),
        ("rbd", "pool", "rbd"),
        ("rbd", "user", "admin"),
        ("rbd", "keyring", "/etc/ceph/keyring"),
        ("azureDisk", "cachingMode", "ReadWrite"),
        ("azureDisk", "fsType", "ext4"),
        ("azureDisk", "kind", "Shared"),
        ("scaleIO", "storageMode", "ThinProvisioned"),
        ("scaleIO", "fsType", "xfs"),
    ] {
        if let Some(source) = get(volume, source) {
            set(source, field, default);
        }
    }
    if let Some(disk) = get(volume, "azureDisk") {
        set(disk, "readOnly", false);
    }
}

fn downward_items(source: &mut Object) {
    for item in items(source, "items") {
        if let Some(field) = get(item, "fieldRef") {
            set(field, "apiVersion", "v1");
        }
    }
}
