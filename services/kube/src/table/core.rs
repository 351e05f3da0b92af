//! Rows of the core group's kinds.

use serde_json::{Value, json};

use super::{Entry, age, containers, human, items, labels, name, number, or_none, text};

pub(super) const DEFAULT: Entry = (&[("Name", "string"), ("Created At", "date")], |object, _| {
    vec![name(object), object["metadata"]["creationTimestamp"].clone()]
});

pub(super) const NODE: Entry = (
    &[
        ("Name", "string"),
        ("Status", "string"),
        ("Roles", "string"),
        ("Age", "string"),
        ("Version", "string"),
        ("Internal-IP*", "string"),
        ("External-IP*", "string"),
        ("OS-Image*", "string"),
        ("Kernel-Version*", "string"),
        ("Container-Runtime*", "string"),
    ],
    |node, now| {
        let status = &node["status"];
        let ready = items(&status["conditions"]).iter().find(|c| c["type"] == "Ready");
        let mut words = vec![match ready.map(|c| text(&c["status"])) {
            Some("True") => "Ready",
            Some(_) => "NotReady",
            None => "Unknown",
        }];
        if node["spec"]["unschedulable"] == true {
            words.push("SchedulingDisabled");
        }
        let mut roles: Vec<&str> = Vec::new();
        for (key, value) in node["metadata"]["labels"].as_object().into_iter().flatten() {
            if let Some(role) = key.strip_prefix("node-role.kubernetes.io/") {
                roles.push(role);
            } else if key == "kubernetes.io/role" {
                roles.push(text(value));
            }
        }
        roles.sort_unstable();
        let address = |kind: &str| {
            or_none(
                items(&status["addresses"])
                    .iter()
                    .find(|a| a["type"] == kind)
                    .map(|a| text(&a["address"]).to_owned())
                    .unwrap_or_default(),
            )
        };
        let info = |field: &str| match text(&status["nodeInfo"][field]) {
            "" => json!("<unknown>"),
            known => json!(known),
        };
        vec![
            name(node),
            json!(words.join(",")),
            or_none(roles.join(",")),
            age(node, now),
            status["nodeInfo"]["kubeletVersion"].clone(),
            address("InternalIP"),
            address("ExternalIP"),
            info("osImage"),
            info("kernelVersion"),
            info("containerRuntimeVersion"),
        ]
    },
);

pub(super) const NAMESPACE: Entry =
    (&[("Name", "string"), ("Status", "string"), ("Age", "string")], |namespace, now| {
        vec![name(namespace), namespace["status"]["phase"].clone(), age(namespace, now)]
    });

pub(super) const SERVICE: Entry = (
    &[
        ("Name", "string"),
        ("Type", "string"),
        ("Cluster-IP", "string"),
        ("External-IP", "string"),
        ("Port(s)", "string"),
        ("Age", "string"),
        ("Selector*", "string"),
    ],
    |service, now| {
        let spec = &service["spec"];
        let cluster_ip = items(&spec["clusterIPs"]).first().map_or(text(&spec["clusterIP"]), text);
        let ports: Vec<String> = items(&spec["ports"])
            .iter()
            .map(|port| {
                let protocol = text(&port["protocol"]);
                match number(&port["nodePort"]) {
                    0 => format!("{}/{protocol}", number(&port["port"])),
                    node_port => format!("{}:{node_port}/{protocol}", number(&port["port"])),
                }
            })
            .collect();
        vec![
            name(service),
            spec["type"].clone(),
            or_none(cluster_ip.to_owned()),
            json!(external_ip(service)),
            or_none(ports.join(",")),
            age(service, now),
            labels(&spec["selector"]),
        ]
    },
);

fn external_ip(service: &Value) -> String {
    let spec = &service["spec"];
    let own: Vec<&str> = items(&spec["externalIPs"]).iter().map(text).collect();
    match text(&spec["type"]) {
        "ExternalName" => text(&spec["externalName"]).to_owned(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = items(&service["status"]["loadBalancer"]["ingress"])
                .iter()
                .map(|i| if text(&i["ip"]).is_empty() { text(&i["hostname"]) } else { text(&i["ip"]) })
                .collect();
            all.extend(own);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if own.is_empty() => "<none>".into(),
        _ => own.join(","),
    }
}

pub(super) const ENDPOINTS: Entry =
    (&[("Name", "string"), ("Endpoints", "string"), ("Age", "string")], |endpoints, now| {
        let mut all = Vec::new();
        for subset in items(&endpoints["subsets"]) {
            let ports = items(&subset["ports"]);
            for address in items(&subset["addresses"]) {
                let ip = text(&address["ip"]);
                if ports.is_empty() {
                    all.push(ip.to_owned());
                }
                all.extend(ports.iter().map(|port| format!("{ip}:{}", number(&port["port"]))));
            }
        }
        vec![name(endpoints), json!(first_few(&all)), age(endpoints, now)]
    });

/// The first three and how many more.
pub(super) fn first_few(all: &[String]) -> String {
    match all.len() {
        0 => "<none>".into(),
        1..=3 => all.join(","),
        n => format!("{} + {} more...", all[..3].join(","), n - 3),
    }
}

fn count(value: &Value) -> usize {
    value.as_object().map_or(0, serde_json::Map::len)
}

pub(super) const CONFIG_MAP: Entry = (&[("Name", "string"), ("Data", "string"), ("Age", "string")], |map, now| {
    vec![name(map), json!((count(&map["data"]) + count(&map["binaryData"])).to_string()), age(map, now)]
});

pub(super) const SECRET: Entry =
    (&[("Name", "string"), ("Type", "string"), ("Data", "string"), ("Age", "string")], |secret, now| {
        vec![name(secret), secret["type"].clone(), json!(count(&secret["data"]).to_string()), age(secret, now)]
    });

pub(super) const SERVICE_ACCOUNT: Entry =
    (&[("Name", "string"), ("Secrets", "string"), ("Age", "string")], |account, now| {
        vec![name(account), json!(items(&account["secrets"]).len().to_string()), age(account, now)]
    });

pub(super) const EVENT: Entry = (
    &[
        ("Last Seen", "string"),
        ("Type", "string"),
        ("Reason", "string"),
        ("Object", "string"),
        ("Subobject*", "string"),
        ("Source*", "string"),
        ("Message", "string"),
        ("First Seen*", "string"),
        ("Count*", "string"),
        ("Name*", "string"),
    ],
    |event, now| {
        // Both shapes: core/v1 (involvedObject, count, message) and events.k8s.io/v1 (regarding, series, note).
        let pick = |a: &str, b: &str| if event[a].is_null() { event[b].clone() } else { event[a].clone() };
        let object = pick("involvedObject", "regarding");
        let first = [&event["firstTimestamp"], &event["deprecatedFirstTimestamp"], &event["eventTime"]]
            .into_iter()
            .find(|t| !t.is_null())
            .cloned()
            .unwrap_or_default();
        let last =
            [&event["series"]["lastObservedTime"], &event["lastTimestamp"], &event["deprecatedLastTimestamp"], &first]
                .into_iter()
                .find(|t| !t.is_null())
                .cloned()
                .unwrap_or_default();
        let count = [&event["series"]["count"], &event["count"], &event["deprecatedCount"]]
            .into_iter()
            .find_map(Value::as_i64)
            .unwrap_or(1)
            .max(1);
        let source = pick("source", "deprecatedSource");
        let mut from = text(&source["component"]).to_owned();
        if from.is_empty() {
            from = text(&pick("reportingComponent", "reportingController")).to_owned();
        }
        if !text(&source["host"]).is_empty() {
            from = format!("{from}, {}", text(&source["host"]));
        }
        let subject = format!("{}/{}", text(&object["kind"]).to_lowercase(), text(&object["name"]));
        vec![
            json!(human::since(&last, now)),
            event["type"].clone(),
            event["reason"].clone(),
            json!(subject),
            object["fieldPath"].as_str().map_or(json!(""), |path| json!(path)),
            json!(from),
            json!(text(&pick("message", "note")).trim()),
            json!(human::since(&first, now)),
            json!(count.to_string()),
            name(event),
        ]
    },
);

fn access_modes(modes: &Value) -> String {
    let short = |mode: &str| match mode {
        "ReadWriteOnce" => "RWO",
        "ReadOnlyMany" => "ROX",
        "ReadWriteMany" => "RWX",
        "ReadWriteOncePod" => "RWOP",
        _ => "",
    };
    items(modes).iter().map(|m| short(text(m))).collect::<Vec<_>>().join(",")
}

fn deleting_or(object: &Value, phase: &Value) -> Value {
    if object["metadata"]["deletionTimestamp"].is_null() { phase.clone() } else { json!("Terminating") }
}

fn attributes_class(spec: &Value) -> Value {
    match spec["volumeAttributesClassName"].as_str() {
        Some(class) => json!(class),
        None => json!("<unset>"),
    }
}

pub(super) const PERSISTENT_VOLUME: Entry = (
    &[
        ("Name", "string"),
        ("Capacity", "string"),
        ("Access Modes", "string"),
        ("Reclaim Policy", "string"),
        ("Status", "string"),
        ("Claim", "string"),
        ("StorageClass", "string"),
        ("VolumeAttributesClass", "string"),
        ("Reason", "string"),
        ("Age", "string"),
        ("VolumeMode*", "string"),
    ],
    |volume, now| {
        let spec = &volume["spec"];
        let claim = &spec["claimRef"];
        let claim = if claim.is_object() {
            format!("{}/{}", text(&claim["namespace"]), text(&claim["name"]))
        } else {
            String::new()
        };
        vec![
            name(volume),
            json!(text(&spec["capacity"]["storage"])),
            json!(access_modes(&spec["accessModes"])),
            spec["persistentVolumeReclaimPolicy"].clone(),
            deleting_or(volume, &volume["status"]["phase"]),
            json!(claim),
            json!(text(&spec["storageClassName"])),
            attributes_class(spec),
            json!(text(&volume["status"]["reason"])),
            age(volume, now),
            json!(spec["volumeMode"].as_str().unwrap_or("<unset>")),
        ]
    },
);

pub(super) const PERSISTENT_VOLUME_CLAIM: Entry = (
    &[
        ("Name", "string"),
        ("Status", "string"),
        ("Volume", "string"),
        ("Capacity", "string"),
        ("Access Modes", "string"),
        ("StorageClass", "string"),
        ("VolumeAttributesClass", "string"),
        ("Age", "string"),
        ("VolumeMode*", "string"),
    ],
    |claim, now| {
        let (spec, status) = (&claim["spec"], &claim["status"]);
        let bound = !text(&spec["volumeName"]).is_empty();
        vec![
            name(claim),
            deleting_or(claim, &status["phase"]),
            json!(text(&spec["volumeName"])),
            json!(if bound { text(&status["capacity"]["storage"]) } else { "" }),
            json!(if bound { access_modes(&status["accessModes"]) } else { String::new() }),
            json!(text(&spec["storageClassName"])),
            attributes_class(spec),
            age(claim, now),
            json!(spec["volumeMode"].as_str().unwrap_or("<unset>")),
        ]
    },
);

pub(super) const RESOURCE_QUOTA: Entry =
    (&[("Name", "string"), ("Request", "string"), ("Limit", "string"), ("Age", "string")], |quota, now| {
        let (mut requests, mut limits) = (Vec::new(), Vec::new());
        for (resource, hard) in quota["status"]["hard"].as_object().into_iter().flatten() {
            let used = quota["status"]["used"][resource].as_str().unwrap_or("0");
            let cell = format!("{resource}: {used}/{}", text(hard));
            if resource.starts_with("limits") { limits.push(cell) } else { requests.push(cell) }
        }
        vec![name(quota), json!(requests.join(", ")), json!(limits.join(", ")), age(quota, now)]
    });

pub(super) const POD_TEMPLATE: Entry =
    (&[("Name", "string"), ("Containers", "string"), ("Images", "string"), ("Pod Labels", "string")], |template, _| {
        let (names, images) = containers(&template["template"]["spec"]);
        vec![name(template), names, images, labels(&template["template"]["metadata"]["labels"])]
    });
