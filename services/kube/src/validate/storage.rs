//! PersistentVolumes, their claims, StorageClasses, CSIDrivers.

use galley_types::names;
use serde_json::Value;

use super::resources::quantity;
use super::support::difference;
use super::{Errors, Get, Path, scheduling, volume};
use crate::status::FieldError;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];

fn access_modes(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    let path = path.field("accessModes");
    let modes = spec.list("accessModes");
    if modes.is_empty() {
        errors.required(&path, "at least 1 access mode is required");
    }
    for mode in modes.iter().filter_map(Value::as_str) {
        if !ACCESS_MODES.contains(&mode) {
            errors.not_supported(&path, mode, &ACCESS_MODES);
        }
    }
    if modes.len() > 1 && modes.iter().any(|m| m == "ReadWriteOncePod") {
        errors.forbidden(&path, "may not use ReadWriteOncePod with other access modes");
    }
}

/// `spec` of a claim, also of a claim template.
pub(super) fn claim_spec(errors: &mut Errors, spec: &Value, path: &Path<'_>) {
    access_modes(errors, spec, path);
    errors.selector(&path.field("selector"), spec.at("selector"));
    let resources = path.field("resources");
    match spec.at("resources").at("requests").get("storage") {
        None => errors.required(&resources.field("requests").key("storage"), ""),
        Some(amount) => {
            let amount_value = quantity(amount);
            if amount_value.is_negative() || amount_value.is_zero() {
                let path = resources.field("requests");
                errors.invalid(&path.key("storage"), amount.clone(), "must be greater than zero");
            }
        }
    }
    if let Some(class) = spec.at("storageClassName").as_str().filter(|c| !c.is_empty()) {
        errors.named(&path.field("storageClassName"), class, names::dns1123_subdomain(class));
    }
    let mode = spec.text("volumeMode");
    if !mode.is_empty() && !VOLUME_MODES.contains(&mode) {
        errors.not_supported(&path.field("volumeMode"), mode, &VOLUME_MODES);
    }
}

const IMMUTABLE: &str =
    "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";

pub(super) fn persistent_volume_claim(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    claim_spec(errors, spec, &path);
    let Some(old) = old else { return };
    let was = old.at("spec");
    let fixed = |spec: &Value, bound: &Value| {
        let mut spec = spec.as_object().cloned().unwrap_or_default();
        for field in ["resources", "volumeAttributesClassName"] {
            spec.remove(field);
        }
        // Binding sets the name once; a class may be filled in where there was none.
        for field in ["volumeName", "storageClassName"] {
            if bound.text(field).is_empty() {
                spec.remove(field);
            }
        }
        spec
    };
    let (is, before) = (fixed(spec, was), fixed(was, was));
    if is != before {
        let shown = difference("core.PersistentVolumeClaimSpec", &is, &before);
        errors.forbidden(&path, &format!("{IMMUTABLE}\n{shown}"));
    }
    let size = |spec: &Value| quantity(spec.at("resources").at("requests").at("storage"));
    let amount_path = path.field("resources");
    let amount_path = amount_path.field("requests");
    if size(spec) < size(was) {
        let path = amount_path.field("storage");
        errors.forbidden(&path, "field can not be less than status.capacity");
    } else if size(spec) != size(was) && old.at("status").text("phase") != "Bound" {
        errors.forbidden(&path, IMMUTABLE);
    }
}

pub(super) fn persistent_volume(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    const NOT_SOURCES: [&str; 9] = [
        "accessModes",
        "capacity",
        "claimRef",
        "mountOptions",
        "nodeAffinity",
        "persistentVolumeReclaimPolicy",
        "storageClassName",
        "volumeAttributesClassName",
        "volumeMode",
    ];
    let (spec, path) = (object.at("spec"), Path::root("spec"));
    access_modes(errors, spec, &path);
    let capacity = path.field("capacity");
    match spec.map("capacity") {
        None => errors.required(&capacity, ""),
        Some(amounts) => {
            if amounts.len() != 1 || !amounts.contains_key("storage") {
                errors.not_supported(&capacity, &spec.at("capacity").to_string(), &["storage"]);
            }
            for (name, amount) in amounts {
                if quantity(amount).is_negative() || quantity(amount).is_zero() {
                    errors.invalid(&capacity.key(name), amount.clone(), "must be greater than zero");
                }
            }
        }
    }
    let policy = spec.text("persistentVolumeReclaimPolicy");
    errors.maybe_one_of(&path.field("persistentVolumeReclaimPolicy"), policy, &["Delete", "Recycle", "Retain"]);
    let affinity = path.field("nodeAffinity");
    let affinity = affinity.field("required");
    let affinity = affinity.field("nodeSelectorTerms");
    let required = spec.at("nodeAffinity").at("required");
    for (at, term) in required.list("nodeSelectorTerms").iter().enumerate() {
        scheduling::node_term(errors, term, &affinity.index(at));
    }
    let mut count = 0;
    for (kind, source) in spec.as_object().into_iter().flatten().filter(|(k, _)| !NOT_SOURCES.contains(&k.as_str())) {
        count += 1;
        if count > 1 {
            errors.forbidden(&path.field(kind), "may not specify more than 1 volume type");
            continue;
        }
        match kind.as_str() {
            "hostPath" => volume::host_path(errors, source, &path.field(kind)),
            "local" => {
                errors.required_text(&path.field(kind).field("path"), source.text("path"));
                if !spec.has("nodeAffinity") {
                    errors
                        .required(&Path::root("metadata").field("annotations"), "Local volume requires node affinity");
                }
            }
            "csi" => {
                errors.required_text(&path.field(kind).field("driver"), source.text("driver"));
                errors.required_text(&path.field(kind).field("volumeHandle"), source.text("volumeHandle"));
            }
            _ => {}
        }
    }
    if count == 0 {
        errors.required(&path, "must specify a volume type");
    }
    if let Some(old) = old {
        let source = |spec: &Value| {
            let mut spec = spec.as_object().cloned().unwrap_or_default();
            spec.retain(|field, _| !NOT_SOURCES.contains(&field.as_str()));
            spec
        };
        if source(spec) != source(old.at("spec")) {
            errors.forbidden(
                &path.field("persistentvolumesource"),
                "spec.persistentvolumesource is immutable after creation",
            );
        }
        errors.immutable(&path.field("volumeMode"), spec.at("volumeMode"), old.at("spec").at("volumeMode"));
    }
}

pub(super) fn storage_class(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let provisioner = object.text("provisioner");
    let path = Path::root("provisioner");
    if provisioner.is_empty() {
        errors.required(&path, "");
    } else {
        let lower = provisioner.to_lowercase();
        errors.named(&path, provisioner, names::qualified_name(&lower));
    }
    errors.maybe_one_of(&Path::root("reclaimPolicy"), object.text("reclaimPolicy"), &["Delete", "Retain"]);
    let binding = object.text("volumeBindingMode");
    if binding.is_empty() {
        errors.required(&Path::root("volumeBindingMode"), "");
    } else {
        errors.one_of(&Path::root("volumeBindingMode"), binding, &["Immediate", "WaitForFirstConsumer"]);
    }
    if let Some(old) = old {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            if object.at(field) != old.at(field) {
                errors.forbidden(
                    &Path::root(field),
                    "updates to parameters are forbidden.".replace("parameters", field).as_str(),
                );
            }
        }
        errors.immutable(&Path::root("volumeBindingMode"), object.at("volumeBindingMode"), old.at("volumeBindingMode"));
    }
}

pub(super) fn csi_driver(errors: &mut Errors, object: &Value, old: Option<&Value>) {
    let name = object.at("metadata").text("name");
    if name.len() > 63 {
        errors.push(FieldError::too_long(Path::root("metadata").field("name"), 63));
    }
    if let Some(old) = old {
        let path = Path::root("spec");
        let field = "attachRequired";
        errors.immutable(&path.field(field), object.at("spec").at(field), old.at("spec").at(field));
    }
}
