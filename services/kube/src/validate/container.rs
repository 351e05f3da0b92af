//! Containers, init containers (sidecars among them) and ephemeral containers.

use galley_types::names;
use serde_json::{Value, json};

use super::{Errors, Get, Path, probe, resources};

/// Which list of the pod a container is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Main,
    Init,
    Ephemeral,
}

/// What containers are checked against.
pub(super) struct Pod<'v> {
    pub(super) spec: &'v Value,
    /// Names of its volumes.
    pub(super) volumes: &'v [&'v str],
}

/// All containers of a list. `names` gathers those of all lists, which share one namespace.
pub(super) fn containers<'v>(
    errors: &mut Errors,
    pod: &Pod<'_>,
    list: &'v [Value],
    kind: Kind,
    seen: &mut Vec<&'v str>,
    path: &Path<'_>,
) {
    for (at, item) in list.iter().enumerate() {
        let path = path.index(at);
        let name = item.text("name");
        container(errors, pod, item, &path);
        if !name.is_empty() && seen.contains(&name) {
            errors.duplicate(&path.field("name"), name);
        }
        seen.push(name);
        match kind {
            Kind::Main => main(errors, item, &path),
            Kind::Init => init(errors, item, &path),
            Kind::Ephemeral => ephemeral(errors, pod, item, &path),
        }
    }
}

fn probes(errors: &mut Errors, container: &Value, path: &Path<'_>) {
    for kind in ["livenessProbe", "readinessProbe", "startupProbe"] {
        probe::probe(errors, container.at(kind), kind, &path.field(kind));
    }
    if container.has("lifecycle") {
        probe::lifecycle(errors, container.at("lifecycle"), &path.field("lifecycle"));
    }
}

fn main(errors: &mut Errors, container: &Value, path: &Path<'_>) {
    probes(errors, container, path);
    let policy = container.text("restartPolicy");
    errors.maybe_one_of(&path.field("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
}

fn init(errors: &mut Errors, container: &Value, path: &Path<'_>) {
    let policy = container.text("restartPolicy");
    errors.maybe_one_of(&path.field("restartPolicy"), policy, &["Always", "Never", "OnFailure"]);
    if policy == "Always" {
        // A sidecar: it runs beside the main containers, so it may have what they have.
        return probes(errors, container, path);
    }
    for field in ["lifecycle", "livenessProbe", "readinessProbe", "startupProbe"] {
        if container.has(field) {
            errors.forbidden(&path.field(field), "may not be set for init containers without restartPolicy=Always");
        }
    }
}

fn ephemeral(errors: &mut Errors, pod: &Pod<'_>, container: &Value, path: &Path<'_>) {
    let target = container.text("targetContainerName");
    let named = |list: &str| pod.spec.list(list).iter().any(|c| c.text("name") == target);
    if !target.is_empty() && !named("containers") && !named("initContainers") {
        errors.not_found(&path.field("targetContainerName"), target);
    }
    for field in
        ["ports", "livenessProbe", "readinessProbe", "startupProbe", "lifecycle", "resizePolicy", "restartPolicy"]
    {
        if container.has(field) {
            errors.forbidden(&path.field(field), "cannot be set for an Ephemeral Container");
        }
    }
    if container.map("resources").is_some_and(|r| !r.is_empty()) {
        errors.forbidden(&path.field("resources"), "cannot be set for an Ephemeral Container");
    }
}

fn container(errors: &mut Errors, pod: &Pod<'_>, container: &Value, path: &Path<'_>) {
    errors.required_name(&path.field("name"), container.text("name"), names::dns1123_label);
    let image = container.text("image");
    if image.is_empty() {
        errors.required(&path.field("image"), "");
    } else if image.trim() != image {
        errors.invalid(&path.field("image"), image, "must not have leading or trailing whitespace");
    }
    errors.one_of(
        &path.field("terminationMessagePolicy"),
        container.text("terminationMessagePolicy"),
        &["FallbackToLogsOnError", "File"],
    );
    ports(errors, container.list("ports"), pod.spec.flag("hostNetwork"), &path.field("ports"));
    environment(errors, container.list("env"), &path.field("env"));
    env_from(errors, container.list("envFrom"), &path.field("envFrom"));
    mounts(errors, pod, container.list("volumeMounts"), &path.field("volumeMounts"));
    devices(errors, pod, container, path);
    errors.one_of(
        &path.field("imagePullPolicy"),
        container.text("imagePullPolicy"),
        &["Always", "IfNotPresent", "Never"],
    );
    resources::requirements(errors, container.at("resources"), &path.field("resources"));
    resize_policy(errors, container.list("resizePolicy"), &path.field("resizePolicy"));
    security_context(errors, container.at("securityContext"), &path.field("securityContext"));
}

fn ports(errors: &mut Errors, ports: &[Value], host_network: bool, path: &Path<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    let mut host_ports: Vec<String> = Vec::new();
    for (at, port) in ports.iter().enumerate() {
        let path = path.index(at);
        let name = port.text("name");
        if !name.is_empty() {
            errors.named(&path.field("name"), name, names::port_name(name));
            if seen.contains(&name) {
                errors.duplicate(&path.field("name"), name);
            }
            seen.push(name);
        }
        let number = port.int("containerPort").unwrap_or(0);
        if number == 0 {
            errors.required(&path.field("containerPort"), "");
        } else {
            errors.in_range(&path.field("containerPort"), number, 1, 65535);
        }
        if let Some(host) = port.int("hostPort").filter(|p| *p != 0) {
            errors.in_range(&path.field("hostPort"), host, 1, 65535);
            if host_network && host != number {
                errors.invalid(&path.field("hostPort"), host, "must match `containerPort` when `hostNetwork` is true");
            }
            let taken = format!("{}/{}/{host}", port.text("protocol"), port.text("hostIP"));
            if host_ports.contains(&taken) {
                errors.duplicate(&path.field("hostPort"), taken.as_str());
            }
            host_ports.push(taken);
        }
        errors.one_of(&path.field("protocol"), port.text("protocol"), &["SCTP", "TCP", "UDP"]);
    }
}

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

fn environment(errors: &mut Errors, env: &[Value], path: &Path<'_>) {
    for (at, variable) in env.iter().enumerate() {
        let path = path.index(at);
        let name = variable.text("name");
        if name.is_empty() {
            errors.required(&path.field("name"), "");
        } else {
            errors.named(&path.field("name"), name, names::env_var_name(name));
        }
        if variable.has("valueFrom") {
            value_from(errors, variable, &path.field("valueFrom"));
        }
    }
}

fn value_from(errors: &mut Errors, variable: &Value, path: &Path<'_>) {
    let source = variable.at("valueFrom");
    let mut count = 0;
    if source.has("fieldRef") {
        count += 1;
        field_ref(errors, source.at("fieldRef"), &path.field("fieldRef"), &ENV_FIELDS);
    }
    if source.has("resourceFieldRef") {
        count += 1;
        let reference = source.at("resourceFieldRef");
        errors.required_text(&path.field("resourceFieldRef").field("resource"), reference.text("resource"));
    }
    for kind in ["configMapKeyRef", "secretKeyRef"] {
        if source.has(kind) {
            count += 1;
            let (path, reference) = (path.field(kind), source.at(kind));
            errors.required_text(&path.field("name"), reference.text("name"));
            let key = reference.text("key");
            if key.is_empty() {
                errors.required(&path.field("key"), "");
            } else {
                errors.named(&path.field("key"), key, names::config_map_key(key));
            }
        }
    }
    if source.has("fileKeyRef") {
        count += 1;
    }
    match count {
        0 => errors.invalid(
            path,
            "",
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        ),
        _ if !variable.text("value").is_empty() => {
            errors.invalid(path, "", "may not be specified when `value` is not empty");
        }
        1 => {}
        _ => errors.invalid(path, "", "may not have more than one field specified at a time"),
    }
}

/// A reference to a field of the pod: one of `allowed`, or a label or annotation by key.
pub(super) fn field_ref(errors: &mut Errors, reference: &Value, path: &Path<'_>, allowed: &[&str]) {
    if reference.text("apiVersion").is_empty() {
        return errors.required(&path.field("apiVersion"), "");
    }
    let field = reference.text("fieldPath");
    if field.is_empty() {
        return errors.required(&path.field("fieldPath"), "");
    }
    let by_key =
        ["metadata.labels['", "metadata.annotations['"].iter().any(|p| field.starts_with(p) && field.ends_with("']"));
    if !by_key && !allowed.contains(&field) {
        let detail_path = path.field("fieldPath");
        if field.starts_with("metadata.") || field.starts_with("spec.") || field.starts_with("status.") {
            errors.not_supported(&detail_path, field, allowed);
        } else {
            errors.invalid(
                &detail_path,
                field,
                &format!("error converting fieldPath: field label not supported: {field}"),
            );
        }
    }
}

fn env_from(errors: &mut Errors, sources: &[Value], path: &Path<'_>) {
    for (at, source) in sources.iter().enumerate() {
        let path = path.index(at);
        let prefix = source.text("prefix");
        if !prefix.is_empty() {
            errors.named(&path.field("prefix"), prefix, names::env_var_name(prefix));
        }
        let mut count = 0;
        for kind in ["configMapRef", "secretRef"] {
            if source.has(kind) {
                count += 1;
                errors.required_text(&path.field(kind).field("name"), source.at(kind).text("name"));
            }
        }
        match count {
            0 => errors.invalid(&path, "", "must specify one of: `configMapRef` or `secretRef`"),
            1 => {}
            _ => errors.invalid(&path, "", "may not have more than one field specified at a time"),
        }
    }
}

fn mounts(errors: &mut Errors, pod: &Pod<'_>, mounts: &[Value], path: &Path<'_>) {
    let mut points: Vec<&str> = Vec::new();
    for (at, mount) in mounts.iter().enumerate() {
        let path = path.index(at);
        let name = mount.text("name");
        if name.is_empty() {
            errors.required(&path.field("name"), "");
        } else if !pod.volumes.contains(&name) {
            errors.not_found(&path.field("name"), name);
        }
        let point = mount.text("mountPath");
        errors.required_text(&path.field("mountPath"), point);
        if points.contains(&point) {
            errors.invalid(&path.field("mountPath"), point, "must be unique");
        }
        points.push(point);
        for field in ["subPath", "subPathExpr"] {
            let sub = mount.text(field);
            if sub.starts_with('/') {
                errors.invalid(&path.field(field), sub, "must be a relative path");
            }
            if sub.split('/').any(|part| part == "..") {
                errors.invalid(&path.field(field), sub, "must not contain '..'");
            }
        }
        if !mount.text("subPath").is_empty() && !mount.text("subPathExpr").is_empty() {
            errors.invalid(
                &path.field("subPathExpr"),
                mount.text("subPathExpr"),
                "subPathExpr and subPath are mutually exclusive",
            );
        }
        errors.maybe_one_of(
            &path.field("mountPropagation"),
            mount.text("mountPropagation"),
            &["Bidirectional", "HostToContainer", "None"],
        );
    }
}

fn devices(errors: &mut Errors, pod: &Pod<'_>, container: &Value, path: &Path<'_>) {
    let path = path.field("volumeDevices");
    for (at, device) in container.list("volumeDevices").iter().enumerate() {
        let path = path.index(at);
        let name = device.text("name");
        if name.is_empty() {
            errors.required(&path.field("name"), "");
        } else if !pod.volumes.contains(&name) {
            errors.not_found(&path.field("name"), name);
        }
        errors.required_text(&path.field("devicePath"), device.text("devicePath"));
    }
}

fn resize_policy(errors: &mut Errors, policies: &[Value], path: &Path<'_>) {
    let mut seen: Vec<&str> = Vec::new();
    for (at, policy) in policies.iter().enumerate() {
        let path = path.index(at);
        let name = policy.text("resourceName");
        if seen.contains(&name) {
            errors.duplicate(&path, name);
        }
        seen.push(name);
        errors.one_of(&path.field("resourceName"), name, &["cpu", "memory"]);
        errors.one_of(&path.field("restartPolicy"), policy.text("restartPolicy"), &["NotRequired", "RestartContainer"]);
    }
}

const ID_MAX: i64 = u32::MAX as i64;

fn security_context(errors: &mut Errors, context: &Value, path: &Path<'_>) {
    for field in ["runAsUser", "runAsGroup"] {
        if let Some(id) = context.int(field) {
            errors.in_range(&path.field(field), id, 0, ID_MAX);
        }
    }
    if let Some(mount) = context.at("procMount").as_str() {
        errors.one_of(&path.field("procMount"), mount, &["Default", "Unmasked"]);
    }
    seccomp(errors, context.at("seccompProfile"), &path.field("seccompProfile"));
    if context.at("allowPrivilegeEscalation") == &json!(false) {
        if context.flag("privileged") {
            errors.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
            );
        }
        let added = context.at("capabilities").list("add");
        if added.iter().any(|c| c == "CAP_SYS_ADMIN" || c == "SYS_ADMIN") {
            errors.invalid(
                path,
                context.clone(),
                "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
            );
        }
    }
}

fn seccomp(errors: &mut Errors, profile: &Value, path: &Path<'_>) {
    if profile.is_null() {
        return;
    }
    errors.one_of(&path.field("type"), profile.text("type"), &["Localhost", "RuntimeDefault", "Unconfined"]);
    let local = profile.has("localhostProfile");
    if profile.text("type") == "Localhost" && !local {
        errors.required(&path.field("localhostProfile"), "must be set when seccomp type is Localhost");
    } else if profile.text("type") != "Localhost" && local {
        errors.invalid(
            &path.field("localhostProfile"),
            profile.at("localhostProfile").clone(),
            "can only be set when seccomp type is Localhost",
        );
    }
}

/// `securityContext` of a pod.
pub(super) fn pod_security_context(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let context = spec.at("securityContext");
    for field in ["runAsUser", "runAsGroup", "fsGroup"] {
        if let Some(id) = context.int(field) {
            errors.in_range(&path.field(field), id, 0, ID_MAX);
        }
    }
    let groups = path.field("supplementalGroups");
    for (at, id) in context.list("supplementalGroups").iter().enumerate() {
        errors.in_range(&groups.index(at), id.as_i64().unwrap_or(0), 0, ID_MAX);
    }
    if let Some(policy) = context.at("fsGroupChangePolicy").as_str() {
        errors.one_of(&path.field("fsGroupChangePolicy"), policy, &["Always", "OnRootMismatch"]);
    }
    seccomp(errors, context.at("seccompProfile"), &path.field("seccompProfile"));
    let sysctls = path.field("sysctls");
    let mut seen: Vec<&str> = Vec::new();
    for (at, sysctl) in context.list("sysctls").iter().enumerate() {
        let path = sysctls.index(at).field("name").to_string();
        let (path, name) = (Path::root(&path), sysctl.text("name"));
        if name.is_empty() {
            errors.required(&path, "");
        } else if seen.contains(&name) {
            errors.duplicate(&path, name);
        }
        seen.push(name);
    }
}
