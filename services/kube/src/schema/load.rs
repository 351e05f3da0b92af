//! Reads `data/schema.txt` (its header says the form), and adds what the published schemas do not say: where Go's types make
//! a zero value the same as an absent one.

use std::collections::HashMap;

use super::{Field, ListKind, Schema, Ty, Type, TypeId};

/// Optional texts that are pointers in Go, so that an empty one is kept: (type, field), `*` for any type.
const KEPT_EMPTY: &[(&str, &str)] = &[
    ("PersistentVolumeClaimSpec", "storageClassName"),
    ("*", "volumeAttributesClassName"),
    ("*", "currentVolumeAttributesClassName"),
    ("TypedLocalObjectReference", "apiGroup"),
    ("TypedObjectReference", "apiGroup"),
    ("TypedObjectReference", "namespace"),
    ("IngressClassParametersReference", "apiGroup"),
    ("*", "runtimeClassName"),
    ("*", "hostnameOverride"),
    ("*", "loadBalancerClass"),
    ("*", "appProtocol"),
    ("*", "trafficDistribution"),
    ("*", "ingressClassName"),
    ("*", "holderIdentity"),
    ("*", "timeZone"),
    ("*", "managedBy"),
    ("*", "localhostProfile"),
    ("GRPCAction", "service"),
    ("HostPathVolumeSource", "type"),
    ("Endpoint", "hostname"),
    ("Endpoint", "nodeName"),
    ("Endpoint", "zone"),
    ("EndpointPort", "name"),
    ("Event", "reportingComponent"),
    ("Event", "reportingInstance"),
];

/// Optional booleans and numbers that are not pointers in Go, so that `false` and 0 are dropped.
const DROPPED_ZERO: &[(&str, &str)] = &[
    ("PodSpec", "hostNetwork"),
    ("PodSpec", "hostPID"),
    ("PodSpec", "hostIPC"),
    ("Container", "stdin"),
    ("Container", "stdinOnce"),
    ("Container", "tty"),
    ("EphemeralContainer", "stdin"),
    ("EphemeralContainer", "stdinOnce"),
    ("EphemeralContainer", "tty"),
    ("*", "readOnly"),
    ("DeploymentSpec", "paused"),
    ("ServiceSpec", "publishNotReadyAddresses"),
    ("ServiceSpec", "healthCheckNodePort"),
    ("NodeSpec", "unschedulable"),
    ("ContainerPort", "hostPort"),
    ("ServicePort", "nodePort"),
    ("Probe", "initialDelaySeconds"),
    ("Probe", "timeoutSeconds"),
    ("Probe", "periodSeconds"),
    ("Probe", "successThreshold"),
    ("Probe", "failureThreshold"),
    ("*", "minReadySeconds"),
    ("*", "observedGeneration"),
    ("ObjectMeta", "generation"),
    ("DeploymentStatus", "*"),
    ("ReplicaSetStatus", "*"),
    ("StatefulSetStatus", "*"),
    ("DaemonSetStatus", "*"),
    ("ReplicationControllerStatus", "*"),
    ("JobStatus", "active"),
    ("JobStatus", "succeeded"),
    ("JobStatus", "failed"),
    ("Event", "count"),
];

/// Pointers within the types that `DROPPED_ZERO` names whole.
const KEPT_ZERO: &[&str] = &["collisionCount", "terminatingReplicas"];

fn listed(list: &[(&str, &str)], ty: &str, field: &str) -> bool {
    list.iter().any(|(t, f)| (*t == "*" || *t == ty) && (*f == "*" || *f == field))
}

pub(super) fn load(data: &'static str) -> Schema {
    let mut by_name = HashMap::new();
    let names = data.lines().filter_map(|l| l.strip_prefix("T ")).filter_map(|l| l.split(' ').next());
    for (at, name) in names.enumerate() {
        by_name.insert(name, TypeId(at as u16));
    }
    let mut types: Vec<Type> = Vec::with_capacity(by_name.len());
    let mut by_kind = HashMap::new();
    for line in data.lines().filter(|l| !l.starts_with('#')) {
        if let Some(rest) = line.strip_prefix("T ") {
            let mut words = rest.split(' ');
            let short_name = words.next().unwrap_or_default();
            let mut ty = Type {
                short_name,
                id: TypeId(types.len() as u16),
                fields: Vec::new(),
                atomic: false,
                kinds: Vec::new(),
            };
            for word in words {
                match word.strip_prefix("gvk=") {
                    Some(kinds) => ty.kinds = kinds.split(',').collect(),
                    None => ty.atomic = word == "atomic",
                }
            }
            for kind in &ty.kinds {
                by_kind.insert(*kind, TypeId(types.len() as u16));
            }
            types.push(ty);
        } else if let Some(ty) = types.last_mut() {
            let field = field(line, ty.base_name(), &by_name);
            ty.fields.push(field);
        }
    }
    for ty in &mut types {
        ty.fields.sort_by_key(|f| f.name);
        assert!(ty.fields.len() <= 128, "the decoder keeps a bit for each field");
    }
    Schema { types, by_name, by_kind }
}

fn field(line: &'static str, owner: &str, names: &HashMap<&'static str, TypeId>) -> Field {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let mut field = Field {
        name,
        ty: parse_type(words.next().unwrap_or_default(), names),
        required: false,
        list: ListKind::Atomic,
        map_keys: Vec::new(),
        patch_merge: false,
        patch_retain_keys: false,
        patch_merge_key: "",
        atomic: false,
        default: "",
        drop_zero: false,
    };
    for word in words {
        match word.split_once('=').unwrap_or((word, "")) {
            ("!", _) => field.required = true,
            ("lt", "map") => field.list = ListKind::Map,
            ("lt", "set") => field.list = ListKind::Set,
            ("mk", keys) => field.map_keys = keys.split(',').collect(),
            ("ps", strategy) => {
                field.patch_merge = strategy.contains("merge");
                field.patch_retain_keys = strategy.contains("retainKeys");
            }
            ("pk", key) => field.patch_merge_key = key,
            ("atomic", _) => field.atomic = true,
            ("df", default) => field.default = default,
            _ => {}
        }
    }
    field.drop_zero = !field.required
        && match field.ty {
            Ty::String => !listed(KEPT_EMPTY, owner, name),
            Ty::Bool | Ty::Int32 | Ty::Int64 => listed(DROPPED_ZERO, owner, name) && !KEPT_ZERO.contains(&name),
            Ty::List(_) | Ty::Map(_) => true,
            _ => false,
        };
    field
}

fn parse_type(text: &'static str, names: &HashMap<&'static str, TypeId>) -> Ty {
    let leak = |rest| -> &'static Ty { Box::leak(Box::new(parse_type(rest, names))) };
    match text.as_bytes().first() {
        Some(b's') => Ty::String,
        Some(b'y') => Ty::Bytes,
        Some(b'i') => Ty::Int32,
        Some(b'l') => Ty::Int64,
        Some(b'd') => Ty::Double,
        Some(b'b') => Ty::Bool,
        Some(b'q') => Ty::Quantity,
        Some(b'x') => Ty::IntOrString,
        Some(b't') => Ty::Time,
        Some(b'u') => Ty::MicroTime,
        Some(b'o') => Ty::Object,
        Some(b'j') => Ty::JsonSchema,
        Some(b'[') => Ty::List(leak(&text[1..])),
        Some(b'{') => Ty::Map(leak(&text[1..])),
        Some(b'@') => names.get(&text[1..]).map_or(Ty::Any, |id| Ty::Struct(*id)),
        _ => Ty::Any,
    }
}
