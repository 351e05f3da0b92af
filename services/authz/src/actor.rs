//! The authenticated caller of a cluster's API.

use std::collections::BTreeMap;

/// A user as Kubernetes knows one. Made by authentication only (and by controllers for themselves).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Actor {
    /// `system:serviceaccount:default:default`, `system:node:node-1`, `jane@example.com`.
    pub username: String,
    /// `user.uid`, may be empty.
    pub uid: String,
    /// Groups, `system:authenticated` among them for whoever proved an identity.
    pub groups: Vec<String>,
    /// Further attributes.
    pub extra: BTreeMap<String, Vec<String>>,
}

impl Actor {
    /// A controller of the control plane: in `system:masters`, named so that audit and events tell which.
    pub fn controller(name: &str) -> Self {
        Self {
            username: format!("system:serviceaccount:kube-system:{name}"),
            uid: String::new(),
            groups: vec!["system:masters".into(), "system:serviceaccounts".into(), "system:authenticated".into()],
            extra: BTreeMap::new(),
        }
    }

    /// The node that this is, for a kubelet's credential: `system:node:NAME` in the group `system:nodes`.
    pub fn node(&self) -> Option<&str> {
        let name = self.username.strip_prefix("system:node:").filter(|name| !name.is_empty())?;
        self.groups.iter().any(|group| group == "system:nodes").then_some(name)
    }

    /// The service account that this is: namespace and name.
    pub fn service_account(&self) -> Option<(&str, &str)> {
        self.username.strip_prefix("system:serviceaccount:")?.split_once(':')
    }
}
