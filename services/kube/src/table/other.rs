//! Rows of networking, RBAC, storage and extension kinds.

use serde_json::{Value, json};

use super::core::first_few;
use super::{Entry, age, items, label_selector, name, number, or_none, text};

pub(super) const INGRESS: Entry = (
    &[
        ("Name", "string"),
        ("Class", "string"),
        ("Hosts", "string"),
        ("Address", "string"),
        ("Ports", "string"),
        ("Age", "string"),
    ],
    |ingress, now| {
        let spec = &ingress["spec"];
        let hosts: Vec<String> =
            items(&spec["rules"]).iter().map(|r| text(&r["host"]).to_owned()).filter(|h| !h.is_empty()).collect();
        let hosts = if hosts.is_empty() { "*".into() } else { first_few(&hosts) };
        let addresses: Vec<&str> = items(&ingress["status"]["loadBalancer"]["ingress"])
            .iter()
            .map(|i| if text(&i["ip"]).is_empty() { text(&i["hostname"]) } else { text(&i["ip"]) })
            .collect();
        let ports = if items(&spec["tls"]).is_empty() { "80" } else { "80, 443" };
        vec![
            name(ingress),
            or_none(text(&spec["ingressClassName"]).to_owned()),
            json!(hosts),
            json!(addresses.join(",")),
            json!(ports),
            age(ingress, now),
        ]
    },
);

pub(super) const INGRESS_CLASS: Entry =
    (&[("Name", "string"), ("Controller", "string"), ("Parameters", "string"), ("Age", "string")], |class, now| {
        let p = &class["spec"]["parameters"];
        let parameters = if p.is_object() {
            let kind = match text(&p["apiGroup"]) {
                "" => text(&p["kind"]).to_owned(),
                group => format!("{}.{group}", text(&p["kind"])),
            };
            format!("{kind}/{}", text(&p["name"]))
        } else {
            String::new()
        };
        vec![name(class), class["spec"]["controller"].clone(), or_none(parameters), age(class, now)]
    });

pub(super) const NETWORK_POLICY: Entry =
    (&[("Name", "string"), ("Pod-Selector", "string"), ("Age", "string")], |policy, now| {
        vec![name(policy), label_selector(&policy["spec"]["podSelector"]), age(policy, now)]
    });

pub(super) const ENDPOINT_SLICE: Entry = (
    &[("Name", "string"), ("AddressType", "string"), ("Ports", "string"), ("Endpoints", "string"), ("Age", "string")],
    |slice, now| {
        let few = |all: Vec<String>| if all.is_empty() { "<unset>".into() } else { first_few(&all) };
        let ports = items(&slice["ports"])
            .iter()
            .map(|p| match (number(&p["port"]), text(&p["name"])) {
                (0, "") => "*".into(),
                (0, name) => name.to_owned(),
                (port, _) => port.to_string(),
            })
            .collect();
        let addresses = items(&slice["endpoints"])
            .iter()
            .flat_map(|e| items(&e["addresses"]))
            .map(|a| text(a).to_owned())
            .collect();
        vec![name(slice), slice["addressType"].clone(), json!(few(ports)), json!(few(addresses)), age(slice, now)]
    },
);

pub(super) const LEASE: Entry = (&[("Name", "string"), ("Holder", "string"), ("Age", "string")], |lease, now| {
    vec![name(lease), json!(text(&lease["spec"]["holderIdentity"])), age(lease, now)]
});

const BINDING_COLUMNS: &[(&str, &str)] = &[
    ("Name", "string"),
    ("Role", "string"),
    ("Age", "string"),
    ("Users*", "string"),
    ("Groups*", "string"),
    ("ServiceAccounts*", "string"),
];

pub(super) const ROLE_BINDING: Entry = (BINDING_COLUMNS, |binding, now| {
    let role = &binding["roleRef"];
    let mut row =
        vec![name(binding), json!(format!("{}/{}", text(&role["kind"]), text(&role["name"]))), age(binding, now)];
    row.extend(subjects(binding));
    row
});

pub(super) const CLUSTER_ROLE_BINDING: Entry = ROLE_BINDING;

fn subjects(binding: &Value) -> Vec<Value> {
    let of = |kind: &str| {
        let names: Vec<String> = items(&binding["subjects"])
            .iter()
            .filter(|s| s["kind"] == kind)
            .map(|s| match text(&s["namespace"]) {
                "" => text(&s["name"]).to_owned(),
                namespace => format!("{namespace}/{}", text(&s["name"])),
            })
            .collect();
        json!(names.join(", "))
    };
    vec![of("User"), of("Group"), of("ServiceAccount")]
}

pub(super) const STORAGE_CLASS: Entry = (
    &[
        ("Name", "string"),
        ("Provisioner", "string"),
        ("ReclaimPolicy", "string"),
        ("VolumeBindingMode", "string"),
        ("AllowVolumeExpansion", "string"),
        ("Age", "string"),
    ],
    |class, now| {
        let default = class["metadata"]["annotations"]["storageclass.kubernetes.io/is-default-class"] == "true";
        let shown = if default { json!(format!("{} (default)", text(&name(class)))) } else { name(class) };
        vec![
            shown,
            class["provisioner"].clone(),
            json!(class["reclaimPolicy"].as_str().unwrap_or("Delete")),
            json!(class["volumeBindingMode"].as_str().unwrap_or("Immediate")),
            json!(class["allowVolumeExpansion"] == true),
            age(class, now),
        ]
    },
);

pub(super) const PRIORITY_CLASS: Entry = (
    &[
        ("Name", "string"),
        ("Value", "integer"),
        ("Global-Default", "boolean"),
        ("Age", "string"),
        ("PreemptionPolicy", "string"),
    ],
    |class, now| {
        vec![
            name(class),
            json!(number(&class["value"])),
            json!(class["globalDefault"] == true),
            age(class, now),
            json!(class["preemptionPolicy"].as_str().unwrap_or("PreemptLowerPriority")),
        ]
    },
);

pub(super) const SIGNING_REQUEST: Entry = (
    &[
        ("Name", "string"),
        ("Age", "string"),
        ("SignerName", "string"),
        ("Requestor", "string"),
        ("RequestedDuration", "string"),
        ("Condition", "string"),
    ],
    |request, now| {
        let has = |kind: &str| items(&request["status"]["conditions"]).iter().any(|c| c["type"] == kind);
        let mut words = vec![match () {
            () if has("Denied") => "Denied",
            () if has("Approved") => "Approved",
            () => "Pending",
        }];
        if has("Failed") {
            words.push("Failed");
        }
        if !text(&request["status"]["certificate"]).is_empty() {
            words.push("Issued");
        }
        vec![
            name(request),
            age(request, now),
            request["spec"]["signerName"].clone(),
            json!(text(&request["spec"]["username"])),
            request["spec"]["expirationSeconds"].as_i64().map_or(json!("<none>"), |s| json!(super::duration(s))),
            json!(words.join(",")),
        ]
    },
);

pub(super) const API_SERVICE: Entry =
    (&[("Name", "string"), ("Service", "string"), ("Available", "string"), ("Age", "string")], |service, now| {
        let backend = &service["spec"]["service"];
        let backend = if backend.is_object() {
            format!("{}/{}", text(&backend["namespace"]), text(&backend["name"]))
        } else {
            "Local".into()
        };
        let available = items(&service["status"]["conditions"]).iter().find(|c| c["type"] == "Available").map_or(
            "Unknown".into(),
            |c| match (text(&c["status"]), text(&c["reason"])) {
                ("True", _) | (_, "") => text(&c["status"]).to_owned(),
                (status, reason) => format!("{status} ({reason})"),
            },
        );
        vec![name(service), json!(backend), json!(available), age(service, now)]
    });

pub(super) const RUNTIME_CLASS: Entry =
    (&[("Name", "string"), ("Handler", "string"), ("Age", "string")], |class, now| {
        vec![name(class), class["handler"].clone(), age(class, now)]
    });

pub(super) const WEBHOOKS: Entry =
    (&[("Name", "string"), ("Webhooks", "integer"), ("Age", "string")], |configuration, now| {
        vec![name(configuration), json!(items(&configuration["webhooks"]).len()), age(configuration, now)]
    });
