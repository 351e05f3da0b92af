//! Rows of the workload kinds.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Entry, age, containers, human, items, label_selector, labels, name, number, text};

pub(super) const DEPLOYMENT: Entry = (
    &[
        ("Name", "string"),
        ("Ready", "string"),
        ("Up-to-date", "string"),
        ("Available", "string"),
        ("Age", "string"),
        ("Containers*", "string"),
        ("Images*", "string"),
        ("Selector*", "string"),
    ],
    |deployment, now| {
        let (spec, status) = (&deployment["spec"], &deployment["status"]);
        let (names, images) = containers(&spec["template"]["spec"]);
        vec![
            name(deployment),
            json!(format!("{}/{}", number(&status["readyReplicas"]), number(&spec["replicas"]))),
            json!(number(&status["updatedReplicas"])),
            json!(number(&status["availableReplicas"])),
            age(deployment, now),
            names,
            images,
            label_selector(&spec["selector"]),
        ]
    },
);

fn replicas(set: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&set["spec"], &set["status"]);
    let (names, images) = containers(&spec["template"]["spec"]);
    vec![
        name(set),
        json!(number(&spec["replicas"])),
        json!(number(&status["replicas"])),
        json!(number(&status["readyReplicas"])),
        age(set, now),
        names,
        images,
    ]
}

const REPLICA_COLUMNS: &[(&str, &str)] = &[
    ("Name", "string"),
    ("Desired", "integer"),
    ("Current", "integer"),
    ("Ready", "integer"),
    ("Age", "string"),
    ("Containers*", "string"),
    ("Images*", "string"),
    ("Selector*", "string"),
];

pub(super) const REPLICA_SET: Entry = (REPLICA_COLUMNS, |set, now| {
    let mut row = replicas(set, now);
    row.push(label_selector(&set["spec"]["selector"]));
    row
});

pub(super) const REPLICATION_CONTROLLER: Entry = (REPLICA_COLUMNS, |set, now| {
    let mut row = replicas(set, now);
    row.push(labels(&set["spec"]["selector"]));
    row
});

pub(super) const DAEMON_SET: Entry = (
    &[
        ("Name", "string"),
        ("Desired", "integer"),
        ("Current", "integer"),
        ("Ready", "integer"),
        ("Up-to-date", "integer"),
        ("Available", "integer"),
        ("Node Selector", "string"),
        ("Age", "string"),
        ("Containers*", "string"),
        ("Images*", "string"),
        ("Selector*", "string"),
    ],
    |set, now| {
        let (spec, status) = (&set["spec"], &set["status"]);
        let (names, images) = containers(&spec["template"]["spec"]);
        vec![
            name(set),
            json!(number(&status["desiredNumberScheduled"])),
            json!(number(&status["currentNumberScheduled"])),
            json!(number(&status["numberReady"])),
            json!(number(&status["updatedNumberScheduled"])),
            json!(number(&status["numberAvailable"])),
            labels(&spec["template"]["spec"]["nodeSelector"]),
            age(set, now),
            names,
            images,
            label_selector(&spec["selector"]),
        ]
    },
);

pub(super) const STATEFUL_SET: Entry = (
    &[("Name", "string"), ("Ready", "string"), ("Age", "string"), ("Containers*", "string"), ("Images*", "string")],
    |set, now| {
        let (names, images) = containers(&set["spec"]["template"]["spec"]);
        let ready = format!("{}/{}", number(&set["status"]["readyReplicas"]), number(&set["spec"]["replicas"]));
        vec![name(set), json!(ready), age(set, now), names, images]
    },
);

pub(super) const CONTROLLER_REVISION: Entry =
    (&[("Name", "string"), ("Controller", "string"), ("Revision", "string"), ("Age", "string")], |revision, now| {
        let controller = items(&revision["metadata"]["ownerReferences"])
            .iter()
            .find(|owner| owner["controller"] == true)
            .map_or("<none>".into(), |owner| {
                let group = text(&owner["apiVersion"]).split_once('/').map_or("", |(group, _)| group);
                let kind = text(&owner["kind"]).to_lowercase();
                let dot = if group.is_empty() { "" } else { "." };
                format!("{kind}{dot}{group}/{}", text(&owner["name"]))
            });
        vec![name(revision), json!(controller), json!(number(&revision["revision"])), age(revision, now)]
    });

pub(super) const JOB: Entry = (
    &[
        ("Name", "string"),
        ("Status", "string"),
        ("Completions", "string"),
        ("Duration", "string"),
        ("Age", "string"),
        ("Containers*", "string"),
        ("Images*", "string"),
        ("Selector*", "string"),
    ],
    |job, now| {
        let (spec, status) = (&job["spec"], &job["status"]);
        let succeeded = number(&status["succeeded"]);
        let completions = match spec["completions"].as_i64() {
            Some(wanted) => format!("{succeeded}/{wanted}"),
            None if number(&spec["parallelism"]) > 1 => format!("{succeeded}/1 of {}", number(&spec["parallelism"])),
            None => format!("{succeeded}/1"),
        };
        let at = |field: &str| text(&status[field]).parse::<Timestamp>().ok();
        let duration = match (at("startTime"), at("completionTime")) {
            (None, _) => String::new(),
            (Some(start), end) => human::duration(end.unwrap_or(now).as_second() - start.as_second()),
        };
        let has = |kind: &str| items(&status["conditions"]).iter().any(|c| c["type"] == kind && c["status"] == "True");
        let word = match () {
            () if has("Complete") => "Complete",
            () if has("Failed") => "Failed",
            () if !job["metadata"]["deletionTimestamp"].is_null() => "Terminating",
            () if has("Suspended") => "Suspended",
            () if has("FailureTarget") => "FailureTarget",
            () if has("SuccessCriteriaMet") => "SuccessCriteriaMet",
            () => "Running",
        };
        let (names, images) = containers(&spec["template"]["spec"]);
        vec![
            name(job),
            json!(word),
            json!(completions),
            json!(duration),
            age(job, now),
            names,
            images,
            label_selector(&spec["selector"]),
        ]
    },
);

pub(super) const CRON_JOB: Entry = (
    &[
        ("Name", "string"),
        ("Schedule", "string"),
        ("Timezone", "string"),
        ("Suspend", "boolean"),
        ("Active", "integer"),
        ("Last Schedule", "string"),
        ("Age", "string"),
        ("Containers*", "string"),
        ("Images*", "string"),
        ("Selector*", "string"),
    ],
    |job, now| {
        let (spec, status) = (&job["spec"], &job["status"]);
        let template = &spec["jobTemplate"]["spec"];
        let (names, images) = containers(&template["template"]["spec"]);
        let last = if status["lastScheduleTime"].is_null() {
            "<none>".into()
        } else {
            human::since(&status["lastScheduleTime"], now)
        };
        vec![
            name(job),
            spec["schedule"].clone(),
            json!(spec["timeZone"].as_str().unwrap_or("<none>")),
            json!(if spec["suspend"] == true { "True" } else { "False" }),
            json!(items(&status["active"]).len()),
            json!(last),
            age(job, now),
            names,
            images,
            label_selector(&template["selector"]),
        ]
    },
);

pub(super) const AUTOSCALER: Entry = (
    &[
        ("Name", "string"),
        ("Reference", "string"),
        ("Targets", "string"),
        ("MinPods", "string"),
        ("MaxPods", "string"),
        ("Replicas", "string"),
        ("Age", "string"),
    ],
    |autoscaler, now| {
        let (spec, status) = (&autoscaler["spec"], &autoscaler["status"]);
        let target = &spec["scaleTargetRef"];
        vec![
            name(autoscaler),
            json!(format!("{}/{}", text(&target["kind"]), text(&target["name"]))),
            json!(metrics(spec, status)),
            spec["minReplicas"].as_i64().map_or(json!("<unset>"), |n| json!(n.to_string())),
            json!(number(&spec["maxReplicas"]).to_string()),
            json!(number(&status["currentReplicas"]).to_string()),
            age(autoscaler, now),
        ]
    },
);

fn metrics(spec: &Value, status: &Value) -> String {
    if let Some(target) = spec["targetCPUUtilizationPercentage"].as_i64() {
        let now = status["currentCPUUtilizationPercentage"].as_i64().map_or("<unknown>".into(), |n| format!("{n}%"));
        return format!("cpu: {now}/{target}%");
    }
    let mut shown: Vec<String> = Vec::new();
    for (index, metric) in items(&spec["metrics"]).iter().enumerate() {
        let current = &items(&status["currentMetrics"]).get(index).cloned().unwrap_or_default();
        let kind = text(&metric["type"]);
        let field = kind[..1.min(kind.len())].to_lowercase() + kind.get(1..).unwrap_or_default();
        let (source, seen) = (&metric[&field], &current[&field]["current"]);
        let target = &source["target"];
        let label = if kind == "Resource" { format!("{}: ", text(&source["name"])) } else { String::new() };
        let value = if let Some(percent) = target["averageUtilization"].as_i64() {
            let seen = seen["averageUtilization"].as_i64().map_or("<unknown>".into(), |n| format!("{n}%"));
            format!("{seen}/{percent}%")
        } else {
            let (key, suffix) =
                if target["averageValue"].is_string() { ("averageValue", " (avg)") } else { ("value", "") };
            format!("{}/{}{suffix}", seen[key].as_str().unwrap_or("<unknown>"), text(&target[key]))
        };
        shown.push(format!("{label}{value}"));
    }
    match shown.len() {
        0 => "<none>".into(),
        1 | 2 => shown.join(", "),
        n => format!("{} + {} more...", shown[..2].join(", "), n - 2),
    }
}

pub(super) const DISRUPTION_BUDGET: Entry = (
    &[
        ("Name", "string"),
        ("Min Available", "string"),
        ("Max Unavailable", "string"),
        ("Allowed Disruptions", "integer"),
        ("Age", "string"),
    ],
    |budget, now| {
        let shown = |value: &Value| match value {
            Value::Null => json!("N/A"),
            Value::String(text) => json!(text),
            other => json!(other.to_string()),
        };
        vec![
            name(budget),
            shown(&budget["spec"]["minAvailable"]),
            shown(&budget["spec"]["maxUnavailable"]),
            json!(number(&budget["status"]["disruptionsAllowed"])),
            age(budget, now),
        ]
    },
);
