//! What is recorded: one entry for each request, event, bookmark and end of a watch. One JSON object a line in files.

use serde::{Deserialize, Serialize};

/// Microseconds since the recording began, by one monotonic clock.
pub type Micros = u64;

/// A ConfigMap, as far as the history cares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// `metadata.name`
    pub name: String,
    /// `metadata.uid`
    pub uid: String,
    /// `metadata.resourceVersion`
    pub version: u64,
    /// `data.value`: unique for each write, so that a state names the write that made it.
    pub value: String,
    /// The label `half`, which selectors select by.
    pub half: String,
}

/// Which objects a list or watch is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Selector {
    /// Label selector `half=...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub half: Option<String>,
    /// Field selector `metadata.name=...`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

impl Selector {
    /// Whether it is about an object with this name and label.
    pub fn matches(&self, name: &str, half: &str) -> bool {
        self.half.as_deref().is_none_or(|wanted| wanted == half)
            && self.name.as_deref().is_none_or(|wanted| wanted == name)
    }

    /// Whether it is about every object.
    pub fn is_everything(&self) -> bool {
        self.half.is_none() && self.name.is_none()
    }
}

/// One thing that happened, as a client saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "entry", rename_all = "camelCase")]
pub enum Entry {
    /// What the recording is about; the first entry.
    Setup(Setup),
    /// A create, update, patch or delete.
    Write(Write),
    /// A get.
    Get(Get),
    /// A list, all its pages.
    List(List),
    /// A watch was opened, or could not be.
    Open(Open),
    /// A watch received an event.
    Event(Event),
    /// A watch received a bookmark.
    Bookmark(Bookmark),
    /// A watch ended.
    End(End),
    /// A watcher did not get as far as it should in the time it was given.
    Stuck(Stuck),
    /// Something that was done to the server, for readers of the history.
    Note {
        /// When.
        at: Micros,
        /// What.
        what: String,
    },
}

/// What the recording is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setup {
    /// Makes the same workload again.
    pub seed: u64,
    /// The revision before the first write: everything after it is recorded, and nothing was there.
    pub base: u64,
    /// For how long the server promises that revisions can be watched and listed; `None`: no promise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Micros>,
}

/// Which write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum WriteKind {
    /// `POST`
    Create,
    /// `PUT`
    Update,
    /// `PATCH`
    Patch,
    /// `DELETE`
    Delete,
}

/// A write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Write {
    /// Who.
    pub client: String,
    /// When it was sent.
    pub start: Micros,
    /// When it was answered, or given up.
    pub end: Micros,
    /// Which.
    pub kind: WriteKind,
    /// Of which object.
    pub name: String,
    /// What was written; empty for a delete.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// The resourceVersion that it was made conditional on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expects: Option<u64>,
    /// The answer.
    pub outcome: Outcome,
}

/// What became of a write.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// Done; the object as it is now.
    Done(State),
    /// Deleted.
    Deleted {
        /// The uid of what was deleted.
        uid: String,
    },
    /// 409 AlreadyExists.
    Exists,
    /// 404.
    NotFound,
    /// 409 Conflict.
    Conflict,
    /// Refused before it was looked at (429, 400): not done.
    Refused(String),
    /// Nobody knows: it may have been done, or be done later.
    Unknown(String),
}

/// A get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Get {
    /// Who.
    pub client: String,
    /// When it was sent.
    pub start: Micros,
    /// When it was answered, or given up.
    pub end: Micros,
    /// Of which object.
    pub name: String,
    /// How new the answer must be.
    pub asked: Asked,
    /// The answer.
    pub outcome: Read,
}

/// What a get found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Read {
    /// This.
    Found(State),
    /// 404.
    Absent,
    /// No answer that says anything.
    Failed(String),
}

/// How new a read must be: `resourceVersion` and `resourceVersionMatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Asked {
    /// None given: everything acknowledged before.
    Newest,
    /// `0`: anything that was ever there.
    Any,
    /// Not older than.
    NotOlder(u64),
    /// Exactly.
    Exact(u64),
}

/// A list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct List {
    /// Who.
    pub client: String,
    /// When the first page was asked for.
    pub start: Micros,
    /// When the last page was there.
    pub end: Micros,
    /// Of what.
    #[serde(default)]
    pub of: Selector,
    /// How new.
    pub asked: Asked,
    /// `limit`, if it was paginated.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// The answers.
    pub pages: Vec<Page>,
    /// Whether the last page is the list's last.
    pub complete: bool,
    /// Why it is not: 410.
    #[serde(default)]
    pub gone: bool,
    /// Why it is not, otherwise.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub failed: String,
}

/// A page of a list.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// `metadata.resourceVersion` of the list.
    pub version: u64,
    /// `items`
    pub items: Vec<State>,
}

/// Where a watch begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum From {
    /// After this revision.
    Version(u64),
    /// With what is there (`sendInitialEvents`), as new as a consistent list.
    Initial,
}

/// A watch was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Open {
    /// Names the watch in the entries that follow.
    pub session: u64,
    /// Who.
    pub client: String,
    /// When it was sent.
    pub start: Micros,
    /// When it was answered.
    pub end: Micros,
    /// Of what.
    #[serde(default)]
    pub of: Selector,
    /// From where.
    pub from: From,
    /// The answer.
    pub outcome: Opened,
}

/// Whether a watch was opened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Opened {
    /// It is open.
    Yes,
    /// 410: the revision is too old.
    Gone,
    /// No.
    Failed(String),
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum EventKind {
    /// It came to be, or into the selector.
    Added,
    /// It changed.
    Modified,
    /// It went, or out of the selector.
    Deleted,
}

/// An event of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Of which watch.
    pub session: u64,
    /// When it was received.
    pub at: Micros,
    /// What happened.
    pub kind: EventKind,
    /// The object; its last state for a deletion, at the deletion's revision.
    pub state: State,
}

/// A bookmark.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bookmark {
    /// Of which watch.
    pub session: u64,
    /// When it was received.
    pub at: Micros,
    /// Everything up to here was sent.
    pub version: u64,
    /// The end of what was there at the start (`k8s.io/initial-events-end`).
    #[serde(default)]
    pub initial_end: bool,
}

/// The end of a watch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// Of which watch.
    pub session: u64,
    /// When.
    pub at: Micros,
    /// Why.
    pub kind: EndKind,
}

/// Why a watch ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum EndKind {
    /// By the server, in order.
    Closed,
    /// By this client.
    Left,
    /// By a 410 event.
    Gone,
    /// The connection broke, or the server said what cannot be understood.
    Broken(String),
}

/// A watcher that did not get there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stuck {
    /// Who.
    pub client: String,
    /// When it was given up.
    pub at: Micros,
    /// How far it had come.
    pub reached: u64,
    /// How far it should have come.
    pub wanted: u64,
}
