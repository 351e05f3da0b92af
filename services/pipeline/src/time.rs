//! Times as Kubernetes writes them: `metav1.Time` has whole seconds.

use jiff::Timestamp;

/// `2026-11-23T18:00:00Z`.
pub fn seconds(now: Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
