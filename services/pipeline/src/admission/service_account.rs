//! ServiceAccount: a pod runs as an account that exists, and finds that account's token, the cluster's CA and its
//! namespace where client libraries look for them.

use galley_kube::Status;
use serde_json::{Value, json};

use crate::admission::Request;
use crate::value::{array, array_mut, at, map_at, object_mut, root, text};

/// Where client libraries look.
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// An hour and seven seconds: long enough that a kubelet which renews at 80 % never serves an expired one, and the odd
/// seven tell legacy clients' extended tokens apart.
const TOKEN_SECONDS: i64 = 3607;
/// Marks the static pods that a kubelet mirrors into the API.
const MIRROR: &str = "/metadata/annotations/kubernetes.io~1config.mirror";

/// The account that a pod asks for.
pub fn name(pod: &Value) -> &str {
    match (text(pod, "/spec/serviceAccountName"), text(pod, "/spec/serviceAccount")) {
        ("", "") => "default",
        ("", legacy) => legacy,
        (name, _) => name,
    }
}

pub(super) fn admit(
    request: &Request<'_>,
    pod: &mut Value,
    account: Option<&Value>,
    suffix: &str,
) -> Result<(), Status> {
    if pod.pointer(MIRROR).is_some() {
        return match text(pod, "/spec/serviceAccountName") {
            "" => Ok(()),
            _ => Err(request.forbidden("a mirror pod may not reference service accounts")),
        };
    }
    let Some(account) = account else {
        let (namespace, name) = (request.namespace, name(pod));
        return Err(request.forbidden(&format!(
            "error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        )));
    };
    use_account(pod, account, suffix);
    Ok(())
}

fn use_account(pod: &mut Value, account: &Value, suffix: &str) {
    let name = name(pod).to_owned();
    let automount = at(pod, "/spec/automountServiceAccountToken")
        .or_else(|| account.get("automountServiceAccountToken"))
        .and_then(Value::as_bool)
        .unwrap_or(true);
    let secrets = account.get("imagePullSecrets").filter(|secrets| secrets.as_array().is_some_and(|s| !s.is_empty()));
    let spec = map_at(pod, &["spec"]);
    spec.insert("serviceAccountName".into(), json!(name));
    spec.insert("serviceAccount".into(), json!(name));
    if spec.get("imagePullSecrets").and_then(Value::as_array).is_none_or(Vec::is_empty)
        && let Some(secrets) = secrets
    {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    if automount {
        mount_token(pod, suffix);
    }
}

fn mount_token(pod: &mut Value, suffix: &str) {
    let existing = array(pod, "/spec/volumes")
        .iter()
        .map(|volume| text(volume, "/name"))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned);
    let volume = existing.clone().unwrap_or_else(|| format!("{VOLUME_PREFIX}{suffix}"));
    let mut used = false;
    let spec = map_at(pod, &["spec"]);
    for list in ["initContainers", "containers"] {
        let Some(Value::Array(containers)) = spec.get_mut(list) else { continue };
        for container in containers {
            let mounts = array_mut(root(container), "volumeMounts");
            if mounts.iter().any(|mount| text(mount, "/mountPath") == MOUNT_PATH) {
                continue;
            }
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
            used = true;
        }
    }
    if used && existing.is_none() {
        array_mut(spec, "volumes").push(token_volume(&volume));
    }
}

fn token_volume(name: &str) -> Value {
    json!({"name": name, "projected": {"defaultMode": 420, "sources": [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace",
            "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
    ]}})
}

/// Ephemeral containers see what the pod's others see.
pub fn mount_in_ephemeral(pod: &mut Value) {
    let Some(volume) = array(pod, "/spec/volumes")
        .iter()
        .map(|volume| text(volume, "/name"))
        .find(|name| name.starts_with(VOLUME_PREFIX))
        .map(str::to_owned)
    else {
        return;
    };
    let spec = object_mut(root(pod), "spec");
    let Some(Value::Array(containers)) = spec.get_mut("ephemeralContainers") else { return };
    for container in containers {
        let mounts = array_mut(root(container), "volumeMounts");
        if !mounts.iter().any(|mount| text(mount, "/mountPath") == MOUNT_PATH) {
            mounts.push(json!({"name": volume, "readOnly": true, "mountPath": MOUNT_PATH}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_container_finds_the_token() {
        let mut pod = json!({"spec": {"containers": [{"name": "a"}, {"name": "b", "volumeMounts": [
            {"name": "mine", "mountPath": MOUNT_PATH}]}], "initContainers": [{"name": "i"}]}});
        use_account(&mut pod, &json!({"imagePullSecrets": [{"name": "regcred"}]}), "abcde");
        assert_eq!(pod["spec"]["serviceAccountName"], "default");
        assert_eq!(pod["spec"]["imagePullSecrets"][0]["name"], "regcred");
        assert_eq!(pod["spec"]["volumes"][0]["name"], "kube-api-access-abcde");
        assert_eq!(pod["spec"]["containers"][0]["volumeMounts"][0]["mountPath"], MOUNT_PATH);
        assert_eq!(pod["spec"]["containers"][1]["volumeMounts"].as_array().map(Vec::len), Some(1));
        assert_eq!(pod["spec"]["initContainers"][0]["volumeMounts"][0]["name"], "kube-api-access-abcde");
    }

    #[test]
    fn the_pods_automount_beats_the_accounts() {
        for (pod, account, mounted) in [
            (json!({}), json!({}), true),
            (json!({}), json!({"automountServiceAccountToken": false}), false),
            (json!({"automountServiceAccountToken": true}), json!({"automountServiceAccountToken": false}), true),
            (json!({"automountServiceAccountToken": false}), json!({}), false),
        ] {
            let mut pod = json!({"spec": pod});
            map_at(&mut pod, &["spec"]).insert("containers".into(), json!([{"name": "a"}]));
            use_account(&mut pod, &account, "abcde");
            assert_eq!(pod.pointer("/spec/volumes").is_some(), mounted, "{pod} {account}");
        }
    }
}
