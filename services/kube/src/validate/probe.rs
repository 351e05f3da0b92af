//! Probes and lifecycle handlers.

use galley_types::names;
use serde_json::Value;

use super::{Errors, Get, Path};

pub(super) fn probe(errors: &mut Errors, probe: &Value, kind: &str, path: &Path<'_>) {
    if probe.is_null() {
        return;
    }
    handler(errors, probe, path, false);
    for field in ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"] {
        errors.non_negative(&path.field(field), probe.int(field));
    }
    let grace = path.field("terminationGracePeriodSeconds");
    match probe.int("terminationGracePeriodSeconds") {
        Some(_) if kind == "readinessProbe" => {
            errors.invalid(
                &grace,
                probe.at("terminationGracePeriodSeconds").clone(),
                "must not be set for readinessProbes",
            );
        }
        Some(seconds) if seconds <= 0 => errors.invalid(&grace, seconds, "must be greater than 0"),
        _ => {}
    }
    if kind != "readinessProbe"
        && let Some(threshold) = probe.int("successThreshold").filter(|t| *t > 1)
    {
        errors.invalid(&path.field("successThreshold"), threshold, "must be 1");
    }
}

/// `exec`, `httpGet`, `tcpSocket`, `grpc`, and for hooks `sleep`: exactly one.
pub(super) fn handler(errors: &mut Errors, handler: &Value, path: &Path<'_>, hook: bool) {
    let mut count = 0;
    let mut first_seen = |errors: &mut Errors, path: &Path<'_>| {
        count += 1;
        if count > 1 {
            errors.forbidden(path, "may not specify more than 1 handler type");
        }
        count == 1
    };
    let exec = path.field("exec");
    if handler.has("exec") && first_seen(errors, &exec) && handler.at("exec").list("command").is_empty() {
        errors.required(&exec.field("command"), "");
    }
    let http = path.field("httpGet");
    if handler.has("httpGet") && first_seen(errors, &http) {
        http_get(errors, handler.at("httpGet"), &http);
    }
    let tcp = path.field("tcpSocket");
    if handler.has("tcpSocket") && first_seen(errors, &tcp) {
        errors.port(&tcp.field("port"), handler.at("tcpSocket").at("port"));
    }
    let grpc = path.field("grpc");
    if handler.has("grpc") && first_seen(errors, &grpc) {
        errors.in_range(&grpc.field("port"), handler.at("grpc").int("port").unwrap_or(0), 1, 65535);
    }
    let sleep = path.field("sleep");
    if hook && handler.has("sleep") && first_seen(errors, &sleep) {
        errors.non_negative(&sleep.field("seconds"), handler.at("sleep").int("seconds"));
    }
    if count == 0 {
        errors.required(path, "must specify a handler type");
    }
}

fn http_get(errors: &mut Errors, http: &Value, path: &Path<'_>) {
    errors.required_text(&path.field("path"), http.text("path"));
    errors.port(&path.field("port"), http.at("port"));
    let scheme = http.text("scheme");
    if !matches!(scheme, "HTTP" | "HTTPS") {
        errors.not_supported(&path.field("scheme"), scheme, &["HTTP", "HTTPS"]);
    }
    for header in http.list("httpHeaders") {
        let name = header.text("name");
        errors.named(&path.field("httpHeaders"), name, names::http_header_name(name));
    }
}

pub(super) fn lifecycle(errors: &mut Errors, lifecycle: &Value, path: &Path<'_>) {
    for hook in ["postStart", "preStop"] {
        if lifecycle.has(hook) {
            handler(errors, lifecycle.at(hook), &path.field(hook), true);
        }
    }
    if lifecycle.has("stopSignal") && lifecycle.text("stopSignal").is_empty() {
        errors.required(&path.field("stopSignal"), "");
    }
}
