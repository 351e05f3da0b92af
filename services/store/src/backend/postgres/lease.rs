//! Leases of shards. Times are Postgres': replicas' clocks need not agree.

use std::time::Duration;

use galley_types::ShardId;
use sqlx::Row as _;

use super::{BackendError, Fence, Postgres, Sees, failed};

fn seconds(lease: Duration) -> f64 {
    lease.as_secs_f64()
}

fn columns(held: &[Fence]) -> (Vec<i32>, Vec<i64>) {
    held.iter().map(|fence| (fence.shard.0, fence.epoch)).unzip()
}

fn fences(rows: Vec<sqlx::postgres::PgRow>) -> Vec<Fence> {
    rows.iter().map(|row| Fence { shard: ShardId(row.get(0)), epoch: row.get(1) }).collect()
}

impl Postgres {
    pub(super) async fn ensure_shards(&self, count: u32) -> Result<(), BackendError> {
        let failed = failed("make shards");
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query("INSERT INTO shards (id) SELECT generate_series(0, $1 - 1) ON CONFLICT DO NOTHING")
            .bind(i32::try_from(count).unwrap_or(i32::MAX))
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    pub(super) async fn acquire(
        &self,
        holder: &str,
        except: &[ShardId],
        lease: Duration,
    ) -> Result<Vec<Fence>, BackendError> {
        let failed = failed("acquire leases");
        let except: Vec<i32> = except.iter().map(|shard| shard.0).collect();
        let mut tx = self.begin(Sees::All).await?;
        let rows = sqlx::query(
            "UPDATE shards SET holder = $1, epoch = epoch + 1, expires_at = clock_timestamp() + make_interval(secs => $3)
             WHERE id <> ALL ($2) AND (holder IS NULL OR holder = $1 OR expires_at <= clock_timestamp())
             RETURNING id, epoch",
        )
        .bind(holder)
        .bind(&except)
        .bind(seconds(lease))
        .fetch_all(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(fences(rows))
    }

    pub(super) async fn renew(&self, held: &[Fence], lease: Duration) -> Result<Vec<Fence>, BackendError> {
        let failed = failed("renew leases");
        let (shards, epochs) = columns(held);
        let mut tx = self.begin(Sees::All).await?;
        let rows = sqlx::query(
            "UPDATE shards s SET expires_at = clock_timestamp() + make_interval(secs => $3)
             FROM unnest($1::integer[], $2::bigint[]) AS held (id, epoch)
             WHERE s.id = held.id AND s.epoch = held.epoch
             RETURNING s.id, s.epoch",
        )
        .bind(&shards)
        .bind(&epochs)
        .bind(seconds(lease))
        .fetch_all(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(fences(rows))
    }

    pub(super) async fn release(&self, held: &[Fence]) -> Result<(), BackendError> {
        let failed = failed("release leases");
        let (shards, epochs) = columns(held);
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query(
            "UPDATE shards s SET holder = NULL
             FROM unnest($1::integer[], $2::bigint[]) AS held (id, epoch)
             WHERE s.id = held.id AND s.epoch = held.epoch",
        )
        .bind(&shards)
        .bind(&epochs)
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    /// Waits for a commit under way: it holds the row FOR SHARE.
    pub(super) async fn bump(&self, fence: Fence, lease: Duration) -> Result<Option<Fence>, BackendError> {
        let failed = failed("raise an epoch");
        let mut tx = self.begin(Sees::All).await?;
        let epoch: Option<i64> = sqlx::query_scalar(
            "UPDATE shards SET epoch = epoch + 1, expires_at = clock_timestamp() + make_interval(secs => $3)
             WHERE id = $1 AND epoch = $2 RETURNING epoch",
        )
        .bind(fence.shard.0)
        .bind(fence.epoch)
        .bind(seconds(lease))
        .fetch_optional(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(epoch.map(|epoch| Fence { shard: fence.shard, epoch }))
    }
}
