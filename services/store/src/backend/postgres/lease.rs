//! Leases of shards. Times are Postgres': replicas' clocks need not agree.

use std::time::Duration;

use galley_types::ShardId;
use sqlx::Row as _;
use sqlx::postgres::PgRow;

use super::{BackendError, Fence, Postgres, Presence, Renewed, Sees, Tx, failed};
use crate::spread::{Lot, Member, Roster};

fn seconds(lease: Duration) -> f64 {
    lease.as_secs_f64()
}

fn columns(held: &[Fence]) -> (Vec<i32>, Vec<i64>) {
    held.iter().map(|fence| (fence.shard.0, fence.epoch)).unzip()
}

fn fences(rows: Vec<PgRow>) -> Vec<Fence> {
    rows.iter().map(|row| Fence { shard: ShardId(row.get(0)), epoch: row.get(1) }).collect()
}

/// Seconds that may lie before or after now; far away is far enough.
fn lasting(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds.clamp(0.0, 1e9)).unwrap_or_default()
}

/// Replicas first: a shard without an owner among them is then certainly free.
async fn roster_in(tx: &mut Tx) -> Result<Roster, sqlx::Error> {
    let members = sqlx::query(
        "SELECT holder, address, leaving, extract(epoch FROM clock_timestamp() - started_at)::float8 AS age
         FROM replicas WHERE expires_at > clock_timestamp() ORDER BY holder",
    )
    .fetch_all(&mut **tx)
    .await?;
    // An infinite interval has no number of seconds: a shard that never was anybody's has been free for long.
    let lots = sqlx::query(
        "SELECT id, holder, holder IS NOT NULL AND expires_at > clock_timestamp() AS held, CASE WHEN isfinite(expires_at)
             THEN extract(epoch FROM expires_at - clock_timestamp())::float8 ELSE -1e9 END AS seconds_left
         FROM shards ORDER BY id",
    )
    .fetch_all(&mut **tx)
    .await?;
    let member = |row: &PgRow| Member {
        holder: row.get("holder"),
        address: row.get("address"),
        age: lasting(row.get("age")),
        leaving: row.get("leaving"),
    };
    let lot = |row: &PgRow| {
        let left: f64 = row.get("seconds_left");
        Lot {
            shard: ShardId(row.get("id")),
            holder: row.get("holder"),
            left: row.get::<bool, _>("held").then(|| lasting(left)),
            free_for: lasting(-left),
        }
    };
    Ok(Roster { members: members.iter().map(member).collect(), lots: lots.iter().map(lot).collect() })
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
        shards: &[ShardId],
        lease: Duration,
    ) -> Result<Vec<Fence>, BackendError> {
        let failed = failed("acquire leases");
        let shards: Vec<i32> = shards.iter().map(|shard| shard.0).collect();
        let mut tx = self.begin(Sees::All).await?;
        let rows = sqlx::query(
            "UPDATE shards SET holder = $1, epoch = epoch + 1, expires_at = clock_timestamp() + make_interval(secs => $3)
             WHERE id = ANY ($2) AND (holder IS NULL OR holder = $1 OR expires_at <= clock_timestamp())
             RETURNING id, epoch",
        )
        .bind(holder)
        .bind(&shards)
        .bind(seconds(lease))
        .fetch_all(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(fences(rows))
    }

    /// The replica's row first: it runs out no later than its leases, so that nobody counts on a replica whose shards are free.
    pub(super) async fn renew(&self, me: &Presence, held: &[Fence], lease: Duration) -> Result<Renewed, BackendError> {
        let failed = failed("renew leases");
        let (shards, epochs) = columns(held);
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query(
            "INSERT INTO replicas (holder, address, started_at, leaving, expires_at) VALUES ($1, $2,
                 clock_timestamp() - make_interval(secs => $3), $4, clock_timestamp() + make_interval(secs => $5))
             ON CONFLICT (holder) DO UPDATE SET address = excluded.address, started_at = excluded.started_at,
                 leaving = excluded.leaving, expires_at = excluded.expires_at",
        )
        .bind(&me.holder)
        .bind(&me.address)
        .bind(seconds(me.age))
        .bind(me.leaving)
        .bind(seconds(lease))
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
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
        let roster = roster_in(&mut tx).await.map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(Renewed { fences: fences(rows), roster })
    }

    pub(super) async fn release(&self, held: &[(Fence, Option<String>)], lease: Duration) -> Result<(), BackendError> {
        let failed = failed("release leases");
        let (shards, epochs) = columns(&held.iter().map(|(fence, _)| *fence).collect::<Vec<_>>());
        let heirs: Vec<Option<&str>> = held.iter().map(|(_, heir)| heir.as_deref()).collect();
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query(
            "UPDATE shards s SET holder = held.heir, expires_at = clock_timestamp()
                 + CASE WHEN held.heir IS NULL THEN interval '0' ELSE make_interval(secs => $4) END
             FROM unnest($1::integer[], $2::bigint[], $3::text[]) AS held (id, epoch, heir)
             WHERE s.id = held.id AND s.epoch = held.epoch",
        )
        .bind(&shards)
        .bind(&epochs)
        .bind(&heirs)
        .bind(seconds(lease))
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    pub(super) async fn read_roster(&self) -> Result<Roster, BackendError> {
        let failed = failed("read who holds what");
        let mut tx = self.begin(Sees::All).await?;
        let roster = roster_in(&mut tx).await.map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(roster)
    }

    pub(super) async fn leave(&self, holder: &str) -> Result<(), BackendError> {
        let failed = failed("leave");
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query("DELETE FROM replicas WHERE holder = $1").bind(holder).execute(&mut *tx).await.map_err(&failed)?;
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
