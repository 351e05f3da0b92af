//! Defaults of volumes and their classes.

use serde_json::{Map, Value, json};

use super::{child, get, set};

type Object = Map<String, Value>;

pub(super) fn persistent_volume_claim(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "volumeMode", "Filesystem");
    child(spec, "resources");
    // Two fields for one thing: the newer one is filled from the older where only that is set.
    if let Some(source) = spec.get("dataSource").cloned() {
        set(spec, "dataSourceRef", source);
    }
    set(child(object, "status"), "phase", "Pending");
}

pub(super) fn persistent_volume(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "persistentVolumeReclaimPolicy", "Retain");
    set(spec, "volumeMode", "Filesystem");
    super::pod::source_defaults(spec);
    set(child(object, "status"), "phase", "Pending");
}

pub(super) fn storage_class(object: &mut Object) {
    set(object, "reclaimPolicy", "Delete");
    set(object, "volumeBindingMode", "Immediate");
}

pub(super) fn csi_driver(object: &mut Object) {
    let spec = child(object, "spec");
    set(spec, "attachRequired", true);
    set(spec, "podInfoOnMount", false);
    set(spec, "storageCapacity", false);
    set(spec, "requiresRepublish", false);
    set(spec, "seLinuxMount", false);
    set(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
    if get(spec, "volumeLifecycleModes").is_none() {
        set(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }
}
