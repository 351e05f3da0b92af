//! Watches: one JSON document for each event, on a response that stays open.
//!
//! An event of an unselected watch is encoded once for all its watchers (`Event::line`). A selector turns changes into what
//! the watcher would have seen: an object that stops matching is deleted for it, one that starts matching is added.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{FutureExt, stream};
use galley_kube::{Resource, Status};
use galley_pipeline::ClusterApi;
use galley_store::{Event, EventKind, Object, Watch, WatchEnd, WatchItem};
use galley_types::Revision;
use http::Response;
use http::header::{CONTENT_TYPE, HeaderValue};
use rand::Rng;
use serde_json::{Value, json};
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::Call;
use super::list;
use super::negotiate::View;
use super::query::{Query, Selectors};
use super::view;
use crate::body::Body;
use crate::flow::HeldWatch;

/// How long a watch lasts that names no `timeoutSeconds`: 30 to 60 minutes, spread so that not all come back at once.
const SHORTEST: u64 = 30 * 60;
/// Events are gathered into frames of up to this size while more wait. With the store's cursor, which takes a bounded number of
/// bytes, and one event that may be larger, this is all that is kept for a client between the log and its socket: one that does
/// not read is not asked for its next frame, falls behind the log, and is cut off there.
const FRAME: usize = 64 * 1024;

/// Answers a watch.
pub async fn answer(
    call: &Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    query: &Query,
    form: View,
) -> Result<Response<Body>, Status> {
    let selectors = Selectors::of(query, resource)?;
    let scope = list::scope(resource, namespace);
    let version = query.text("resourceVersion");
    let asked = list::parse_version(version)?;
    let bookmarks = query.flag("allowWatchBookmarks");
    let asked_initial = query.optional_flag("sendInitialEvents");
    check_initial(query, asked_initial)?;
    let timeout = match query.number("timeoutSeconds")? {
        Some(seconds) if seconds > 0 => seconds.unsigned_abs(),
        _ => SHORTEST + rand::rng().random_range(0..SHORTEST),
    };
    let store = call.api.store();
    if asked > store.revision() {
        return Err(list::too_large(asked, store.revision()));
    }
    let encoder = Encoder {
        api: call.api.clone(),
        resource: resource.clone(),
        selectors,
        name: name.to_owned(),
        form,
        columns_sent: false,
        bookmarks,
    };
    let held = call.flow.watch()?;
    let mut initial = Initial::default();
    // No version or 0: what there is comes first, as if it were added now.
    let everything = asked_initial.unwrap_or(asked == Revision(0));
    let from = if everything || asked == Revision(0) {
        let listing = store.list(&scope);
        if everything {
            initial.objects = listing.objects.into_iter();
            initial.end = (asked_initial == Some(true) && bookmarks).then_some(listing.revision);
        }
        listing.revision
    } else {
        asked
    };
    let (watch, ready) = match store.watch(scope, from).await {
        Ok(watch) => (Some(watch), VecDeque::new()),
        // The client comes back to where it was.
        Err(end @ (WatchEnd::TooSlow | WatchEnd::Closing)) => return Err(list::expired(&end)),
        Err(end @ WatchEnd::Expired { .. }) => {
            // A client reads it as an event: its list was too old, and it lists again.
            initial = Initial::default();
            (None, VecDeque::from([error_line(&list::expired(&end))?]))
        }
    };
    let end = End {
        timeout: Box::pin(tokio::time::sleep(Duration::from_secs(timeout))),
        shutdown: Box::pin(call.shutdown.clone().cancelled_owned()),
    };
    let state = State { watch, initial, encoder, ready, end, _held: held };
    let frames = stream::unfold(state, |mut state| async move {
        let frame = state.next().await?;
        Some((Ok::<_, std::convert::Infallible>(frame), state))
    });
    let mut response = Response::new(Body::from_stream(call.flow.pieces(frames)));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

fn check_initial(query: &Query, initial: Option<bool>) -> Result<(), Status> {
    let matching = query.text("resourceVersionMatch");
    let invalid = |field: &str, why: &str| {
        let error = galley_kube::FieldError {
            field: field.into(),
            reason: "FieldValueForbidden",
            message: format!("Forbidden: {why}"),
        };
        Err(Status::invalid("meta.k8s.io", "ListOptions", "", &[error]))
    };
    match (initial, matching) {
        (Some(_), "NotOlderThan") | (None, "") => Ok(()),
        (Some(_), "") => {
            invalid("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
        (Some(_), _) => {
            invalid("resourceVersionMatch", "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
        }
        (None, _) => invalid(
            "resourceVersionMatch",
            "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
        ),
    }
}

/// What there was when the watch began: encoded as it is sent, not before.
#[derive(Default)]
struct Initial {
    objects: std::vec::IntoIter<Arc<Object>>,
    /// The bookmark that says that they have ended.
    end: Option<Revision>,
}

struct State {
    watch: Option<Watch>,
    initial: Initial,
    encoder: Encoder,
    ready: VecDeque<Bytes>,
    end: End,
    _held: HeldWatch,
}

/// What ends a watch. Kept as long as the watch: made at each wait, they would be put into and taken out of the runtime's timers
/// and the server's list of whom to tell for every batch of events and every watcher.
struct End {
    timeout: Pin<Box<Sleep>>,
    shutdown: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl State {
    /// The next bytes, or the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(frame) = self.gathered() {
                return Some(frame);
            }
            if self.take_initial() {
                continue;
            }
            let watch = self.watch.as_mut()?;
            let item = tokio::select! {
                biased;
                () = &mut self.end.shutdown => return None,
                () = &mut self.end.timeout => return None,
                item = watch.next() => item,
            };
            self.take(item);
            // What else is there already goes into the same frame.
            let mut waiting: usize = self.ready.iter().map(Bytes::len).sum();
            while waiting < FRAME
                && let Some(watch) = self.watch.as_mut()
                && let Some(item) = watch.next().now_or_never()
            {
                let before = self.ready.len();
                self.take(item);
                waiting += self.ready.iter().skip(before).map(Bytes::len).sum::<usize>();
            }
        }
    }

    /// A frame of what is ready. What is large is sent as it is; only small lines are copied together.
    fn gathered(&mut self) -> Option<Bytes> {
        let first = self.ready.pop_front()?;
        let fits = |length: usize, line: &Bytes| length + line.len() <= FRAME;
        if !self.ready.front().is_some_and(|second| fits(first.len(), second)) {
            return Some(first);
        }
        let mut frame = BytesMut::with_capacity(FRAME);
        frame.extend_from_slice(&first);
        while let Some(line) = self.ready.pop_front_if(|line| fits(frame.len(), line)) {
            frame.extend_from_slice(&line);
        }
        Some(frame.freeze())
    }

    /// Encodes about a frame of what there was at the beginning. False: all of it is sent.
    fn take_initial(&mut self) -> bool {
        let mut size = 0;
        while size < FRAME {
            let line = match self.initial.objects.next() {
                Some(object) if self.encoder.shows(&object) => self.encoder.line("ADDED", &object),
                Some(_) => continue,
                None => match self.initial.end.take() {
                    Some(revision) => self.encoder.bookmark(revision, true),
                    None => break,
                },
            };
            match line {
                Ok(line) => {
                    size += line.len();
                    self.ready.push_back(line);
                }
                Err(status) => {
                    tracing::error!(error = %status, "an object cannot be encoded");
                    (self.watch, self.initial) = (None, Initial::default());
                    break;
                }
            }
        }
        size > 0
    }

    fn take(&mut self, item: Result<WatchItem, WatchEnd>) {
        let line = match item {
            Ok(WatchItem::Event(event)) => self.encoder.event(&event),
            Ok(WatchItem::Progress(revision)) if self.encoder.bookmarks => {
                self.encoder.bookmark(revision, false).map(Some)
            }
            Ok(WatchItem::Progress(_)) => Ok(None),
            Err(end) => {
                self.watch = None;
                match end {
                    WatchEnd::Expired { .. } => error_line(&list::expired(&end)).map(Some),
                    // The client resumes from what it has seen.
                    WatchEnd::TooSlow | WatchEnd::Closing => Ok(None),
                }
            }
        };
        match line {
            Ok(Some(line)) => self.ready.push_back(line),
            Ok(None) => {}
            Err(status) => {
                tracing::error!(error = %status, "an event cannot be encoded");
                self.watch = None;
            }
        }
    }
}

struct Encoder {
    api: ClusterApi,
    resource: Arc<Resource>,
    selectors: Selectors,
    name: String,
    form: View,
    columns_sent: bool,
    bookmarks: bool,
}

impl Encoder {
    fn shows(&self, object: &Object) -> bool {
        (self.name.is_empty() || *self.name == *object.key.name) && self.selectors.matches(object)
    }

    fn is_plain(&self) -> bool {
        self.form == View::Object && self.resource.is_storage_version()
    }

    /// The line of a change, if this watcher sees it.
    fn event(&mut self, event: &Event) -> Result<Option<Bytes>, Status> {
        let now = self.shows(&event.object);
        let before = event.previous.as_ref().is_some_and(|previous| self.shows(previous));
        let kind = match event.kind {
            EventKind::Added if now => "ADDED",
            EventKind::Modified if now && before => "MODIFIED",
            EventKind::Modified if now => "ADDED",
            EventKind::Modified if before => {
                // What it looked like when it was last seen, at the revision that took it away.
                let Some(previous) = &event.previous else { return Ok(None) };
                return self.departed(previous, event.object.revision).map(Some);
            }
            EventKind::Deleted if now || before => "DELETED",
            EventKind::Added | EventKind::Modified | EventKind::Deleted => return Ok(None),
        };
        let whole = matches!(
            (event.kind, kind),
            (EventKind::Added, "ADDED") | (EventKind::Modified, "MODIFIED") | (EventKind::Deleted, "DELETED")
        );
        if whole && self.is_plain() {
            let line = match event.line.get() {
                Some(line) => line.clone(),
                None => {
                    let line = self.line(kind, &event.object)?;
                    event.line.get_or_init(|| line).clone()
                }
            };
            return Ok(Some(line));
        }
        self.line(kind, &event.object).map(Some)
    }

    fn departed(&mut self, previous: &Object, revision: Revision) -> Result<Bytes, Status> {
        let mut value = self.api.decode(previous, &self.resource)?;
        value["metadata"]["resourceVersion"] = json!(revision.to_string());
        let body = self.shown(&value)?;
        Ok(framed("DELETED", &body))
    }

    fn line(&mut self, kind: &str, object: &Object) -> Result<Bytes, Status> {
        if self.form == View::Object {
            return Ok(framed(kind, &self.api.encode(object, &self.resource)?));
        }
        let value = self.api.decode(object, &self.resource)?;
        let body = self.shown(&value)?;
        Ok(framed(kind, &body))
    }

    /// A tree in the form of this watch.
    fn shown(&mut self, value: &Value) -> Result<Bytes, Status> {
        match self.form {
            View::Object => view::encode(value),
            View::Metadata => view::encode(&view::metadata_of(value)),
            View::Table(include) => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                let metadata = json!({"resourceVersion": value.pointer("/metadata/resourceVersion")});
                view::encode(&view::table_of(&self.api, &self.resource, &[value], include, metadata, columns))
            }
        }
    }

    fn bookmark(&mut self, revision: Revision, initial_end: bool) -> Result<Bytes, Status> {
        let mut metadata = json!({"resourceVersion": revision.to_string(), "creationTimestamp": null});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let object = match self.form {
            View::Object => {
                json!({"kind": self.resource.kind, "apiVersion": self.resource.api_version(), "metadata": metadata})
            }
            View::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            View::Table(include) => {
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                let mut table = view::table_of(
                    &self.api,
                    &self.resource,
                    &[],
                    include,
                    json!({"resourceVersion": revision.to_string()}),
                    columns,
                );
                let carried =
                    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata});
                table["rows"] = json!([{"cells": [], "object": carried}]);
                table
            }
        };
        Ok(framed("BOOKMARK", &view::encode(&object)?))
    }
}

fn framed(kind: &str, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

fn error_line(status: &Status) -> Result<Bytes, Status> {
    Ok(framed("ERROR", &view::encode(&status.to_value())?))
}
