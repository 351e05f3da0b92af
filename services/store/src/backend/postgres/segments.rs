//! Partitions of `changes`: one for each segment of time, made ahead, dropped past the retention.

use jiff::Timestamp;
use sqlx::AssertSqlSafe;

use super::types::At;
use super::{BackendError, Postgres, Sees, failed};
use crate::config::SEGMENT_SECONDS;

/// Segments made before their time: an hour, in which housekeeping may fail without a writer having to do it.
const AHEAD: i64 = 4;
/// Dropping a partition needs a moment alone with `changes`. A long reader (a dump) is given way to, rather than have all
/// writers queue behind; the next round tries again.
const LOCK_TIMEOUT: &str = "100ms";
/// Replicas make and drop partitions one at a time. "galley" as a number.
const TURN: i64 = 0x0067_616c_6c65_7900;

fn segment(at: Timestamp) -> i64 {
    at.as_second().div_euclid(SEGMENT_SECONDS)
}

fn table(segment: i64) -> String {
    format!("changes_{}", segment * SEGMENT_SECONDS)
}

impl Postgres {
    /// Makes sure that a batch of this time has a partition to go to.
    pub(super) async fn segment_ensure(&self, at: Timestamp) -> Result<(), BackendError> {
        let wanted = segment(at);
        if self.segments.lock().contains(&wanted) {
            return Ok(());
        }
        self.make_segment(wanted).await
    }

    /// Attaching locks out no reader or writer of `changes`; creating a partition in place would.
    async fn make_segment(&self, segment: i64) -> Result<(), BackendError> {
        let failed = failed("make a segment of changes");
        let table = table(segment);
        let (from, until) = (segment * SEGMENT_SECONDS, (segment + 1) * SEGMENT_SECONDS);
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query("SELECT pg_advisory_xact_lock($1)").bind(TURN).execute(&mut *tx).await.map_err(&failed)?;
        let there: bool = sqlx::query_scalar("SELECT to_regclass($1) IS NOT NULL")
            .bind(&table)
            .fetch_one(&mut *tx)
            .await
            .map_err(&failed)?;
        if !there {
            let make = format!(
                "CREATE TABLE {table} (LIKE changes INCLUDING ALL);
                 ALTER TABLE {table} ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
                 ALTER TABLE changes ATTACH PARTITION {table}
                     FOR VALUES FROM (to_timestamp({from})) TO (to_timestamp({until}));"
            );
            sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut *tx).await.map_err(&failed)?;
        }
        tx.commit().await.map_err(&failed)?;
        self.segments.lock().insert(segment);
        Ok(())
    }

    /// Makes the coming segments, and drops those that end at or before `before`.
    pub(super) async fn turn_segments(&self, before: Timestamp, now: Timestamp) -> Result<(), BackendError> {
        for segment in segment(now)..=segment(now) + AHEAD {
            if !self.segments.lock().contains(&segment) {
                self.make_segment(segment).await?;
            }
        }
        for old in self.segments_there().await?.into_iter().filter(|there| *there < segment(before)) {
            self.mark_compacted(old).await?;
            if let Err(error) = self.drop_segment(old).await {
                tracing::info!(error = &error as &dyn std::error::Error, "a segment of changes is dropped later");
                return Ok(());
            }
        }
        Ok(())
    }

    async fn segments_there(&self) -> Result<Vec<i64>, BackendError> {
        let failed = failed("list segments of changes");
        let names: Vec<String> = sqlx::query_scalar(
            "SELECT c.relname::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
             WHERE i.inhparent = 'changes'::regclass",
        )
        .fetch_all(&self.pool)
        .await
        .map_err(&failed)?;
        let start = |name: &String| name.strip_prefix("changes_").and_then(|digits| digits.parse::<i64>().ok());
        let mut segments: Vec<i64> = names.iter().filter_map(start).map(|start| start / SEGMENT_SECONDS).collect();
        segments.sort_unstable();
        Ok(segments)
    }

    /// In a transaction of its own, before the drop: who reads the mark after the rows cannot miss any unknowingly, and no
    /// writer waits for this. One look into the key for each cluster: a segment may have tens of millions of rows.
    async fn mark_compacted(&self, segment: i64) -> Result<(), BackendError> {
        let failed = failed("mark changes as compacted");
        let bound = |segment: i64| Timestamp::from_second(segment * SEGMENT_SECONDS).unwrap_or(Timestamp::MIN);
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query(
            "INSERT INTO changes_compacted (cluster_id, tenant_id, revision)
             SELECT p.cluster_id, p.tenant_id, newest.revision
             FROM cluster_progress p CROSS JOIN LATERAL (
                 SELECT c.revision FROM changes c
                 WHERE c.cluster_id = p.cluster_id AND c.at >= $1 AND c.at < $2
                 ORDER BY c.revision DESC LIMIT 1) newest
             ON CONFLICT (cluster_id) DO UPDATE
                 SET revision = greatest(changes_compacted.revision, excluded.revision)",
        )
        .bind(At(bound(segment)))
        .bind(At(bound(segment + 1)))
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    async fn drop_segment(&self, segment: i64) -> Result<(), BackendError> {
        let failed = failed("drop a segment of changes");
        self.segments.lock().remove(&segment);
        let mut tx = self.begin(Sees::All).await?;
        let statement = format!("SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; DROP TABLE IF EXISTS {}", table(segment));
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut *tx).await.map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }
}
