//! The writer's transaction: one statement, one round trip, one disk sync, whatever the size of the batch.

use sqlx::postgres::PgConnection;
use sqlx::{ConnectOptions as _, Row as _};
use uuid::Uuid;

use super::types::{At, kind_code};
use super::{BackendError, Batch, Cause, Fence, Postgres, WriterSlot, failed};
use crate::backend::ChangeRow;

/// A statement outside a transaction block is a transaction.
///
/// `fence` locks the shard's row: a takeover waits for this transaction, and if it came first, the row no longer has this epoch
/// (the lock makes Postgres look again, past its snapshot), so nothing is written. Bodies cross the wire once, and go to both
/// tables.
const COMMIT: &str = r#"
WITH fence AS MATERIALIZED (
    SELECT 1 FROM shards WHERE id = $1 AND epoch = $2 FOR SHARE
), batch AS MATERIALIZED (
    SELECT * FROM unnest(
        $4::uuid[], $5::uuid[], $6::text[], $7::text[], $8::text[], $9::smallint[], $10::bigint[], $11::text[], $12::text[],
        $13::integer[], $14::bytea[], $15::bigint[], $16::text[], $17::integer[], $18::bytea[], $19::boolean[], $20::boolean[]
    ) AS row (cluster_id, tenant_id, resource, namespace, name, kind, revision, uid, meta, revision_at, body, prev_revision,
        prev_meta, prev_revision_at, prev_body, logged, last)
    WHERE EXISTS (SELECT 1 FROM fence)
), logged AS (
    INSERT INTO changes (cluster_id, revision, at, tenant_id, kind, resource, namespace, name, uid, meta, revision_at, body,
        prev_revision, prev_meta, prev_revision_at, prev_body)
    SELECT cluster_id, revision, $3, tenant_id, kind, resource, namespace, name, uid, meta, revision_at, body,
        prev_revision, prev_meta, prev_revision_at, prev_body
    FROM batch WHERE logged
), put AS (
    INSERT INTO objects (cluster_id, resource, namespace, name, tenant_id, revision, uid, meta, revision_at, written_at, body)
    SELECT cluster_id, resource, namespace, name, tenant_id, revision, uid, meta, revision_at, $3, body
    FROM batch WHERE last AND kind <> 3
    ON CONFLICT (cluster_id, resource, namespace, name) DO UPDATE SET revision = excluded.revision, uid = excluded.uid,
        meta = excluded.meta, revision_at = excluded.revision_at, written_at = excluded.written_at, body = excluded.body
), gone AS (
    DELETE FROM objects o USING batch b
    WHERE b.last AND b.kind = 3
        AND o.cluster_id = b.cluster_id AND o.resource = b.resource AND o.namespace = b.namespace AND o.name = b.name
), moved AS (
    UPDATE cluster_progress p SET revision = CASE WHEN p.revision = step.base THEN step.next ELSE -1 END
    FROM unnest($21::uuid[], $22::bigint[], $23::bigint[]) AS step (cluster_id, base, next)
    WHERE p.cluster_id = step.cluster_id AND EXISTS (SELECT 1 FROM fence)
    RETURNING 1
)
SELECT (SELECT count(*) FROM fence), (SELECT count(*) FROM moved)
"#;

/// Fails a batch that was not decided on the newest revision.
const FOLLOWS: &str = "cluster_progress_follows";

#[derive(Default)]
struct Columns<'a> {
    cluster: Vec<Uuid>,
    tenant: Vec<Uuid>,
    resource: Vec<&'a str>,
    namespace: Vec<&'a str>,
    name: Vec<&'a str>,
    kind: Vec<i16>,
    revision: Vec<i64>,
    uid: Vec<&'a str>,
    meta: Vec<&'a str>,
    revision_at: Vec<i32>,
    body: Vec<Option<&'a [u8]>>,
    prev_revision: Vec<Option<i64>>,
    prev_meta: Vec<Option<&'a str>>,
    prev_revision_at: Vec<Option<i32>>,
    prev_body: Vec<Option<&'a [u8]>>,
    logged: Vec<bool>,
    last: Vec<bool>,
}

impl<'a> Columns<'a> {
    fn of(rows: &'a [ChangeRow]) -> Self {
        let mut columns = Self::default();
        for row in rows {
            columns.cluster.push(row.cluster.as_uuid());
            columns.tenant.push(row.tenant.as_uuid());
            columns.resource.push(row.key.resource.as_str());
            columns.namespace.push(&row.key.namespace);
            columns.name.push(&row.key.name);
            columns.kind.push(kind_code(row.kind));
            columns.revision.push(row.revision.0.cast_signed());
            columns.uid.push(&row.uid);
            columns.meta.push(&row.meta);
            columns.revision_at.push(row.revision_at.cast_signed());
            columns.body.push(row.body.as_deref());
            let previous = row.previous.as_ref();
            columns.prev_revision.push(previous.map(|previous| previous.revision.0.cast_signed()));
            columns.prev_meta.push(previous.map(|previous| &*previous.meta));
            columns.prev_revision_at.push(previous.map(|previous| previous.revision_at.cast_signed()));
            columns.prev_body.push(previous.and_then(|previous| previous.body.as_deref()));
            columns.logged.push(row.logged);
            columns.last.push(row.last);
        }
        columns
    }
}

impl Postgres {
    pub(super) async fn write(&self, fence: Fence, batch: &Batch) -> Result<(), BackendError> {
        self.segment_ensure(batch.at).await?;
        let slot: WriterSlot = self.writers.lock().entry(fence.shard).or_default().clone();
        let mut slot = slot.lock().await;
        // Taken out while in use: a commit that is given up takes its connection with it.
        let mut connection = match slot.take() {
            Some(connection) => connection,
            None => self.writer_options.connect().await.map_err(failed("connect"))?,
        };
        let answer = write_on(&mut connection, fence, batch).await;
        match &answer {
            Ok(()) | Err(BackendError::Fenced { .. }) => *slot = Some(connection),
            // A server that refuses a statement keeps the connection; anything else may have broken it.
            Err(BackendError::Failed { .. } | BackendError::Unknown { .. } | BackendError::Corrupt { .. }) => {}
        }
        answer
    }
}

async fn write_on(connection: &mut PgConnection, fence: Fence, batch: &Batch) -> Result<(), BackendError> {
    let columns = Columns::of(&batch.rows);
    let steps: Vec<Uuid> = batch.steps.iter().map(|step| step.cluster.as_uuid()).collect();
    let bases: Vec<i64> = batch.steps.iter().map(|step| step.base.0.cast_signed()).collect();
    let nexts: Vec<i64> = batch.steps.iter().map(|step| step.next.0.cast_signed()).collect();
    let row = sqlx::query(COMMIT)
        .bind(fence.shard.0)
        .bind(fence.epoch)
        .bind(At(batch.at))
        .bind(&columns.cluster)
        .bind(&columns.tenant)
        .bind(&columns.resource)
        .bind(&columns.namespace)
        .bind(&columns.name)
        .bind(&columns.kind)
        .bind(&columns.revision)
        .bind(&columns.uid)
        .bind(&columns.meta)
        .bind(&columns.revision_at)
        .bind(&columns.body)
        .bind(&columns.prev_revision)
        .bind(&columns.prev_meta)
        .bind(&columns.prev_revision_at)
        .bind(&columns.prev_body)
        .bind(&columns.logged)
        .bind(&columns.last)
        .bind(&steps)
        .bind(&bases)
        .bind(&nexts)
        .fetch_one(connection)
        .await
        .map_err(|error| classify(fence, error))?;
    let (fenced, moved): (i64, i64) = (row.get(0), row.get(1));
    if fenced == 0 {
        return Err(BackendError::Fenced { shard: fence.shard });
    }
    if usize::try_from(moved) != Ok(batch.steps.len()) {
        // A cluster is gone that this writer still thought to be there: what the cache holds is not what the database holds.
        return Err(BackendError::Unknown { operation: "commit", source: Cause::Sqlx(sqlx::Error::RowNotFound) });
    }
    Ok(())
}

/// An ERROR from the server is a refusal. Everything else (a lost connection, a server that goes down) says nothing about
/// whether the statement, once sent, took effect.
fn classify(fence: Fence, error: sqlx::Error) -> BackendError {
    let operation = "commit";
    let Some(refusal) = error.as_database_error() else {
        return BackendError::Unknown { operation, source: Cause::Sqlx(error) };
    };
    if refusal.constraint() == Some(FOLLOWS) {
        return BackendError::Fenced { shard: fence.shard };
    }
    // Class 57P is a server that goes down, 08 a broken connection, 40003 an unknown completion.
    let code = refusal.code().unwrap_or_default();
    if code.starts_with("57P") || code.starts_with("08") || code == "40003" {
        return BackendError::Unknown { operation, source: Cause::Sqlx(error) };
    }
    BackendError::Failed { operation, source: Cause::Sqlx(error) }
}
