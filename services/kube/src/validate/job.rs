//! Jobs and CronJobs.

use galley_types::LabelSelector;
use serde_json::Value;

use super::{Errors, Get, Path, node, pod};

pub(super) fn job(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    job_spec(errors, spec, &path);
    if old.is_none() && !spec.flag("manualSelector") && spec.at("selector").is_null() {
        errors.required(&path.field("selector"), "");
    }
    if let Ok(selector) = LabelSelector::from_value(spec.at("selector"))
        && !spec.at("selector").is_null()
        && !selector.matches_value(node(spec, &["template", "metadata", "labels"]))
    {
        let path = path.field("template");
        let path = path.field("metadata");
        let labels = node(spec, &["template", "metadata", "labels"]).clone();
        errors.invalid(&path.field("labels"), labels, "`selector` does not match template `labels`");
    }
    if let Some(old) = old {
        job_update(errors, spec, old.at("spec"), &path);
    }
}

fn job_update(errors: &mut Errors, new: &Value, old: &Value, path: &Path<'_>) {
    // An indexed Job may be scaled when both numbers are changed alike.
    let elastic = new.text("completionMode") == "Indexed"
        && new.at("completions") == new.at("parallelism")
        && new.has("completions");
    if !elastic {
        errors.immutable(&path.field("completions"), new.at("completions"), old.at("completions"));
    }
    for field in
        ["selector", "completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
    {
        errors.immutable(&path.field(field), new.at(field), old.at(field));
    }
    // A suspended Job that never started may still be told where to run.
    let (mut template, was) = (new.at("template").clone(), old.at("template"));
    if old.flag("suspend") {
        for field in ["nodeSelector", "tolerations", "affinity", "schedulingGates"] {
            let value = node(was, &["spec", field]).clone();
            if let Some(spec) = template.pointer_mut("/spec").and_then(Value::as_object_mut) {
                if value.is_null() {
                    spec.remove(field);
                } else {
                    spec.insert(field.to_owned(), value);
                }
            }
        }
        for field in ["labels", "annotations"] {
            let value = node(was, &["metadata", field]).clone();
            if let Some(metadata) = template.pointer_mut("/metadata").and_then(Value::as_object_mut) {
                if value.is_null() {
                    metadata.remove(field);
                } else {
                    metadata.insert(field.to_owned(), value);
                }
            }
        }
    }
    if template != *was {
        errors.immutable(&path.field("template"), new.at("template"), &Value::Null);
    }
}

/// `spec` of a Job, also within a CronJob.
fn job_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        errors.non_negative(&path.field(field), spec.int(field));
    }
    let mode = spec.text("completionMode");
    errors.maybe_one_of(&path.field("completionMode"), mode, &["NonIndexed", "Indexed"]);
    if mode == "Indexed" && !spec.has("completions") {
        errors.required(&path.field("completions"), "when completion mode is Indexed");
    }
    errors.maybe_one_of(
        &path.field("podReplacementPolicy"),
        spec.text("podReplacementPolicy"),
        &["Failed", "TerminatingOrFailed"],
    );
    failure_policy(errors, spec, path);
    let template = path.field("template");
    pod::template(errors, spec, &template, None);
    let policy = node(spec, &["template", "spec", "restartPolicy"]).as_str().unwrap_or("");
    let spec_path = template.field("spec");
    match policy {
        "OnFailure" | "Never" => {}
        "" | "Always" => {
            errors.required(&spec_path.field("restartPolicy"), "valid values: \"OnFailure\", \"Never\"");
        }
        other => errors.not_supported(&spec_path.field("restartPolicy"), other, &["OnFailure", "Never"]),
    }
}

fn failure_policy(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    if !spec.has("podFailurePolicy") {
        return;
    }
    let template_policy = node(spec, &["template", "spec", "restartPolicy"]).as_str().unwrap_or("");
    let path = path.field("podFailurePolicy");
    if template_policy != "Never" {
        errors.invalid(
            &path,
            spec.at("podFailurePolicy").clone(),
            "only \"Never\" restart policy is supported when podFailurePolicy is specified",
        );
    }
    let rules = path.field("rules");
    for (at, rule) in spec.at("podFailurePolicy").list("rules").iter().enumerate() {
        let path = rules.index(at);
        errors.one_of(&path.field("action"), rule.text("action"), &["Count", "FailIndex", "FailJob", "Ignore"]);
        let exit_codes = rule.has("onExitCodes");
        let conditions = !rule.list("onPodConditions").is_empty();
        if exit_codes && conditions {
            errors.invalid(&path, rule.clone(), "specifying both OnExitCodes and OnPodConditions is not supported");
        } else if !exit_codes && !conditions {
            errors.invalid(&path, rule.clone(), "specifying one of OnExitCodes and OnPodConditions is required");
        }
        if exit_codes {
            let path = path.field("onExitCodes");
            let codes = rule.at("onExitCodes");
            errors.one_of(&path.field("operator"), codes.text("operator"), &["In", "NotIn"]);
            if codes.list("values").is_empty() {
                errors.invalid(&path.field("values"), codes.list("values").to_vec(), "at least one value is required");
            }
        }
    }
}

/// A CronJob's name plus the eleven characters that its Jobs add must still be a name.
const CRON_NAME_MAX: usize = 52;

pub(super) fn cron_job(errors: &mut Errors, object: &Value) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    let name = object.at("metadata").text("name");
    if name.len() > CRON_NAME_MAX {
        let detail = format!("must be no more than {CRON_NAME_MAX} characters");
        errors.invalid(&Path::root("metadata").field("name"), name, &detail);
    }
    let schedule = spec.text("schedule");
    if schedule.is_empty() {
        errors.required(&path.field("schedule"), "");
    } else if let Err(why) = schedule_problem(schedule) {
        errors.invalid(&path.field("schedule"), schedule, &why);
    }
    if schedule.contains("TZ") {
        errors.invalid(
            &path.field("schedule"),
            schedule,
            "cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
        );
    }
    if let Some(zone) = spec.at("timeZone").as_str() {
        if zone.is_empty() {
            errors.invalid(&path.field("timeZone"), zone, "timeZone must be nil or non-empty string");
        } else if zone.eq_ignore_ascii_case("Local") {
            errors.invalid(
                &path.field("timeZone"),
                zone,
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            );
        } else if jiff::tz::TimeZone::get(zone).is_err() {
            errors.invalid(&path.field("timeZone"), zone, &format!("unknown time zone {zone}"));
        }
    }
    errors.non_negative(&path.field("startingDeadlineSeconds"), spec.int("startingDeadlineSeconds"));
    errors.one_of(&path.field("concurrencyPolicy"), spec.text("concurrencyPolicy"), &["Allow", "Forbid", "Replace"]);
    let template = path.field("jobTemplate");
    let template_spec = spec.at("jobTemplate").at("spec");
    job_spec(errors, template_spec, &template.field("spec"));
    if template_spec.flag("manualSelector") {
        errors.invalid(&template.field("spec").field("manualSelector"), true, "must be unset or set to false");
    }
    for field in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        errors.non_negative(&path.field(field), spec.int(field));
    }
}

/// Why a text is no cron schedule.
fn schedule_problem(schedule: &str) -> Result<(), String> {
    let schedule = match schedule.strip_prefix("TZ=").or_else(|| schedule.strip_prefix("CRON_TZ=")) {
        Some(rest) => rest.split_once(' ').map_or("", |(_, rest)| rest).trim_start(),
        None => schedule,
    };
    if let Some(descriptor) = schedule.strip_prefix('@') {
        return match descriptor {
            "yearly" | "annually" | "monthly" | "weekly" | "daily" | "midnight" | "hourly" => Ok(()),
            _ if descriptor.strip_prefix("every ").is_some_and(is_duration) => Ok(()),
            _ if descriptor.starts_with("every ") => {
                Err(format!("failed to parse duration {schedule}: time: invalid duration {:?}", &descriptor[6..]))
            }
            _ => Err(format!("unrecognized descriptor: {schedule}")),
        };
    }
    let fields: Vec<&str> = schedule.split_whitespace().collect();
    if fields.len() != 5 {
        return Err(format!("expected exactly 5 fields, found {}: [{}]", fields.len(), fields.join(" ")));
    }
    const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
    const DAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];
    let bounds: [(u32, u32, &[&str], u32); 5] =
        [(0, 59, &[], 0), (0, 23, &[], 0), (1, 31, &[], 0), (1, 12, &MONTHS, 1), (0, 6, &DAYS, 0)];
    for (field, (low, high, words, first)) in fields.iter().zip(bounds) {
        for part in field.split(',') {
            field_problem(part, low, high, words, first)?;
        }
    }
    Ok(())
}

fn is_duration(text: &str) -> bool {
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let unit = ["ns", "us", "ms", "h", "m", "s"].into_iter().find(|unit| rest[digits..].starts_with(unit));
        match unit {
            Some(unit) if digits > 0 => rest = &rest[digits + unit.len()..],
            _ => return false,
        }
    }
    !text.is_empty()
}

/// One of the comma-separated parts of a field: `*`, `5`, `1-5`, `*/15`, `mon-fri`.
fn field_problem(part: &str, low: u32, high: u32, words: &[&str], first: u32) -> Result<(), String> {
    let number = |text: &str| -> Result<u32, String> {
        if let Some(at) = words.iter().position(|word| text.eq_ignore_ascii_case(word)) {
            return Ok(at as u32 + first);
        }
        match text.parse::<i64>() {
            Ok(value) if value < 0 => Err(format!("negative number ({value}) not allowed: {text}")),
            Ok(value) => Ok(value as u32),
            Err(_) => Err(format!("failed to parse int from {text}: strconv.Atoi: parsing {text:?}: invalid syntax")),
        }
    };
    let (range, step) = match part.split('/').collect::<Vec<_>>()[..] {
        [range] => (range, None),
        [range, step] => (range, Some(step)),
        _ => return Err(format!("too many slashes: {part}")),
    };
    let (start, end) = match range.split('-').collect::<Vec<_>>()[..] {
        ["*" | "?"] => (low, high),
        [one] => {
            let start = number(one)?;
            (start, if step.is_some() { high } else { start })
        }
        [from, to] => (number(from)?, number(to)?),
        _ => return Err(format!("too many hyphens: {part}")),
    };
    if let Some(step) = step
        && number(step)? == 0
    {
        return Err(format!("step of range should be a positive number: {part}"));
    }
    if start < low {
        return Err(format!("beginning of range ({start}) below minimum ({low}): {part}"));
    }
    if end > high {
        return Err(format!("end of range ({end}) above maximum ({high}): {part}"));
    }
    if start > end {
        return Err(format!("beginning of range ({start}) beyond end of range ({end}): {part}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn schedules_are_checked_as_cron_does() {
        for schedule in ["* * * * *", "*/5 0 1,15 jan-mar mon-fri", "@hourly", "@every 1h30m", "0 0 * * 0"] {
            assert_eq!(schedule_problem(schedule), Ok(()), "{schedule}");
        }
        for (schedule, why) in [
            ("* * *", "expected exactly 5 fields, found 3: [* * *]"),
            ("60 * * * *", "end of range (60) above maximum (59): 60"),
            ("x * * * *", "failed to parse int from x: strconv.Atoi: parsing \"x\": invalid syntax"),
            ("* * 0 * *", "beginning of range (0) below minimum (1): 0"),
            ("*/0 * * * *", "step of range should be a positive number: */0"),
            ("@sometimes", "unrecognized descriptor: @sometimes"),
        ] {
            assert_eq!(schedule_problem(schedule), Err(why.into()), "{schedule}");
        }
    }
}
