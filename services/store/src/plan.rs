//! What a batch of writes does: preconditions checked, revisions given, rows and events made. Pure: the writer does the IO.
//!
//! Writes of one batch see each other in their order. Nothing is visible to readers until the batch is committed; if it is
//! not, every answer of it is void, the refusals too, since they may have been decided on a write that never was.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use galley_types::Revision;
use jiff::Timestamp;
use tokio::sync::oneshot;

use crate::backend::{Batch, ChangeRow, PreviousRow, Step};
use crate::cluster::{CommitError, Loaded, Write};
use crate::codec;
use crate::config::SEGMENT_SECONDS;
use crate::object::{Object, ObjectKey};
use crate::watch::{Event, EventKind};

/// One answer for each write.
pub(crate) type Answers = Vec<Result<Arc<Object>, CommitError>>;

/// Writes of one caller to one cluster.
#[derive(Debug)]
pub(crate) struct Request {
    pub cluster: Arc<Loaded>,
    pub writes: Vec<Write>,
    pub answer: oneshot::Sender<Answers>,
}

/// What a batch does to one cluster.
#[derive(Debug)]
pub(crate) struct Move {
    pub cluster: Arc<Loaded>,
    pub base: Revision,
    pub next: Revision,
    pub events: Vec<Arc<Event>>,
    /// Bytes of the cluster's objects after the batch.
    bytes: usize,
    pending: HashMap<ObjectKey, Pending>,
    /// Previous versions from here on are in this segment of `changes`.
    segment_floor: Revision,
}

#[derive(Debug)]
struct Pending {
    object: Option<Arc<Object>>,
    row: usize,
}

/// What a batch does.
#[derive(Debug)]
pub(crate) struct Plan {
    pub batch: Batch,
    pub moves: Vec<Move>,
    pub answers: Vec<(oneshot::Sender<Answers>, Answers)>,
}

pub(crate) fn plan(requests: Vec<Request>, now: Timestamp) -> Plan {
    let writes = requests.iter().map(|request| request.writes.len()).sum();
    let mut plan = Plan {
        batch: Batch { at: now, steps: Vec::new(), rows: Vec::with_capacity(writes) },
        moves: Vec::new(),
        answers: Vec::with_capacity(requests.len()),
    };
    for request in requests {
        let at = plan.move_of(&request.cluster);
        let answers = request.writes.into_iter().map(|write| plan.write(at, write)).collect();
        plan.answers.push((request.answer, answers));
    }
    plan.moves.retain(|step| step.next > step.base);
    plan.batch.steps =
        plan.moves.iter().map(|step| Step { cluster: step.cluster.id, base: step.base, next: step.next }).collect();
    plan
}

impl Plan {
    fn move_of(&mut self, cluster: &Arc<Loaded>) -> usize {
        // Few clusters share a batch: a scan beats a map.
        if let Some(at) = self.moves.iter().rposition(|step| Arc::ptr_eq(&step.cluster, cluster)) {
            return at;
        }
        let (base, bytes) = {
            let state = cluster.state.read();
            (state.revision(), state.object_bytes())
        };
        let segment = self.batch.at.as_second().div_euclid(SEGMENT_SECONDS);
        self.moves.push(Move {
            cluster: cluster.clone(),
            base,
            next: base,
            events: Vec::new(),
            bytes,
            pending: HashMap::new(),
            segment_floor: cluster.segment_floor(segment, base.next()),
        });
        self.moves.len() - 1
    }

    fn write(&mut self, at: usize, write: Write) -> Result<Arc<Object>, CommitError> {
        let step = &mut self.moves[at];
        let key = match &write {
            Write::Create(draft) | Write::Update { draft, .. } => &draft.key,
            Write::Delete { key, .. } => key,
        };
        let current = match step.pending.get(key) {
            Some(pending) => pending.object.clone(),
            None => {
                let state = step.cluster.state.read();
                if state.is_closed() {
                    return Err(CommitError::Unavailable("the cluster is closed".into()));
                }
                state.get(key).cloned()
            }
        };
        let revision = step.next.next();
        let now = self.batch.at;
        let (kind, object, previous) = match (write, current) {
            (Write::Create(draft), Some(_)) => return Err(CommitError::Exists(draft.key)),
            (Write::Create(draft), None) => (EventKind::Added, Object::commit_at(draft, revision, now), None),
            (Write::Update { draft, .. }, None) => return Err(CommitError::NotFound(draft.key)),
            (Write::Update { mut draft, expected }, Some(current)) => {
                let checked = check(&current, expected);
                #[cfg(any(test, feature = "testing"))]
                let checked = match checked {
                    Err(_) if step.cluster.settings.breaks(crate::testing::Fault::LostUpdate, &draft.key.resource) => {
                        step.cluster.settings.broke();
                        Ok(())
                    }
                    checked => checked,
                };
                checked?;
                // The same key shares its text with the version before.
                draft.key = current.key.clone();
                (EventKind::Modified, Object::commit_at(draft, revision, now), Some(current))
            }
            (Write::Delete { key, .. }, None) => return Err(CommitError::NotFound(key)),
            (Write::Delete { expected, .. }, Some(current)) => {
                check(&current, expected)?;
                (EventKind::Deleted, current.deleted_by(revision, now), Some(current))
            }
        };
        let bytes = step.bytes_after(kind, &object, previous.as_deref())?;
        let object = Arc::new(object);
        let row = row(step, kind, &object, previous.as_deref())
            .map_err(|error| CommitError::Unavailable(format!("encryption: {error}")))?;

        let index = self.batch.rows.len();
        self.batch.rows.push(row);
        let kept = match kind {
            EventKind::Added | EventKind::Modified => Some(object.clone()),
            EventKind::Deleted => None,
        };
        let pending = Pending { object: kept, row: index };
        if let Some(before) = step.pending.insert(object.key.clone(), pending) {
            self.batch.rows[before.row].last = false;
        }
        step.next = revision;
        step.bytes = bytes;
        step.events.push(Arc::new(Event { kind, object: object.clone(), previous, line: OnceLock::new() }));
        Ok(object)
    }
}

impl Move {
    /// What the cluster's objects take after a change, if they may.
    fn bytes_after(&self, kind: EventKind, object: &Object, previous: Option<&Object>) -> Result<usize, CommitError> {
        let limit = self.cluster.settings.cache.cluster_bytes;
        let (limit, size) = match kind {
            EventKind::Added => (limit, object.footprint()),
            EventKind::Modified => (limit + limit / 8, object.footprint()),
            EventKind::Deleted => (usize::MAX, 0),
        };
        let before = previous.map_or(0, Object::footprint);
        let after = self.bytes.saturating_sub(before) + size;
        if size > before && after > limit {
            let (requested, used) = (size - before, self.bytes);
            return Err(CommitError::NoRoom { key: object.key.clone(), requested, used, limit });
        }
        Ok(after)
    }
}

fn check(current: &Object, expected: Revision) -> Result<(), CommitError> {
    if current.revision == expected {
        return Ok(());
    }
    Err(CommitError::Conflict { key: current.key.clone(), expected, current: current.revision })
}

fn row(step: &Move, kind: EventKind, object: &Object, previous: Option<&Object>) -> Result<ChangeRow, crate::KeyError> {
    let key = &step.cluster.key;
    let logged = codec::is_logged(&object.key.resource);
    let body = match kind {
        EventKind::Added | EventKind::Modified => Some(codec::seal(key, object)?),
        EventKind::Deleted => None,
    };
    let previous = match previous.filter(|_| logged) {
        None => None,
        Some(previous) => {
            let carried = previous.revision < step.segment_floor;
            Some(PreviousRow {
                revision: previous.revision,
                meta: codec::encode_meta(previous),
                revision_at: previous.revision_at(),
                body: if carried { Some(codec::seal(key, previous)?) } else { None },
            })
        }
    };
    Ok(ChangeRow {
        cluster: step.cluster.id,
        tenant: step.cluster.tenant,
        key: object.key.clone(),
        kind,
        revision: object.revision,
        uid: object.uid.clone(),
        meta: codec::encode_meta(object),
        revision_at: object.revision_at(),
        body,
        previous,
        logged,
        last: true,
    })
}
