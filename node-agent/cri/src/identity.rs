//! As whom a container runs, and whether `runAsNonRoot` allows it.

use k8s_openapi::api::core::v1::{Container, Pod};

/// The user that an image names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageUser {
    pub uid: Option<i64>,
    pub username: String,
}

/// `runAsNonRoot` forbids it; the text is the message of `CreateContainerConfigError`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    #[error("container's runAsUser breaks non-root policy (pod: \"{pod}\", container: {container})")]
    AskedForRoot { pod: String, container: String },
    #[error("container has runAsNonRoot and image will run as root (pod: \"{pod}\", container: {container})")]
    ImageIsRoot { pod: String, container: String },
    #[error(
        "container has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root (pod: \"{pod}\", container: {container})"
    )]
    UnknownUser { user: String, pod: String, container: String },
}

/// The uid to run as, if the pod says one; checked against `runAsNonRoot`.
pub fn run_as(pod: &Pod, container: &Container, image: &ImageUser) -> Result<Option<i64>, IdentityError> {
    let of_pod = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
    let own = container.security_context.as_ref();
    let user = own.and_then(|c| c.run_as_user).or_else(|| of_pod.and_then(|c| c.run_as_user));
    let non_root = own.and_then(|c| c.run_as_non_root).or_else(|| of_pod.and_then(|c| c.run_as_non_root));
    if non_root != Some(true) {
        return Ok(user);
    }
    let meta = &pod.metadata;
    let pod_name = format!(
        "{}_{}({})",
        meta.name.as_deref().unwrap_or_default(),
        meta.namespace.as_deref().unwrap_or_default(),
        meta.uid.as_deref().unwrap_or_default()
    );
    let (pod, container) = (pod_name, container.name.clone());
    match (user, image.uid, image.username.as_str()) {
        (Some(0), _, _) => Err(IdentityError::AskedForRoot { pod, container }),
        (Some(user), _, _) => Ok(Some(user)),
        (None, Some(0), _) | (None, None, "") => Err(IdentityError::ImageIsRoot { pod, container }),
        (None, Some(_), _) => Ok(None),
        (None, None, user) => Err(IdentityError::UnknownUser { user: user.into(), pod, container }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn root_is_refused_where_the_pod_says_non_root() {
        let pod = |user: serde_json::Value| -> Pod {
            serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"},
                "spec": {"securityContext": {"runAsNonRoot": true, "runAsUser": user}, "containers": [{"name": "c"}]}}))
            .unwrap()
        };
        let check = |user: serde_json::Value, image: ImageUser| {
            let p = pod(user);
            let c = p.spec.as_ref().unwrap().containers[0].clone();
            run_as(&p, &c, &image).map_err(|e| e.to_string())
        };
        assert!(check(json!(0), ImageUser::default()).is_err());
        assert_eq!(check(json!(7), ImageUser::default()), Ok(Some(7)));
        assert_eq!(
            check(json!(null), ImageUser::default()).unwrap_err(),
            "container has runAsNonRoot and image will run as root (pod: \"p_n(u)\", container: c)"
        );
        assert_eq!(check(json!(null), ImageUser { uid: Some(65532), username: String::new() }), Ok(None));
        assert!(check(json!(null), ImageUser { uid: None, username: "app".into() }).is_err());
    }
}
