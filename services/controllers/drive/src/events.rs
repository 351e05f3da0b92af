//! Events as users know them: counted when they repeat, combined when they are alike, dropped when they are spam.
//!
//! The rules and their figures are those of the Kubernetes client library (Kubernetes documentation, 'Event' and the
//! `EventCorrelator`): more than ten different messages of one reason about one object in ten minutes become one event;
//! twenty-five events about one object may be written at once, then one in five minutes. So a Deployment of a thousand
//! replicas writes a few events and not a thousand. Pure: the driver writes what this decides.

use std::collections::{HashMap, HashSet};

use galley_controllers_plan::{Note, Severity, meta, time};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const MAX_DIFFERENT: usize = 10;
const ALIKE_WITHIN: SignedDuration = SignedDuration::from_secs(600);
const BURST: f64 = 25.0;
const REFILL_PER_SECOND: f64 = 1.0 / 300.0;
/// What is remembered at most, for each map; the oldest half goes when there is more.
const MEMORY: usize = 4_096;

/// What to write.
#[derive(Debug, Clone, PartialEq)]
pub enum EventWrite {
    /// A new Event object.
    Create {
        /// The Event, in its canonical form.
        body: Value,
    },
    /// The same once more.
    Count {
        /// Where.
        namespace: String,
        /// The Event's name.
        name: String,
        /// A merge patch: count, times, message.
        patch: Value,
        /// The Event whole, should the old one be gone.
        body: Value,
    },
}

type Alike = (&'static str, String, Severity, String);

#[derive(Debug)]
struct Seen {
    name: String,
    count: i64,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Debug)]
struct Different {
    messages: HashSet<String>,
    last: Timestamp,
}

#[derive(Debug)]
struct Bucket {
    tokens: f64,
    filled: Timestamp,
}

/// The memory of one cluster's events.
#[derive(Debug, Default)]
pub struct Recorder {
    seen: HashMap<(Alike, String), Seen>,
    different: HashMap<Alike, Different>,
    buckets: HashMap<(&'static str, String), Bucket>,
    serial: u64,
}

impl Recorder {
    /// What to write for a note of a component; nothing if it is spam.
    pub fn record(&mut self, component: &'static str, note: &Note, now: Timestamp) -> Option<EventWrite> {
        self.forget();
        let about = format!(
            "{}/{}/{}",
            note.about.kind.as_deref().unwrap_or_default(),
            note.about.namespace.as_deref().unwrap_or_default(),
            note.about.uid.as_deref().or(note.about.name.as_deref()).unwrap_or_default(),
        );
        let alike: Alike = (component, about.clone(), note.severity, note.reason.clone().into_owned());
        let different =
            self.different.entry(alike.clone()).or_insert_with(|| Different { messages: HashSet::new(), last: now });
        if now.duration_since(different.last) > ALIKE_WITHIN {
            different.messages.clear();
        }
        different.last = now;
        if different.messages.len() < MAX_DIFFERENT {
            different.messages.insert(note.message.clone());
        }
        let combined = different.messages.len() >= MAX_DIFFERENT && !different.messages.contains(&note.message);
        let message =
            if combined { format!("(combined from similar events): {}", note.message) } else { note.message.clone() };
        // Combined events are one event, whatever each says.
        let identity = (alike, if combined { String::new() } else { message.clone() });

        if !self.allow(component, about, now) {
            return None;
        }
        self.serial += 1;
        let namespace = note.about.namespace.as_deref().filter(|ns| !ns.is_empty()).unwrap_or("default").to_owned();
        let serial = now.as_nanosecond().cast_unsigned().wrapping_add(u128::from(self.serial));
        let fresh = format!("{}.{:x}", note.about.name.as_deref().unwrap_or("cluster"), serial & u128::from(u64::MAX));
        let seen = self.seen.entry(identity).or_insert(Seen { name: fresh, count: 0, first: now, last: now });
        seen.count += 1;
        seen.last = now;
        let body = event(component, note, &namespace, seen, &message);
        if seen.count == 1 {
            return Some(EventWrite::Create { body });
        }
        let patch = json!({"count": seen.count, "lastTimestamp": time::seconds(now), "message": message});
        Some(EventWrite::Count { namespace, name: seen.name.clone(), patch, body })
    }

    fn allow(&mut self, component: &'static str, about: String, now: Timestamp) -> bool {
        let bucket = self.buckets.entry((component, about)).or_insert(Bucket { tokens: BURST, filled: now });
        let passed = now.duration_since(bucket.filled).as_secs_f64().max(0.0);
        bucket.tokens = passed.mul_add(REFILL_PER_SECOND, bucket.tokens).min(BURST);
        bucket.filled = now;
        if bucket.tokens < 1.0 {
            return false;
        }
        bucket.tokens -= 1.0;
        true
    }

    fn forget(&mut self) {
        fn halve<K: std::hash::Hash + Eq, V>(map: &mut HashMap<K, V>, when: impl Fn(&V) -> Timestamp) {
            if map.len() < MEMORY {
                return;
            }
            let mut times: Vec<Timestamp> = map.values().map(&when).collect();
            let middle = times.len() / 2;
            let (_, median, _) = times.select_nth_unstable(middle);
            let median = *median;
            map.retain(|_, value| when(value) > median);
        }
        halve(&mut self.seen, |seen| seen.last);
        halve(&mut self.different, |different| different.last);
        halve(&mut self.buckets, |bucket| bucket.filled);
    }
}

fn event(component: &str, note: &Note, namespace: &str, seen: &Seen, message: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": seen.name, "namespace": namespace},
        "involvedObject": meta::to_value(&note.about),
        "reason": note.reason,
        "message": message,
        "type": match note.severity { Severity::Normal => "Normal", Severity::Warning => "Warning" },
        "source": {"component": component},
        "reportingComponent": component,
        "reportingInstance": "",
        "firstTimestamp": time::seconds(seen.first),
        "lastTimestamp": time::seconds(seen.last),
        "count": seen.count,
    })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ObjectReference;

    use super::*;

    fn note(message: &str) -> Note {
        let about = ObjectReference {
            kind: Some("ReplicaSet".into()),
            namespace: Some("default".into()),
            name: Some("web".into()),
            uid: Some("u1".into()),
            ..ObjectReference::default()
        };
        Note::normal(&about, "SuccessfulCreate", message)
    }

    fn now() -> Timestamp {
        "2026-01-01T00:00:00Z".parse().unwrap()
    }

    #[test]
    fn a_repeated_event_is_counted() {
        let mut recorder = Recorder::default();
        let Some(EventWrite::Create { body }) = recorder.record("c", &note("a"), now()) else { panic!() };
        assert_eq!((&body["metadata"]["namespace"], &body["count"]), (&json!("default"), &json!(1)));
        assert_eq!(body["message"], "a");
        assert_eq!(body["source"], json!({"component": "c"}));
        let Some(EventWrite::Count { name, patch, .. }) = recorder.record("c", &note("a"), now()) else { panic!() };
        assert_eq!((json!(name), &patch["count"]), (body["metadata"]["name"].clone(), &json!(2)));
    }

    #[test]
    fn many_alike_are_combined_and_then_dropped() {
        let mut recorder = Recorder::default();
        let mut created = 0;
        let mut counted = 0;
        for n in 0..100 {
            match recorder.record("c", &note(&format!("Created pod: web-{n}")), now()) {
                Some(EventWrite::Create { .. }) => created += 1,
                Some(EventWrite::Count { patch, .. }) => {
                    assert!(patch["message"].as_str().unwrap().starts_with("(combined from similar events): "));
                    counted += 1;
                }
                None => {}
            }
        }
        assert_eq!((created, counted), (11, 14), "ten of their own, one combined; twenty-five in all");
        let later = now() + SignedDuration::from_secs(301);
        assert!(recorder.record("c", &note("one more"), later).is_some());
    }
}
