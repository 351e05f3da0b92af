//! Housekeeping: logs are rotated, images that nobody uses go when the disk fills, pods that use too much are evicted, directories
//! of pods that are gone are removed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use galley_node_cri::logs::rotate;
use galley_node_plan::qos::{QosClass, qos_class};
use galley_node_plan::{ContainerState, Ending};
use galley_node_volumes::PodVolumes;
use galley_types::{Clock, SystemClock};

use crate::node::{free_percent, pressure};
use crate::pods::{Host, Message, PodTable};

const EVERY: Duration = Duration::from_secs(10);
/// kubelet's containerLogMaxSize and containerLogMaxFiles.
const LOG_BYTES: u64 = 10 << 20;
const LOG_FILES: usize = 5;
/// kubelet's imageMinimumGCAge: what was just fetched or imported is about to be used.
const IMAGE_GC_MINIMUM_AGE: Duration = Duration::from_secs(120);

pub(crate) async fn keep(host: Arc<Host>, table: PodTable) {
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut images_seen = HashMap::new();
    loop {
        ticks.tick().await;
        rotate_logs(&host, &table).await;
        evict(&host, &table);
        if disk_is_filling(&host) {
            remove_images(&host, &mut images_seen).await;
        } else {
            images_seen.clear();
        }
    }
}

async fn rotate_logs(host: &Host, table: &PodTable) {
    let now = SystemClock.now();
    for entry in table.all() {
        for c in entry.observed.containers.iter().filter(|c| c.state == ContainerState::Running) {
            match rotate(c.log_path.as_ref(), LOG_BYTES, LOG_FILES, now) {
                Ok(false) => {}
                Ok(true) => {
                    if let Err(error) = host.cri.reopen_log(&c.id).await {
                        tracing::warn!(error = error.message(), "a log is not opened again");
                    }
                }
                Err(error) => tracing::warn!(path = c.log_path, %error, "a log cannot be rotated"),
            }
        }
    }
}

fn disk_is_filling(host: &Host) -> bool {
    let threshold = 100 - host.image_gc_percent.min(100);
    free_percent(&host.data_dir).is_some_and(|free| free < threshold)
}

/// Removes images that no container has used for a while. `seen` holds since when each is known while the disk is full.
async fn remove_images(host: &Host, seen: &mut HashMap<String, Instant>) {
    let (Ok(images), Ok(used)) = (host.cri.image_list().await, host.cri.images_in_use().await) else { return };
    seen.retain(|id, _| images.iter().any(|image| image.id == *id));
    for image in images.iter().filter(|i| !i.pinned && !i.names.iter().any(|n| n.contains("pause"))) {
        if used.contains(&image.id) || image.names.iter().any(|n| used.contains(n)) {
            seen.remove(&image.id);
            continue;
        }
        if seen.entry(image.id.clone()).or_insert_with(Instant::now).elapsed() < IMAGE_GC_MINIMUM_AGE {
            continue;
        }
        match host.cri.remove_image(&image.id).await {
            Ok(()) => tracing::info!(image = ?image.names, "an unused image is removed: the disk fills up"),
            Err(error) => tracing::debug!(error = error.message(), "an image is not removed"),
        }
    }
}

/// Ends pods that use more than their emptyDir may hold; and, when the node runs out of memory or disk, the pod that may go
/// first: best-effort before burstable before guaranteed, low priority before high, one at a time.
fn evict(host: &Host, table: &PodTable) {
    let now = SystemClock.now();
    let end = |entry: &crate::pods::PodEntry, message: String| {
        host.events.pod(&entry.pod, None, true, "Evicted", message.clone());
        let ending = Ending { reason: "Evicted".into(), message, grace: Some(0), at: now };
        let _ = entry.messages.send(Message::End(ending));
    };
    let entries = table.all();
    for entry in &entries {
        let uid = entry.pod.metadata.uid.as_deref().unwrap_or_default();
        if let Some((volume, limit)) = PodVolumes::new(&host.pods_dir, uid).over_limit(&entry.pod) {
            end(entry, format!("Usage of EmptyDir volume \"{volume}\" exceeds the limit \"{limit}\". "));
        }
    }
    let pressure = pressure(&host.data_dir, host.eviction_disk_percent);
    let resource = match (pressure.memory, pressure.disk) {
        (true, _) => "memory",
        (false, true) => "ephemeral-storage",
        (false, false) => return,
    };
    let running = entries.iter().filter(|e| e.observed.anything_alive());
    let evictable = running.filter(|e| {
        // Static and critical pods stay.
        e.pod.spec.as_ref().is_some_and(|s| s.priority.unwrap_or(0) < 2_000_000_000)
    });
    let first = evictable.min_by_key(|e| {
        let spec = e.pod.spec.clone().unwrap_or_default();
        let class = match qos_class(&spec) {
            QosClass::BestEffort => 0,
            QosClass::Burstable => 1,
            QosClass::Guaranteed => 2,
        };
        (spec.priority.unwrap_or(0), class, e.pod.metadata.uid.clone())
    });
    if let Some(entry) = first {
        host.events.node(&host.node, true, "EvictionThresholdMet", format!("Attempting to reclaim {resource}"));
        end(entry, format!("The node was low on resource: {resource}. "));
    }
}
