//! Reviews: questions in the shape of objects. Nothing is stored; the answer is the object with its status filled in.

use galley_authz::{Actor, Attributes, Target};
use galley_kube::{Resource, Status};
use galley_pipeline::ClusterApi;
use http::{Request, Response, StatusCode};
use serde_json::{Value, json};

use super::Call;
use super::respond::{self, Style};
use crate::body::Body;

/// Whether a resource is a question.
pub fn is_review(resource: &Resource) -> bool {
    matches!(resource.group.as_str(), "authentication.k8s.io" | "authorization.k8s.io")
}

/// Answers a review.
pub async fn answer(
    call: &Call,
    resource: &Resource,
    namespace: &str,
    request: Request<Body>,
    style: Style,
) -> Result<Response<Body>, Status> {
    let mut review = respond::tree(&call.flow, request).await?;
    if !review.is_object() {
        return Err(Status::bad_request(format!("the body is no {}", resource.kind)));
    }
    let Call { api, actor, tokens, .. } = call;
    let spec = review.get("spec").cloned().unwrap_or_default();
    let status = match resource.plural.as_str() {
        "selfsubjectaccessreviews" => access(api, actor, &spec)?,
        "subjectaccessreviews" => access(api, &subject(&spec), &spec)?,
        "localsubjectaccessreviews" => {
            let asked = spec.pointer("/resourceAttributes/namespace").and_then(Value::as_str).unwrap_or_default();
            if asked != namespace {
                return Err(Status::bad_request(
                    "spec.resourceAttributes.namespace must match the namespace of the request",
                ));
            }
            access(api, &subject(&spec), &spec)?
        }
        "selfsubjectrulesreviews" => {
            rules(api, actor, spec.get("namespace").and_then(Value::as_str).unwrap_or_default())
        }
        "selfsubjectreviews" => json!({"userInfo": user_info(actor)}),
        "tokenreviews" => {
            let token = spec.get("token").and_then(Value::as_str).unwrap_or_default();
            let audiences: Vec<String> = spec
                .get("audiences")
                .and_then(Value::as_array)
                .into_iter()
                .flatten()
                .filter_map(|audience| audience.as_str().map(str::to_owned))
                .collect();
            match tokens.authenticate(token, &audiences) {
                Ok((actor, audiences)) => {
                    json!({"authenticated": true, "user": user_info(&actor), "audiences": audiences})
                }
                Err(error) => json!({"user": {}, "error": error.to_string()}),
            }
        }
        _ => return Err(respond::not_found()),
    };
    review["kind"] = json!(resource.kind);
    review["apiVersion"] = json!(resource.api_version());
    if review.get("metadata").is_none() {
        review["metadata"] = json!({"creationTimestamp": null});
    }
    review["status"] = status;
    Ok(style.value(StatusCode::CREATED, &review))
}

/// The user that an access review asks about.
fn subject(spec: &Value) -> Actor {
    let texts = |value: Option<&Value>| -> Vec<String> {
        value.and_then(Value::as_array).into_iter().flatten().filter_map(|t| t.as_str().map(str::to_owned)).collect()
    };
    let text = |key: &str| spec.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let extra = spec.get("extra").and_then(Value::as_object).into_iter().flatten();
    Actor {
        username: text("user"),
        uid: text("uid"),
        groups: texts(spec.get("groups")),
        extra: extra.map(|(key, value)| (key.clone(), texts(Some(value)))).collect(),
    }
}

fn access(api: &ClusterApi, actor: &Actor, spec: &Value) -> Result<Value, Status> {
    let part = |pointer: &str| spec.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let resource = spec.get("resourceAttributes").is_some_and(Value::is_object);
    let path = spec.get("nonResourceAttributes").is_some_and(Value::is_object);
    if resource == path {
        return Err(Status::bad_request(
            "exactly one of nonResourceAttributes or resourceAttributes must be specified",
        ));
    }
    let (verb, target) = if resource {
        let target = Target::Resource {
            group: part("/resourceAttributes/group"),
            resource: part("/resourceAttributes/resource"),
            subresource: part("/resourceAttributes/subresource"),
            namespace: part("/resourceAttributes/namespace"),
            name: part("/resourceAttributes/name"),
            selected: &[],
        };
        (part("/resourceAttributes/verb"), target)
    } else {
        (part("/nonResourceAttributes/verb"), Target::Path(part("/nonResourceAttributes/path")))
    };
    let decision = api.authorize(&Attributes { actor, verb, target });
    let mut status = json!({"allowed": decision.is_allowed()});
    if !decision.reason().is_empty() {
        status["reason"] = json!(decision.reason());
    }
    Ok(status)
}

fn rules(api: &ClusterApi, actor: &Actor, namespace: &str) -> Value {
    let (mut resources, mut paths) = (Vec::new(), Vec::new());
    for rule in api.rules_of(actor, namespace) {
        if rule.resources.as_ref().is_some_and(|list| !list.is_empty()) {
            let mut told = json!({"verbs": rule.verbs, "apiGroups": rule.api_groups, "resources": rule.resources});
            if let Some(names) = rule.resource_names.filter(|names| !names.is_empty()) {
                told["resourceNames"] = json!(names);
            }
            resources.push(told);
        }
        if let Some(urls) = rule.non_resource_urls.filter(|urls| !urls.is_empty()) {
            paths.push(json!({"verbs": rule.verbs, "nonResourceURLs": urls}));
        }
    }
    json!({"resourceRules": resources, "nonResourceRules": paths, "incomplete": false})
}

fn user_info(actor: &Actor) -> Value {
    let mut user = json!({"username": actor.username, "groups": actor.groups});
    if !actor.uid.is_empty() {
        user["uid"] = json!(actor.uid);
    }
    if !actor.extra.is_empty() {
        user["extra"] = json!(actor.extra);
    }
    user
}
