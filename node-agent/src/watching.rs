//! Following a collection of the API: the whole current set, always.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use tokio::sync::watch;

/// The set, `None` until it has been listed once.
pub(crate) type Set<K> = Option<Arc<Vec<Arc<K>>>>;

/// After an error.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that come together are shown together.
const GATHER: Duration = Duration::from_millis(10);

/// Follows a collection in a task of its own.
pub(crate) fn follow<K>(api: Api<K>, field_selector: Option<String>) -> watch::Receiver<Set<K>>
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let (tx, rx) = watch::channel(None);
    tokio::spawn(run(api, field_selector, tx));
    rx
}

async fn run<K>(api: Api<K>, field_selector: Option<String>, tx: watch::Sender<Set<K>>)
where
    K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let mut config = watcher::Config::default();
    if let Some(selector) = &field_selector {
        config = config.fields(selector);
    }
    let mut events = Box::pin(watcher(api, config));
    let mut objects: HashMap<(String, String), Arc<K>> = HashMap::new();
    let mut fresh = HashMap::new();
    let mut listed = false;
    let mut dirty = false;
    let key = |object: &K| (object.namespace().unwrap_or_default(), object.name_any());
    loop {
        let event = if dirty {
            match tokio::time::timeout(GATHER, events.next()).await {
                Ok(event) => event,
                Err(_) => {
                    tx.send_replace(Some(Arc::new(objects.values().cloned().collect())));
                    dirty = false;
                    continue;
                }
            }
        } else {
            events.next().await
        };
        match event {
            Some(Ok(Event::Apply(object))) => {
                objects.insert(key(&object), Arc::new(object));
                dirty = listed;
            }
            Some(Ok(Event::Delete(object))) => {
                objects.remove(&key(&object));
                dirty = listed;
            }
            Some(Ok(Event::Init)) => fresh = HashMap::new(),
            Some(Ok(Event::InitApply(object))) => {
                fresh.insert(key(&object), Arc::new(object));
            }
            Some(Ok(Event::InitDone)) => {
                objects = std::mem::take(&mut fresh);
                (listed, dirty) = (true, true);
            }
            Some(Err(error)) => {
                tracing::debug!(%error, kind = std::any::type_name::<K>(), "a watch failed");
                tokio::time::sleep(RETRY).await;
            }
            None => return,
        }
    }
}
