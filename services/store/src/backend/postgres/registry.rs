//! Tenants, tokens and clusters.

use galley_types::{ClusterId, ShardId, TenantId};
use jiff::Timestamp;
use sqlx::Row as _;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use uuid::Uuid;

use super::types::At;
use super::{BackendError, Fence, Postgres, Sees, failed};
use crate::registry::records::{
    BootstrapToken, BootstrapUse, ClusterInserted, ClusterRow, Cursor, SealedKeys, ServiceToken, Tenant,
    TenantInserted, TokenRow,
};
use crate::registry::{Cluster, ClusterNetwork, ClusterState};

const CLUSTER_COLUMNS: &str = "id, tenant_id, name, host_label, shard_id, state, created_at, network, ca_certificate, \
                               data_key, ca_key, service_account_key";

fn tenant(row: &PgRow) -> Tenant {
    Tenant {
        id: TenantId::from_trusted_row(row.get("id")),
        name: row.get("name"),
        created: row.get::<At, _>("created_at").0,
    }
}

fn cluster(row: &PgRow) -> Result<ClusterRow, BackendError> {
    let id = ClusterId::from_trusted_row(row.get("id"));
    let state = match row.get("state") {
        "active" => ClusterState::Active,
        "deleting" => ClusterState::Deleting,
        _ => return Err(BackendError::Corrupt { what: "state", cluster: id }),
    };
    let Json(network): Json<ClusterNetwork> =
        row.try_get("network").map_err(|_| BackendError::Corrupt { what: "network", cluster: id })?;
    let cluster = Cluster {
        id,
        tenant: TenantId::from_trusted_row(row.get("tenant_id")),
        name: row.get("name"),
        host_label: row.get("host_label"),
        shard: ShardId(row.get("shard_id")),
        state,
        created: row.get::<At, _>("created_at").0,
        ca_certificate: row.get("ca_certificate"),
        network,
    };
    let sealed = SealedKeys {
        data_key: row.get("data_key"),
        ca_key: row.get("ca_key"),
        service_account_key: row.get("service_account_key"),
    };
    Ok(ClusterRow { cluster, sealed })
}

fn sees(tenant: Option<TenantId>) -> Sees {
    tenant.map_or(Sees::All, Sees::Tenant)
}

/// `SELECT` of clusters; the rest of the statement is given.
fn select_clusters(rest: &'static str) -> sqlx::AssertSqlSafe<String> {
    sqlx::AssertSqlSafe(format!("SELECT {CLUSTER_COLUMNS} FROM clusters {rest}"))
}

impl Postgres {
    pub(super) async fn insert_tenant(&self, tenant: &Tenant) -> Result<TenantInserted, BackendError> {
        let failed = failed("make a tenant");
        let mut tx = self.begin(Sees::All).await?;
        let done = sqlx::query("INSERT INTO tenants (id, name, created_at) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING")
            .bind(tenant.id.as_uuid())
            .bind(&tenant.name)
            .bind(At(tenant.created))
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(if done.rows_affected() == 1 { TenantInserted::New } else { TenantInserted::NameTaken })
    }

    pub(super) async fn read_tenant(&self, id: TenantId) -> Result<Option<Tenant>, BackendError> {
        let failed = failed("read a tenant");
        let mut tx = self.begin(Sees::Tenant(id)).await?;
        let row = sqlx::query("SELECT id, name, created_at FROM tenants WHERE id = $1")
            .bind(id.as_uuid())
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(row.as_ref().map(tenant))
    }

    pub(super) async fn read_tenant_named(&self, name: &str) -> Result<Option<Tenant>, BackendError> {
        let failed = failed("read a tenant");
        let mut tx = self.begin(Sees::All).await?;
        let row = sqlx::query("SELECT id, name, created_at FROM tenants WHERE name = $1")
            .bind(name)
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(row.as_ref().map(tenant))
    }

    pub(super) async fn insert_token(&self, token: &TokenRow) -> Result<(), BackendError> {
        let failed = failed("make a token");
        let mut tx = self.begin(Sees::Tenant(token.tenant)).await?;
        sqlx::query("INSERT INTO api_tokens (id, tenant_id, name, hash, created_at) VALUES ($1, $2, $3, $4, $5)")
            .bind(token.id)
            .bind(token.tenant.as_uuid())
            .bind(&token.name)
            .bind(&token.hash[..])
            .bind(At(token.created))
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    pub(super) async fn read_token(&self, hash: [u8; 32]) -> Result<Option<TokenRow>, BackendError> {
        let failed = failed("find a token");
        let mut tx = self.begin(Sees::All).await?;
        let row = sqlx::query("SELECT id, tenant_id, name, created_at FROM api_tokens WHERE hash = $1")
            .bind(&hash[..])
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(row.map(|row| TokenRow {
            id: row.get("id"),
            tenant: TenantId::from_trusted_row(row.get("tenant_id")),
            name: row.get("name"),
            hash,
            created: row.get::<At, _>("created_at").0,
        }))
    }

    pub(super) async fn insert_service_token(&self, token: &ServiceToken, hash: [u8; 32]) -> Result<(), BackendError> {
        let failed = failed("make a service token");
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query("INSERT INTO service_tokens (id, service, hash, created_at) VALUES ($1, $2, $3, $4)")
            .bind(token.id)
            .bind(&token.service)
            .bind(&hash[..])
            .bind(At(token.created))
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    pub(super) async fn read_service_token(&self, hash: [u8; 32]) -> Result<Option<ServiceToken>, BackendError> {
        let failed = failed("find a service token");
        let mut tx = self.begin(Sees::All).await?;
        let row = sqlx::query("SELECT id, service, created_at FROM service_tokens WHERE hash = $1")
            .bind(&hash[..])
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(row.map(|row| ServiceToken {
            id: row.get("id"),
            service: row.get("service"),
            created: row.get::<At, _>("created_at").0,
        }))
    }

    pub(super) async fn insert_cluster(
        &self,
        row: &ClusterRow,
        idempotency_key: Option<&str>,
    ) -> Result<ClusterInserted, BackendError> {
        let failed = failed("make a cluster");
        let ClusterRow { cluster: new, sealed } = row;
        let mut tx = self.begin(Sees::Tenant(new.tenant)).await?;
        let done = sqlx::query(
            "WITH made AS (
                 INSERT INTO clusters (id, tenant_id, name, host_label, shard_id, state, created_at, network, ca_certificate,
                     data_key, ca_key, service_account_key, idempotency_key)
                 VALUES ($1, $2, $3, $4, $5, 'active', $6, $7, $8, $9, $10, $11, $12)
                 ON CONFLICT DO NOTHING RETURNING id, tenant_id)
             INSERT INTO cluster_progress (cluster_id, tenant_id) SELECT id, tenant_id FROM made",
        )
        .bind(new.id.as_uuid())
        .bind(new.tenant.as_uuid())
        .bind(&new.name)
        .bind(&new.host_label)
        .bind(new.shard.0)
        .bind(At(new.created))
        .bind(Json(&new.network))
        .bind(&new.ca_certificate)
        .bind(&sealed.data_key)
        .bind(&sealed.ca_key)
        .bind(&sealed.service_account_key)
        .bind(idempotency_key)
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        let outcome = if done.rows_affected() == 1 {
            ClusterInserted::New
        } else {
            let before = sqlx::query(select_clusters("WHERE tenant_id = $1 AND idempotency_key = $2"))
                .bind(new.tenant.as_uuid())
                .bind(idempotency_key)
                .fetch_optional(&mut *tx)
                .await
                .map_err(&failed)?;
            let namesake: bool = sqlx::query_scalar(
                "SELECT EXISTS (SELECT FROM clusters WHERE tenant_id = $1 AND name = $2 AND state = 'active')",
            )
            .bind(new.tenant.as_uuid())
            .bind(&new.name)
            .fetch_one(&mut *tx)
            .await
            .map_err(&failed)?;
            match before {
                Some(before) => ClusterInserted::Before(cluster(&before)?),
                None if namesake => ClusterInserted::NameTaken,
                None => ClusterInserted::LabelTaken,
            }
        };
        tx.commit().await.map_err(&failed)?;
        Ok(outcome)
    }

    pub(super) async fn read_cluster(
        &self,
        tenant: Option<TenantId>,
        id: ClusterId,
    ) -> Result<Option<ClusterRow>, BackendError> {
        let failed = failed("read a cluster");
        let mut tx = self.begin(sees(tenant)).await?;
        let row = sqlx::query(select_clusters("WHERE id = $1"))
            .bind(id.as_uuid())
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        row.as_ref().map(cluster).transpose()
    }

    pub(super) async fn read_cluster_page(
        &self,
        tenant: TenantId,
        after: Cursor,
        limit: usize,
    ) -> Result<Vec<ClusterRow>, BackendError> {
        let failed = failed("list a page of clusters");
        let mut tx = self.begin(Sees::Tenant(tenant)).await?;
        let page = "WHERE tenant_id = $1 AND state = 'active' AND (created_at, id) > ($2, $3)
             ORDER BY created_at, id LIMIT $4";
        let rows = sqlx::query(select_clusters(page))
            .bind(tenant.as_uuid())
            .bind(At(after.created))
            .bind(after.id)
            .bind(i64::try_from(limit).unwrap_or(i64::MAX))
            .fetch_all(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        rows.iter().map(cluster).collect()
    }

    pub(super) async fn read_cluster_named(
        &self,
        tenant: TenantId,
        name: &str,
    ) -> Result<Option<ClusterRow>, BackendError> {
        let failed = failed("find a cluster by name");
        let mut tx = self.begin(Sees::Tenant(tenant)).await?;
        let row = sqlx::query(select_clusters("WHERE tenant_id = $1 AND name = $2 AND state = 'active'"))
            .bind(tenant.as_uuid())
            .bind(name)
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        row.as_ref().map(cluster).transpose()
    }

    pub(super) async fn read_clusters(&self) -> Result<Vec<ClusterRow>, BackendError> {
        let failed = failed("list clusters");
        let mut tx = self.begin(Sees::All).await?;
        let rows = sqlx::query(select_clusters("WHERE state = 'active' ORDER BY created_at, id"))
            .fetch_all(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        rows.iter().map(cluster).collect()
    }

    pub(super) async fn read_cluster_at(&self, label: &str) -> Result<Option<ClusterRow>, BackendError> {
        let failed = failed("find a cluster by host");
        let mut tx = self.begin(Sees::All).await?;
        let row = sqlx::query(select_clusters("WHERE host_label = $1 AND state = 'active'"))
            .bind(label)
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        row.as_ref().map(cluster).transpose()
    }

    pub(super) async fn shred_cluster(&self, tenant: TenantId, id: ClusterId) -> Result<bool, BackendError> {
        let failed = failed("delete a cluster");
        let mut tx = self.begin(Sees::Tenant(tenant)).await?;
        let done = sqlx::query(
            "UPDATE clusters SET state = 'deleting', idempotency_key = NULL,
                 data_key = '', ca_key = '', service_account_key = ''
             WHERE id = $1 AND state = 'active'",
        )
        .bind(id.as_uuid())
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(done.rows_affected() == 1)
    }

    pub(super) async fn read_deleting(&self, shard: ShardId) -> Result<Vec<ClusterId>, BackendError> {
        let failed = failed("list deleted clusters");
        let mut tx = self.begin(Sees::All).await?;
        let ids: Vec<Uuid> = sqlx::query_scalar("SELECT id FROM clusters WHERE state = 'deleting' AND shard_id = $1")
            .bind(shard.0)
            .fetch_all(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(ids.into_iter().map(ClusterId::from_trusted_row).collect())
    }

    /// One statement for each table, however many clusters.
    pub(super) async fn purge_clusters(
        &self,
        fence: Fence,
        clusters: &[ClusterId],
        rows: i64,
    ) -> Result<bool, BackendError> {
        let failed = failed("remove deleted clusters' rows");
        let ids: Vec<Uuid> = clusters.iter().map(ClusterId::as_uuid).collect();
        let mut tx = self.begin(Sees::All).await?;
        let held = sqlx::query("SELECT 1 FROM shards WHERE id = $1 AND epoch = $2 FOR SHARE")
            .bind(fence.shard.0)
            .bind(fence.epoch)
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        if held.is_none() {
            return Err(BackendError::Fenced { shard: fence.shard });
        }
        let mut left = false;
        for statement in [
            "DELETE FROM objects WHERE ctid = ANY (ARRAY(
                 SELECT ctid FROM objects WHERE cluster_id = ANY ($1) LIMIT $2))",
            // Rows of several partitions may have the same ctid.
            "DELETE FROM changes WHERE (cluster_id, revision, at) IN (
                 SELECT cluster_id, revision, at FROM changes WHERE cluster_id = ANY ($1) LIMIT $2)",
        ] {
            let done = sqlx::query(statement).bind(&ids).bind(rows).execute(&mut *tx).await.map_err(&failed)?;
            left |= i64::try_from(done.rows_affected()).is_ok_and(|removed| removed >= rows);
        }
        if !left {
            for statement in [
                "DELETE FROM changes_compacted WHERE cluster_id = ANY ($1)",
                "DELETE FROM clusters WHERE id = ANY ($1)",
            ] {
                sqlx::query(statement).bind(&ids).execute(&mut *tx).await.map_err(&failed)?;
            }
        }
        tx.commit().await.map_err(&failed)?;
        Ok(!left)
    }

    pub(super) async fn insert_bootstrap(&self, token: &BootstrapToken, hash: [u8; 32]) -> Result<(), BackendError> {
        let failed = failed("make a join token");
        let mut tx = self.begin(Sees::Tenant(token.tenant)).await?;
        // Those that are of no use any more are kept for days, to say why they are not, and go when another comes.
        sqlx::query("DELETE FROM bootstrap_tokens WHERE cluster_id = $1 AND expires_at < $2 - interval '2 days'")
            .bind(token.cluster.as_uuid())
            .bind(At(token.expires))
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        sqlx::query(
            "INSERT INTO bootstrap_tokens (id, tenant_id, cluster_id, hash, expires_at) VALUES ($1, $2, $3, $4, $5)",
        )
        .bind(token.id)
        .bind(token.tenant.as_uuid())
        .bind(token.cluster.as_uuid())
        .bind(&hash[..])
        .bind(At(token.expires))
        .execute(&mut *tx)
        .await
        .map_err(&failed)?;
        tx.commit().await.map_err(&failed)
    }

    pub(super) async fn consume_bootstrap(
        &self,
        hash: [u8; 32],
        node: &str,
        now: Timestamp,
    ) -> Result<BootstrapUse, BackendError> {
        let failed = failed("use a join token");
        let mut tx = self.begin(Sees::All).await?;
        let granted = sqlx::query(
            "UPDATE bootstrap_tokens SET used_at = $2, used_by = $3
             WHERE hash = $1 AND expires_at > $2 AND used_at IS NULL
             RETURNING id, tenant_id, cluster_id, expires_at",
        )
        .bind(&hash[..])
        .bind(At(now))
        .bind(node)
        .fetch_optional(&mut *tx)
        .await
        .map_err(&failed)?;
        if let Some(row) = granted {
            tx.commit().await.map_err(&failed)?;
            return Ok(BootstrapUse::Granted(BootstrapToken {
                id: row.get("id"),
                tenant: TenantId::from_trusted_row(row.get("tenant_id")),
                cluster: ClusterId::from_trusted_row(row.get("cluster_id")),
                expires: row.get::<At, _>("expires_at").0,
            }));
        }
        let row = sqlx::query("SELECT expires_at, used_at, used_by FROM bootstrap_tokens WHERE hash = $1")
            .bind(&hash[..])
            .fetch_optional(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        let Some(row) = row else { return Ok(BootstrapUse::Unknown) };
        Ok(match (row.get::<Option<At>, _>("used_at"), row.get::<Option<String>, _>("used_by")) {
            (Some(used), Some(by)) => BootstrapUse::Used { at: used.0, by },
            _ => BootstrapUse::Expired { at: row.get::<At, _>("expires_at").0 },
        })
    }

    pub(super) async fn keep_installation_value(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, BackendError> {
        let failed = failed("keep an installation value");
        let mut tx = self.begin(Sees::All).await?;
        sqlx::query("INSERT INTO installation (name, value) VALUES ($1, $2) ON CONFLICT DO NOTHING")
            .bind(name)
            .bind(value)
            .execute(&mut *tx)
            .await
            .map_err(&failed)?;
        let kept = sqlx::query_scalar("SELECT value FROM installation WHERE name = $1")
            .bind(name)
            .fetch_one(&mut *tx)
            .await
            .map_err(&failed)?;
        tx.commit().await.map_err(&failed)?;
        Ok(kept)
    }
}
