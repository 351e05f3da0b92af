//! Lists: spliced from encoded objects, in chunks where the client asks for them.
//!
//! A continue token says at which revision the list was begun and after which object to go on, so that all chunks show one
//! moment. Past the retention the moment is lost: 410, with a token to go on from what is there now.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures::stream;
use galley_kube::{Cause, Reason, Resource, Status};
use galley_pipeline::ClusterApi;
use galley_store::{Listing, Object, Scope, WatchEnd};
use galley_types::Revision;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::Call;
use super::negotiate::View;
use super::query::{Query, Selectors};
use super::respond::Style;
use super::view;
use crate::body::Body;

/// A list is sent in pieces of about this size, so that it is never whole in memory twice. Each is a turn of its tenant.
const PIECE: usize = 256 * 1024;
/// Objects of this size and more are sent out of the cache as they are; smaller ones are copied together, as a piece costs
/// more than a copy of them.
const LARGE: usize = 32 * 1024;

/// Where the next chunk begins.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Continue {
    /// The list's revision; 0: whatever is newest (an inconsistent continuation).
    revision: u64,
    namespace: String,
    name: String,
}

impl Continue {
    fn encode(&self) -> String {
        let token = json!({"v": "meta.k8s.io/v1", "rv": self.revision, "start": [self.namespace, self.name]});
        URL_SAFE_NO_PAD.encode(token.to_string())
    }

    fn decode(text: &str) -> Option<Self> {
        let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
        Some(Self {
            revision: value["rv"].as_u64()?,
            namespace: value["start"][0].as_str()?.to_owned(),
            name: value["start"][1].as_str()?.to_owned(),
        })
    }
}

/// One chunk of a list.
struct Chunk {
    revision: Revision,
    objects: Vec<Arc<Object>>,
    /// The token of the next chunk, and how many objects are in those to come.
    next: Option<(String, Option<usize>)>,
}

/// Answers a list.
pub async fn answer(
    call: &Call,
    resource: &Arc<Resource>,
    namespace: &str,
    name: &str,
    query: &Query,
    form: View,
    style: Style,
) -> Result<Response<Body>, Status> {
    let selectors = Selectors::of(query, resource)?;
    let scope = scope(resource, namespace);
    let chunk = chunk(call, &scope, name, query, &selectors).await?;
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), json!(chunk.revision.to_string()));
    if let Some((token, remaining)) = &chunk.next {
        metadata.insert("continue".into(), json!(token));
        if let Some(remaining) = remaining {
            metadata.insert("remainingItemCount".into(), json!(remaining));
        }
    }
    match form {
        View::Object => {
            let head = format!(
                "{{\"kind\":\"{}List\",\"apiVersion\":\"{}\",\"metadata\":{},\"items\":[",
                resource.kind,
                resource.api_version(),
                Value::Object(metadata)
            );
            spliced(call, resource, head, chunk.objects, style)
        }
        View::Metadata => {
            let items: Vec<Value> =
                decoded(call, resource, &chunk.objects).await?.iter().map(view::metadata_of).collect();
            let list = json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": metadata, "items": items});
            Ok(style.value(StatusCode::OK, &list))
        }
        View::Table(include) => {
            let objects = decoded(call, resource, &chunk.objects).await?;
            let objects: Vec<&Value> = objects.iter().collect();
            let table = view::table_of(&call.api, resource, &objects, include, Value::Object(metadata), true);
            Ok(style.value(StatusCode::OK, &table))
        }
    }
}

/// Which objects a list or watch is about.
pub fn scope(resource: &Resource, namespace: &str) -> Scope {
    let namespace = (resource.namespaced && !namespace.is_empty()).then(|| namespace.into());
    Scope { resource: resource.name(), namespace }
}

/// Every object that a list without limit would show.
pub async fn all(call: &Call, resource: &Resource, namespace: &str, query: &Query) -> Result<Vec<Arc<Object>>, Status> {
    let selectors = Selectors::of(query, resource)?;
    let mut objects = call.api.store().list(&scope(resource, namespace)).objects;
    objects.retain(|object| selectors.matches(object));
    Ok(objects)
}

async fn chunk(call: &Call, scope: &Scope, name: &str, query: &Query, selectors: &Selectors) -> Result<Chunk, Status> {
    let store = call.api.store();
    let limit = usize::try_from(query.number("limit")?.unwrap_or(0)).unwrap_or(0);
    let version = query.text("resourceVersion");
    let matching = query.text("resourceVersionMatch");
    let after = match query.text("continue") {
        "" => None,
        text => Some(Continue::decode(text).ok_or_else(|| Status::bad_request("continue key is not valid"))?),
    };
    let mut listing = match &after {
        Some(_) if !matches!(version, "" | "0") => {
            return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
        }
        Some(token) if token.revision > 0 => {
            let at = store.list_at(scope, Revision(token.revision)).await;
            at.map_err(|end| too_old(end, &Continue { revision: 0, ..token.clone() }))?
        }
        Some(_) => store.list(scope),
        None => first(call, scope, version, matching).await?,
    };
    if let Some(token) = &after {
        let position = (token.namespace.as_str(), token.name.as_str());
        listing.objects.retain(|object| (&*object.key.namespace, &*object.key.name) > position);
    }
    if !name.is_empty() {
        listing.objects.retain(|object| &*object.key.name == name);
    }
    if !selectors.is_everything() {
        listing.objects.retain(|object| selectors.matches(object));
    }
    let mut next = None;
    if limit > 0 && listing.objects.len() > limit {
        let left = listing.objects.len() - limit;
        listing.objects.truncate(limit);
        next = listing.objects.last().map(|last| {
            let token = Continue {
                revision: listing.revision.0,
                namespace: last.key.namespace.to_string(),
                name: last.key.name.to_string(),
            };
            (token.encode(), selectors.is_everything().then_some(left))
        });
    }
    Ok(Chunk { revision: listing.revision, objects: listing.objects, next })
}

/// The list at the revision that the client asked for.
async fn first(call: &Call, scope: &Scope, version: &str, matching: &str) -> Result<Listing, Status> {
    let store = call.api.store();
    let asked = parse_version(version)?;
    match (asked, matching) {
        (_, "" | "NotOlderThan" | "Exact") => {}
        (_, other) => {
            return Err(Status::bad_request(format!(
                "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
            )));
        }
    }
    if asked > store.revision() {
        return Err(too_large(asked, store.revision()));
    }
    match matching {
        "Exact" if asked == Revision(0) => Err(Status::bad_request(
            "resourceVersionMatch: Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"",
        )),
        "Exact" => store.list_at(scope, asked).await.map_err(|end| expired(&end)),
        _ => Ok(store.list(scope)),
    }
}

/// A resourceVersion parameter; empty is 0.
pub fn parse_version(text: &str) -> Result<Revision, Status> {
    if text.is_empty() {
        return Ok(Revision(0));
    }
    text.parse()
        .map(Revision)
        .map_err(|_| Status::bad_request(format!("Invalid value: {text:?}: invalid resource version")))
}

/// 504: a revision that is not there yet.
pub fn too_large(asked: Revision, current: Revision) -> Status {
    let text = format!("Too large resource version: {asked}, current: {current}");
    let mut status = Status::new(504, Reason::Timeout, text);
    status.retry_after_seconds = 1;
    status.causes.push(Cause {
        reason: "ResourceVersionTooLarge",
        message: "Too large resource version".into(),
        field: String::new(),
    });
    status
}

/// A lost moment as 410.
pub fn expired(end: &WatchEnd) -> Status {
    match end {
        WatchEnd::Expired { .. } => Status::new(410, Reason::Expired, end.to_string()),
        WatchEnd::TooSlow | WatchEnd::Closing => {
            let mut status = Status::new(503, Reason::ServiceUnavailable, end.to_string());
            status.retry_after_seconds = 1;
            status
        }
    }
}

const INCONSISTENT: &str = "The provided continue parameter is too old to display a consistent list result. You can start a new \
     list without the continue parameter, or use the continue token in this response to retrieve the remainder of the \
     results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or \
     deleted between the time the first chunk was returned and now may show up in the list.";

fn too_old(end: WatchEnd, go_on: &Continue) -> Status {
    match end {
        WatchEnd::Expired { .. } => {
            let mut status = Status::new(410, Reason::Expired, INCONSISTENT);
            status.continue_token = go_on.encode();
            status
        }
        end => expired(&end),
    }
}

/// Encoded objects between `head` and the end of the list.
fn spliced(
    call: &Call,
    resource: &Arc<Resource>,
    head: String,
    objects: Vec<Arc<Object>>,
    style: Style,
) -> Result<Response<Body>, Status> {
    let size: usize = objects.iter().map(|object| object.body.len() + 1).sum();
    if size < PIECE {
        let mut out = Vec::with_capacity(head.len() + size + 2);
        out.extend_from_slice(head.as_bytes());
        splice(call, resource, &objects, true, &mut out)?;
        out.extend_from_slice(b"]}");
        return Ok(style.bytes(StatusCode::OK, out.into()));
    }
    let pieces = Pieces {
        api: call.api.clone(),
        resource: resource.clone(),
        rest: objects.into_iter(),
        next: Vec::from(head),
        large: None,
        is_first: true,
        is_ended: false,
    };
    let mut response = Response::new(Body::from_stream(call.flow.pieces(stream::iter(pieces))));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    Ok(response)
}

/// A list as it is sent: made when it is asked for, so that nothing waits for a slow client but what the cache has anyway.
struct Pieces {
    api: ClusterApi,
    resource: Arc<Resource>,
    rest: std::vec::IntoIter<Arc<Object>>,
    /// What the next piece begins with.
    next: Vec<u8>,
    /// The next piece, which is a whole object.
    large: Option<Bytes>,
    is_first: bool,
    is_ended: bool,
}

impl Iterator for Pieces {
    type Item = Result<Bytes, std::io::Error>;

    fn next(&mut self) -> Option<Self::Item> {
        if let Some(large) = self.large.take() {
            return Some(Ok(large));
        }
        if self.is_ended {
            return None;
        }
        let mut out = std::mem::take(&mut self.next);
        while out.len() < PIECE {
            let Some(object) = self.rest.next() else {
                out.extend_from_slice(b"]}");
                self.is_ended = true;
                break;
            };
            let bytes = match self.api.encode(&object, &self.resource) {
                Ok(bytes) => bytes,
                Err(status) => {
                    self.is_ended = true;
                    return Some(Err(std::io::Error::other(status)));
                }
            };
            if !std::mem::replace(&mut self.is_first, false) {
                out.push(b',');
            }
            if bytes.len() >= LARGE {
                self.large = Some(bytes);
                break;
            }
            out.reserve((PIECE + LARGE).saturating_sub(out.len()));
            out.extend_from_slice(&bytes);
        }
        Some(Ok(out.into()))
    }
}

/// All objects as trees. What comes in between is served in between.
async fn decoded(call: &Call, resource: &Resource, objects: &[Arc<Object>]) -> Result<Vec<Value>, Status> {
    let (mut values, mut size) = (Vec::with_capacity(objects.len()), 0);
    for object in objects {
        values.push(call.api.decode(object, resource)?);
        size += object.body.len();
        if size >= PIECE {
            size = 0;
            tokio::task::yield_now().await;
        }
    }
    Ok(values)
}

fn splice(
    call: &Call,
    resource: &Resource,
    objects: &[Arc<Object>],
    mut first: bool,
    out: &mut Vec<u8>,
) -> Result<(), Status> {
    for object in objects {
        if !first {
            out.push(b',');
        }
        first = false;
        out.extend_from_slice(&call.api.encode(object, resource)?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_continue_token_survives() {
        let token = Continue { revision: 7, namespace: "a".into(), name: "b/c".into() };
        assert_eq!(Continue::decode(&token.encode()), Some(token));
        assert_eq!(Continue::decode("nonsense"), None);
    }
}
