//! RBAC's own admission: nobody grants what he does not have, unless he holds the verbs `escalate` or `bind`, so that the
//! right to write roles is not the right to everything.

use galley_authz::rbac::{self, MASTERS};
use galley_authz::{Attributes, Target};
use galley_kube::Status;
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde_json::Value;

use crate::admission::Request;

const GROUP: &str = "rbac.authorization.k8s.io";

pub(super) fn admit(request: &Request<'_>, old: Option<&Value>, new: &Value) -> Result<(), Status> {
    if request.resource.group != GROUP || request.actor.groups.iter().any(|group| group == MASTERS) {
        return Ok(());
    }
    let unchanged = |key: &str| old.is_some_and(|old| old.get(key) == new.get(key));
    let wanted = match request.resource.plural.as_str() {
        "roles" | "clusterroles" => {
            if (unchanged("rules") && unchanged("aggregationRule")) || may(request, "escalate", request.name) {
                return Ok(());
            }
            let aggregates =
                new.get("aggregationRule").is_some_and(|rule| !rule.is_null()) && !unchanged("aggregationRule");
            if aggregates {
                // Whoever aggregates may get any rule that anybody labels so.
                vec![everything()]
            } else {
                serde_json::from_value::<Option<Vec<PolicyRule>>>(new.get("rules").cloned().unwrap_or_default())
                    .map_err(Status::internal)?
                    .unwrap_or_default()
            }
        }
        "rolebindings" | "clusterrolebindings" => {
            if unchanged("subjects") && unchanged("roleRef") {
                return Ok(());
            }
            let role: RoleRef =
                serde_json::from_value(new.get("roleRef").cloned().unwrap_or_default()).map_err(Status::internal)?;
            if may_bind(request, &role) {
                return Ok(());
            }
            rbac::rules_of_role(request.api, &role, request.namespace)
                .map_err(|_| Status::not_found(GROUP, role_plural(&role), &role.name))?
        }
        _ => return Ok(()),
    };
    let owned = rbac::rules_of(request.api, request.actor, request.namespace);
    let missing = rbac::uncovered(&owned, &wanted);
    if missing.is_empty() {
        return Ok(());
    }
    let actor = request.actor;
    let missing: Vec<String> = missing.iter().map(rbac::describe).collect();
    Err(request.forbidden(&format!(
        "user {:?} (groups={}) is attempting to grant RBAC permissions not currently held:\n{}",
        actor.username,
        serde_json::to_string(&actor.groups).unwrap_or_default().replace(',', " "),
        missing.join("\n")
    )))
}

fn everything() -> PolicyRule {
    let all = || vec!["*".to_owned()];
    PolicyRule { api_groups: Some(all()), resources: Some(all()), verbs: all(), ..PolicyRule::default() }
}

fn role_plural(role: &RoleRef) -> &'static str {
    if role.kind == "Role" { "roles" } else { "clusterroles" }
}

fn may(request: &Request<'_>, verb: &str, name: &str) -> bool {
    allowed(request, verb, &request.resource.plural, name)
}

fn may_bind(request: &Request<'_>, role: &RoleRef) -> bool {
    allowed(request, "bind", role_plural(role), &role.name)
}

fn allowed(request: &Request<'_>, verb: &str, resource: &str, name: &str) -> bool {
    let target =
        Target::Resource { group: GROUP, resource, subresource: "", namespace: request.namespace, name, selected: &[] };
    request.api.authorize(&Attributes { actor: request.actor, verb, target }).is_allowed()
}
