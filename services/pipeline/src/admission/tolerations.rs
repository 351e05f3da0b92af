//! DefaultTolerationSeconds: a pod stays five minutes on a node that is not ready or not reachable, unless it says
//! otherwise.

use serde_json::{Value, json};

use crate::value::{array_mut, map_at, text};

/// How long a pod tolerates a lost node by default, in seconds.
const SECONDS: i64 = 300;

/// Adds the two tolerations that are missing.
pub fn admit(pod: &mut Value) {
    let tolerations = array_mut(map_at(pod, &["spec"]), "tolerations");
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|toleration| {
            matches!(text(toleration, "/effect"), "" | "NoExecute")
                && (text(toleration, "/key") == key
                    || (text(toleration, "/key").is_empty() && text(toleration, "/operator") == "Exists"))
        });
        if !tolerated {
            tolerations.push(json!({"key": key, "operator": "Exists", "effect": "NoExecute",
                "tolerationSeconds": SECONDS}));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_that_tolerates_everything_gets_nothing_more() {
        let mut pod = json!({"spec": {"tolerations": [{"operator": "Exists"}]}});
        admit(&mut pod);
        assert_eq!(pod["spec"]["tolerations"].as_array().map(Vec::len), Some(1));
        let mut plain = json!({"spec": {}});
        admit(&mut plain);
        admit(&mut plain);
        assert_eq!(plain["spec"]["tolerations"].as_array().map(Vec::len), Some(2));
        assert_eq!(plain["spec"]["tolerations"][0]["tolerationSeconds"], 300);
    }
}
