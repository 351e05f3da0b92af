//! Which of a tenant's levels a request belongs to, after Kubernetes' suggested FlowSchemas. `system:masters` is not exempt
//! here: on a shared control plane every tenant's administrator is in it.

use galley_authz::Actor;
use galley_fair::Level;

/// The level of a caller's requests.
pub fn of(actor: &Actor) -> Level {
    let is_in = |group: &str| actor.groups.iter().any(|member| member == group);
    if actor.node().is_some() {
        return Level::Nodes;
    }
    match actor.service_account() {
        Some(("kube-system", _)) => return Level::System,
        Some(_) => return Level::Workloads,
        None => {}
    }
    match actor.username.as_str() {
        "system:kube-scheduler" | "system:kube-controller-manager" => Level::System,
        _ if is_in("system:unauthenticated") => Level::Anonymous,
        _ => Level::Users,
    }
}

/// What is answered before everything else, as the FlowSchema `probes` has it: whether the server lives must be known when it
/// is busy.
pub fn is_exempt(path: &str) -> bool {
    let first = path.trim_start_matches('/').split('/').next().unwrap_or_default();
    matches!(first, "healthz" | "livez" | "readyz")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn callers_have_levels() {
        for (user, group, level) in [
            ("system:node:a", "system:nodes", Level::Nodes),
            ("system:node:a", "system:authenticated", Level::Users),
            ("system:serviceaccount:kube-system:autoscaler", "system:serviceaccounts", Level::System),
            ("system:kube-scheduler", "system:authenticated", Level::System),
            ("system:serviceaccount:default:app", "system:serviceaccounts", Level::Workloads),
            ("jane", "system:authenticated", Level::Users),
            ("admin", "system:masters", Level::Users),
            ("system:anonymous", "system:unauthenticated", Level::Anonymous),
        ] {
            let actor = Actor { username: user.into(), groups: vec![group.into()], ..Actor::default() };
            assert_eq!(of(&actor), level, "{user} in {group}");
        }
    }

    #[test]
    fn probes_are_exempt() {
        for (path, exempt) in
            [("/healthz", true), ("/readyz/ping", true), ("/livez", true), ("/api/v1/pods", false), ("/", false)]
        {
            assert_eq!(is_exempt(path), exempt, "{path}");
        }
    }
}
