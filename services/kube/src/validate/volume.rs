//! Volumes of a pod.

use galley_types::names;
use serde_json::Value;

use super::resources::quantity;
use super::{Errors, Get, Path};

/// Checks all, and gives their names.
pub(super) fn volumes<'v>(errors: &mut Errors, volumes: &'v [Value], path: &Path<'_>) -> Vec<&'v str> {
    let mut seen: Vec<&str> = Vec::with_capacity(volumes.len());
    for (at, volume) in volumes.iter().enumerate() {
        let path = path.index(at);
        let name = volume.text("name");
        let before = errors.len();
        source(errors, volume, &path);
        if name.is_empty() {
            errors.required(&path.field("name"), "");
        } else {
            errors.named(&path.field("name"), name, names::dns1123_label(name));
        }
        if seen.contains(&name) {
            errors.duplicate(&path.field("name"), name);
        }
        if errors.len() == before || !name.is_empty() {
            seen.push(name);
        }
    }
    seen
}

fn source(errors: &mut Errors, volume: &Value, path: &Path<'_>) {
    let sources = volume.as_object().into_iter().flatten().filter(|(key, value)| *key != "name" && !value.is_null());
    let mut count = 0;
    for (kind, source) in sources {
        let path = path.field(kind);
        count += 1;
        if count > 1 {
            errors.forbidden(&path, "may not specify more than 1 volume type");
            continue;
        }
        one_source(errors, kind, source, &path);
    }
    if count == 0 {
        errors.required(path, "must specify a volume type");
    }
}

fn one_source(errors: &mut Errors, kind: &str, source: &Value, path: &Path<'_>) {
    match kind {
        "hostPath" => host_path(errors, source, path),
        "emptyDir" if source.has("sizeLimit") && quantity(source.at("sizeLimit")).is_negative() => {
            errors.forbidden(&path.field("sizeLimit"), "SizeLimit field must be a valid resource quantity");
        }
        "secret" => {
            errors.required_text(&path.field("secretName"), source.text("secretName"));
            mode(errors, source, "defaultMode", path);
            key_items(errors, source, path);
        }
        "configMap" => {
            errors.required_text(&path.field("name"), source.text("name"));
            mode(errors, source, "defaultMode", path);
            key_items(errors, source, path);
        }
        "persistentVolumeClaim" => errors.required_text(&path.field("claimName"), source.text("claimName")),
        "downwardAPI" => {
            mode(errors, source, "defaultMode", path);
            downward_items(errors, source, path);
        }
        "projected" => projected(errors, source, path),
        "nfs" => {
            errors.required_text(&path.field("server"), source.text("server"));
            let exported = source.text("path");
            errors.required_text(&path.field("path"), exported);
            if !exported.is_empty() && !exported.starts_with('/') {
                errors.invalid(&path.field("path"), exported, "must be an absolute path");
            }
        }
        "csi" => errors.required_name(&path.field("driver"), source.text("driver"), names::dns1123_subdomain),
        "ephemeral" => {
            let path = path.field("volumeClaimTemplate");
            let template = source.at("volumeClaimTemplate");
            if template.is_null() {
                errors.required(&path, "");
            } else {
                super::storage::claim_spec(errors, template.at("spec"), &path.field("spec"));
            }
        }
        _ => {}
    }
}

pub(super) fn host_path(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    let on_host = source.text("path");
    if on_host.is_empty() {
        errors.required(&path.field("path"), "");
        return;
    }
    if on_host.split('/').any(|part| part == "..") {
        errors.invalid(&path.field("path"), on_host, "must not contain '..'");
    }
    let kinds = ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    if !kinds.contains(&source.text("type")) {
        errors.not_supported(&path.field("type"), source.text("type"), &kinds);
    }
}

fn mode(errors: &mut Errors, source: &Value, field: &str, path: &Path<'_>) {
    if let Some(mode) = source.int(field).filter(|mode| !(0..=0o777).contains(mode)) {
        errors.invalid(&path.field(field), mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// A path below the volume: relative, without `..`.
fn local_path(errors: &mut Errors, local: &str, path: &Path<'_>) {
    if local.starts_with('/') {
        errors.invalid(path, local, "must be a relative path");
    }
    let first = local.split('/').next().unwrap_or("");
    if local.split('/').any(|part| part == "..") {
        errors.invalid(path, local, "must not contain '..'");
    } else if first.starts_with("..") {
        errors.invalid(path, local, "must not start with '..'");
    }
}

fn key_items(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    let path = path.field("items");
    for (at, item) in source.list("items").iter().enumerate() {
        let path = path.index(at);
        errors.required_text(&path.field("key"), item.text("key"));
        if item.text("path").is_empty() {
            errors.required(&path.field("path"), "");
        } else {
            local_path(errors, item.text("path"), &path.field("path"));
        }
        mode(errors, item, "mode", &path);
    }
}

fn downward_items(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    for item in source.list("items") {
        let local = item.text("path");
        if local.is_empty() {
            errors.required(&path.field("path"), "");
        } else {
            local_path(errors, local, &path.field("path"));
        }
        match (item.has("fieldRef"), item.has("resourceFieldRef")) {
            (true, true) => {
                errors.invalid(path, "resource", "fieldRef and resourceFieldRef can not be specified simultaneously");
            }
            (false, false) => {
                errors.required(path, "one of fieldRef and resourceFieldRef is required");
            }
            (true, false) => {
                let allowed =
                    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];
                super::container::field_ref(errors, item.at("fieldRef"), &path.field("fieldRef"), &allowed);
            }
            (false, true) => {}
        }
        mode(errors, item, "mode", path);
    }
}

fn projected(errors: &mut Errors, source: &Value, path: &Path<'_>) {
    mode(errors, source, "defaultMode", path);
    let path = path.field("sources");
    for (at, projection) in source.list("sources").iter().enumerate() {
        let path = path.index(at);
        let kinds = projection.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        let mut count = 0;
        for (kind, part) in kinds {
            let path = path.field(kind);
            count += 1;
            if count > 1 {
                errors.forbidden(&path, "may not specify more than 1 volume type per source");
                continue;
            }
            match kind.as_str() {
                "secret" | "configMap" => {
                    errors.required_text(&path.field("name"), part.text("name"));
                    key_items(errors, part, &path);
                }
                "downwardAPI" => downward_items(errors, part, &path),
                "serviceAccountToken" => {
                    let seconds = part.int("expirationSeconds").unwrap_or(3600);
                    if seconds < 600 {
                        errors.invalid(
                            &path.field("expirationSeconds"),
                            seconds,
                            "may not specify a duration less than 10 minutes",
                        );
                    } else if seconds > 1 << 32 {
                        errors.invalid(
                            &path.field("expirationSeconds"),
                            seconds,
                            "may not specify a duration larger than 2^32 seconds",
                        );
                    }
                    errors.required_text(&path.field("path"), part.text("path"));
                }
                _ => {}
            }
        }
        if count == 0 {
            errors.required(&path, "must specify a volume projection type");
        }
    }
}
