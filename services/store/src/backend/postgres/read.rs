//! Loading clusters, pages of `changes`, and controllers' marks.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt as _;
use galley_types::{ClusterId, ResourceName, Revision, ShardId, TenantId};
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use uuid::Uuid;

use super::types::{At, kind_from};
use super::{BackendError, ChangesPage, ChangesQuery, Fits, Mark, Postgres, Sees, Snapshot, Unsettled, failed};
use crate::backend::{ChangeRow, ObjectRow, PreviousRow};
use crate::object::ObjectKey;

/// Objects read at once when a cluster is loaded: some MiB as objects commonly are.
const FETCH: &str = "FETCH 500 FROM snapshot";
/// Bytes between two looks whether there is room for more.
const ASK: usize = 1 << 20;

/// Rows of one resource and namespace come together and share their text.
#[derive(Default)]
struct Interner {
    resource: Option<ResourceName>,
    namespace: Option<Arc<str>>,
}

impl Interner {
    fn key(&mut self, resource: &str, namespace: &str, name: &str) -> ObjectKey {
        if self.resource.as_ref().is_none_or(|kept| kept.as_str() != resource) {
            self.resource = Some(resource.into());
        }
        if self.namespace.as_deref() != Some(namespace) {
            self.namespace = Some(namespace.into());
        }
        ObjectKey {
            resource: self.resource.clone().unwrap_or_else(|| resource.into()),
            namespace: self.namespace.clone().unwrap_or_else(|| namespace.into()),
            name: name.into(),
        }
    }
}

fn revision(row: &PgRow, column: &str) -> Revision {
    Revision(row.get::<i64, _>(column).cast_unsigned())
}

fn bytes(row: &PgRow, column: &str) -> Option<Bytes> {
    row.get::<Option<&[u8]>, _>(column).map(Bytes::copy_from_slice)
}

fn change(cluster: ClusterId, interner: &mut Interner, row: &PgRow) -> Result<ChangeRow, BackendError> {
    let kind = kind_from(row.get("kind")).ok_or(BackendError::Corrupt { what: "kind", cluster })?;
    let previous = row.get::<Option<i64>, _>("prev_revision").map(|revision| PreviousRow {
        revision: Revision(revision.cast_unsigned()),
        meta: row.get::<Option<&str>, _>("prev_meta").unwrap_or_default().into(),
        revision_at: row.get::<Option<i32>, _>("prev_revision_at").unwrap_or_default().cast_unsigned(),
        body: bytes(row, "prev_body"),
    });
    Ok(ChangeRow {
        cluster,
        tenant: TenantId::from_trusted_row(row.get("tenant_id")),
        key: interner.key(row.get("resource"), row.get("namespace"), row.get("name")),
        kind,
        revision: revision(row, "revision"),
        uid: row.get::<&str, _>("uid").into(),
        meta: row.get::<&str, _>("meta").into(),
        revision_at: row.get::<i32, _>("revision_at").cast_unsigned(),
        body: bytes(row, "body"),
        previous,
        logged: true,
        last: false,
    })
}

impl Postgres {
    pub(super) async fn read_revisions(&self, clusters: &[ClusterId]) -> Result<Vec<Revision>, BackendError> {
        let failed = failed("read revisions");
        let ids: Vec<Uuid> = clusters.iter().map(ClusterId::as_uuid).collect();
        let mut tx = self.begin(Sees::All).await?;
        let rows = sqlx::query("SELECT cluster_id, revision FROM cluster_progress WHERE cluster_id = ANY ($1)")
            .bind(&ids)
            .fetch_all(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        let found: HashMap<Uuid, Revision> =
            rows.iter().map(|row| (row.get("cluster_id"), revision(row, "revision"))).collect();
        Ok(ids.iter().map(|id| found.get(id).copied().unwrap_or_default()).collect())
    }

    pub(super) async fn read_snapshot(
        &self,
        cluster: ClusterId,
        fits: Fits<'_>,
    ) -> Result<Option<Snapshot>, BackendError> {
        let failed = failed("load a cluster");
        // One snapshot for both reads. Large clusters may take longer than other statements.
        let mut tx = self
            .begin_as("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = 0", Sees::All)
            .await?;
        let at: Option<i64> = sqlx::query_scalar("SELECT revision FROM cluster_progress WHERE cluster_id = $1")
            .bind(cluster.as_uuid())
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        let mut interner = Interner::default();
        let mut objects = Vec::new();
        // By a cursor: reading can stop, and what was not read is not sent.
        sqlx::query(
            "DECLARE snapshot CURSOR FOR
             SELECT resource, namespace, name, revision, uid, meta, revision_at, written_at, body FROM objects
             WHERE cluster_id = $1 ORDER BY resource, namespace, name",
        )
        .bind(cluster.as_uuid())
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        loop {
            let before = objects.len();
            let mut size = 0;
            let mut rows = sqlx::query(FETCH).persistent(false).fetch(&mut *tx);
            while let Some(row) = rows.try_next().await.map_err(&failed)? {
                let object = ObjectRow {
                    key: interner.key(row.get("resource"), row.get("namespace"), row.get("name")),
                    uid: row.get::<&str, _>("uid").into(),
                    revision: revision(&row, "revision"),
                    meta: row.get::<&str, _>("meta").into(),
                    revision_at: row.get::<i32, _>("revision_at").cast_unsigned(),
                    body: bytes(&row, "body").unwrap_or_default(),
                    at: row.get::<At, _>("written_at").0,
                };
                size += object.size();
                objects.push(object);
                if size >= ASK && !fits(std::mem::take(&mut size)) {
                    return Ok(None);
                }
            }
            drop(rows);
            if !fits(size) {
                return Ok(None);
            }
            if objects.len() == before {
                break;
            }
        }
        tx.commit().await.map_err(&failed)?;
        Ok(Some(Snapshot { revision: Revision(at.unwrap_or_default().cast_unsigned()), objects }))
    }

    /// Two statements, each with its own snapshot: the mark is read after the rows, and moves before rows go.
    pub(super) async fn read_changes(&self, query: ChangesQuery) -> Result<ChangesPage, BackendError> {
        let failed = failed("read changes");
        let cluster = query.cluster;
        let mut tx = self.begin(Sees::All).await?;
        let rows = sqlx::query(
            "WITH found AS MATERIALIZED (
                 SELECT revision, at, coalesce(octet_length(body), 0) + coalesce(octet_length(prev_body), 0) AS size
                 FROM changes
                 WHERE cluster_id = $1 AND revision > $2 AND revision <= $3 AND resource = $4
                     AND ($5::text IS NULL OR namespace = $5)
                 ORDER BY revision LIMIT $6
             ), page AS (
                 SELECT revision, at, sum(size) OVER (ORDER BY revision) - size AS before FROM found
             )
             SELECT c.revision, c.tenant_id, c.kind, c.resource, c.namespace, c.name, c.uid, c.meta, c.revision_at, c.body,
                c.prev_revision, c.prev_meta, c.prev_revision_at, coalesce(c.prev_body, p.body) AS prev_body,
                (SELECT count(*) FROM found) AS found
             FROM page JOIN changes c ON c.cluster_id = $1 AND c.revision = page.revision AND c.at = page.at
             LEFT JOIN changes p
                 ON c.prev_body IS NULL AND p.cluster_id = c.cluster_id AND p.revision = c.prev_revision
             WHERE page.before < $7
             ORDER BY c.revision",
        )
        .bind(cluster.as_uuid())
        .bind(query.after.0.cast_signed())
        .bind(query.until.0.cast_signed())
        .bind(query.scope.resource.as_str())
        .bind(query.scope.namespace.as_deref())
        .bind(i64::try_from(query.limit).unwrap_or(i64::MAX))
        .bind(i64::try_from(query.bytes).unwrap_or(i64::MAX))
        .fetch_all(&mut *tx)
        .await
        .map_err(&failed)?;
        let compacted: Option<i64> = sqlx::query_scalar("SELECT revision FROM changes_compacted WHERE cluster_id = $1")
            .bind(cluster.as_uuid())
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        let found = rows.first().map_or(0, |row| usize::try_from(row.get::<i64, _>("found")).unwrap_or(0));
        let more = found >= query.limit || rows.len() < found;
        let mut interner = Interner::default();
        let rows = rows.iter().map(|row| change(cluster, &mut interner, row)).collect::<Result<_, _>>()?;
        Ok(ChangesPage { compacted: Revision(compacted.unwrap_or_default().cast_unsigned()), rows, more })
    }

    pub(super) async fn write_marks(&self, marks: &[Mark]) -> Result<(), BackendError> {
        let failed = failed("write marks");
        let ids: Vec<Uuid> = marks.iter().map(|mark| mark.cluster.as_uuid()).collect();
        let revisions: Vec<i64> = marks.iter().map(|mark| mark.revision.0.cast_signed()).collect();
        let wakes: Vec<Option<i64>> = marks.iter().map(|mark| mark.wake_at.map(|at| at.as_microsecond())).collect();
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query(
            "UPDATE cluster_progress p SET settled_revision = greatest(p.settled_revision, mark.revision),
                 wake_at = to_timestamp(mark.wake_us / 1e6)
             FROM unnest($1::uuid[], $2::bigint[], $3::bigint[]) AS mark (cluster_id, revision, wake_us)
             WHERE p.cluster_id = mark.cluster_id",
        )
        .bind(&ids)
        .bind(&revisions)
        .bind(&wakes)
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    pub(super) async fn read_unsettled(
        &self,
        shards: &[ShardId],
        now: Timestamp,
    ) -> Result<Vec<Unsettled>, BackendError> {
        let failed = failed("read unsettled clusters");
        let shards: Vec<i32> = shards.iter().map(|shard| shard.0).collect();
        let mut tx = self.begin(Sees::All).await?;
        let rows = sqlx::query(
            "SELECT p.cluster_id, p.revision, p.settled_revision, p.wake_at
             FROM cluster_progress p JOIN clusters c ON c.id = p.cluster_id
             WHERE c.shard_id = ANY ($1) AND c.state = 'active'
                 AND (p.settled_revision < p.revision OR p.wake_at <= $2)",
        )
        .bind(&shards)
        .bind(At(now))
        .fetch_all(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(rows
            .iter()
            .map(|row| Unsettled {
                cluster: ClusterId::from_trusted_row(row.get("cluster_id")),
                revision: revision(row, "revision"),
                settled: revision(row, "settled_revision"),
                wake_at: row.get::<Option<At>, _>("wake_at").map(|at| at.0),
            })
            .collect())
    }
}
