//! Postgres.
//!
//! Connections from the pool see no rows until their transaction says whose (`galley.tenant`, see `migrations/`). Each writer
//! has a connection of its own, which may write its shard's clusters of all tenants and does nothing else.

mod commit;
mod lease;
mod read;
mod registry;
mod segments;
mod types;

use std::collections::{BTreeSet, HashMap};
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use galley_types::{ClusterId, Revision, ShardId, TenantId};
use jiff::Timestamp;
use parking_lot::Mutex;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Transaction};

use super::{
    Answer, Backend, BackendError, Batch, Cause, ChangesPage, ChangesQuery, Fence, Fits, Mark, Presence, Renewed,
    Snapshot, Unsettled,
};
use crate::config::StoreConfig;
use crate::registry::records::{
    BootstrapToken, BootstrapUse, ClusterInserted, ClusterRow, Cursor, ServiceToken, Tenant, TenantInserted, TokenRow,
};
use crate::spread::Roster;

/// The role that a superuser's connections take, so that row-level security binds them.
const SERVER_ROLE: &str = "galley_server";
/// Longest that any statement but a load may take: a stuck one must not hold a connection for ever.
const STATEMENT_TIMEOUT: &str = "60s";

pub(crate) static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations");

type Tx = Transaction<'static, sqlx::Postgres>;
/// A writer's connection, while nobody uses it.
type WriterSlot = Arc<tokio::sync::Mutex<Option<PgConnection>>>;

pub(crate) struct Postgres {
    pool: PgPool,
    writer_options: PgConnectOptions,
    writers: Mutex<HashMap<ShardId, WriterSlot>>,
    /// Segments of `changes` that are known to be there.
    segments: Mutex<BTreeSet<i64>>,
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Postgres")
    }
}

/// Whose rows a transaction sees.
#[derive(Debug, Clone, Copy)]
enum Sees {
    All,
    Tenant(TenantId),
}

fn failed(operation: &'static str) -> impl Fn(sqlx::Error) -> BackendError {
    move |source| BackendError::Failed { operation, source: Cause::Sqlx(source) }
}

impl Postgres {
    pub(crate) async fn connect(config: &StoreConfig) -> Result<Self, BackendError> {
        let options = PgConnectOptions::from_str(&config.database_url)
            .map_err(failed("parse the database URL"))?
            .application_name("galley-server")
            .disable_statement_logging();
        let options = with_ordinary_role(options).await?;
        let pooled = options.clone().options([("statement_timeout", STATEMENT_TIMEOUT)]);
        let pool = PgPoolOptions::new()
            .max_connections(config.connections.max(2))
            .min_connections(1)
            .acquire_timeout(Duration::from_secs(10))
            // After a restart of Postgres no request should meet a dead connection; a writer's own connection is not asked.
            .test_before_acquire(true)
            .connect_with(pooled)
            .await
            .map_err(failed("connect"))?;
        MIGRATIONS
            .run(&pool)
            .await
            .map_err(|source| BackendError::Failed { operation: "migrate", source: Cause::Migrate(source) })?;
        Ok(Self {
            pool,
            writer_options: writer_options(options),
            writers: Mutex::default(),
            segments: Mutex::default(),
        })
    }

    /// A transaction that sees what it may. One round trip.
    async fn begin(&self, sees: Sees) -> Result<Tx, BackendError> {
        self.begin_as("BEGIN", sees).await
    }

    async fn begin_as(&self, begin: &str, sees: Sees) -> Result<Tx, BackendError> {
        let tenant = match sees {
            Sees::All => "*".to_owned(),
            Sees::Tenant(tenant) => tenant.as_uuid().to_string(),
        };
        let statement = format!("{begin}; SET LOCAL galley.tenant = '{tenant}'");
        self.pool.begin_with(AssertSqlSafe(statement)).await.map_err(failed("begin"))
    }
}

/// Row-level security does not bind superusers: given one, connections take an ordinary role.
async fn with_ordinary_role(options: PgConnectOptions) -> Result<PgConnectOptions, BackendError> {
    let mut connection = options.connect().await.map_err(failed("connect"))?;
    let unbound: bool =
        sqlx::query_scalar("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user")
            .fetch_one(&mut connection)
            .await
            .map_err(failed("read the role"))?;
    if unbound {
        // Two servers may do this at once, in two databases of one Postgres too: the loser finds it done.
        let make = format!(
            "DO $$ BEGIN
                PERFORM pg_advisory_xact_lock(hashtext('{SERVER_ROLE}'));
                IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = '{SERVER_ROLE}') THEN
                    CREATE ROLE {SERVER_ROLE} NOLOGIN;
                END IF;
                GRANT USAGE, CREATE ON SCHEMA public TO {SERVER_ROLE};
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                GRANT USAGE, CREATE ON SCHEMA public TO {SERVER_ROLE};
            END $$"
        );
        sqlx::raw_sql(AssertSqlSafe(make)).execute(&mut connection).await.map_err(failed("make the server's role"))?;
    }
    connection.close().await.map_err(failed("disconnect"))?;
    Ok(if unbound { options.options([("role", SERVER_ROLE)]) } else { options })
}

/// A writer runs one statement, whose plan is known: index lookups for each row of the batch. Planning it again for each batch
/// would cost more than running it.
fn writer_options(options: PgConnectOptions) -> PgConnectOptions {
    options.options([
        ("galley.tenant", "*"),
        ("synchronous_commit", "on"),
        ("plan_cache_mode", "force_generic_plan"),
        ("enable_seqscan", "off"),
        ("enable_hashjoin", "off"),
        ("enable_mergejoin", "off"),
        ("jit", "off"),
    ])
}

impl Backend for Postgres {
    fn shards_ensure(&self, count: u32) -> Answer<'_, ()> {
        Box::pin(self.ensure_shards(count))
    }

    fn lease_acquire<'a>(&'a self, holder: &'a str, shards: &'a [ShardId], lease: Duration) -> Answer<'a, Vec<Fence>> {
        Box::pin(self.acquire(holder, shards, lease))
    }

    fn lease_renew<'a>(&'a self, me: &'a Presence, held: &'a [Fence], lease: Duration) -> Answer<'a, Renewed> {
        Box::pin(self.renew(me, held, lease))
    }

    fn lease_release<'a>(&'a self, held: &'a [(Fence, Option<String>)], lease: Duration) -> Answer<'a, ()> {
        Box::pin(self.release(held, lease))
    }

    fn roster(&self) -> Answer<'_, Roster> {
        Box::pin(self.read_roster())
    }

    fn replica_leave<'a>(&'a self, holder: &'a str) -> Answer<'a, ()> {
        Box::pin(self.leave(holder))
    }

    fn lease_bump(&self, fence: Fence, lease: Duration) -> Answer<'_, Option<Fence>> {
        Box::pin(self.bump(fence, lease))
    }

    fn commit<'a>(&'a self, fence: Fence, batch: &'a Batch) -> Answer<'a, ()> {
        Box::pin(self.write(fence, batch))
    }

    fn revisions<'a>(&'a self, clusters: &'a [ClusterId]) -> Answer<'a, Vec<Revision>> {
        Box::pin(self.read_revisions(clusters))
    }

    fn snapshot<'a>(&'a self, cluster: ClusterId, fits: Fits<'a>) -> Answer<'a, Option<Snapshot>> {
        Box::pin(self.read_snapshot(cluster, fits))
    }

    fn changes(&self, query: ChangesQuery) -> Answer<'_, ChangesPage> {
        Box::pin(self.read_changes(query))
    }

    fn compact(&self, before: Timestamp, now: Timestamp) -> Answer<'_, ()> {
        Box::pin(self.turn_segments(before, now))
    }

    fn settle<'a>(&'a self, marks: &'a [Mark]) -> Answer<'a, ()> {
        Box::pin(self.write_marks(marks))
    }

    fn unsettled<'a>(&'a self, shards: &'a [ShardId], now: Timestamp) -> Answer<'a, Vec<Unsettled>> {
        Box::pin(self.read_unsettled(shards, now))
    }

    fn tenant_insert<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, TenantInserted> {
        Box::pin(self.insert_tenant(tenant))
    }

    fn tenant_get(&self, tenant: TenantId) -> Answer<'_, Option<Tenant>> {
        Box::pin(self.read_tenant(tenant))
    }

    fn tenant_by_name<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Tenant>> {
        Box::pin(self.read_tenant_named(name))
    }

    fn token_insert<'a>(&'a self, token: &'a TokenRow) -> Answer<'a, ()> {
        Box::pin(self.insert_token(token))
    }

    fn token_lookup(&self, hash: [u8; 32]) -> Answer<'_, Option<TokenRow>> {
        Box::pin(self.read_token(hash))
    }

    fn service_token_insert<'a>(&'a self, token: &'a ServiceToken, hash: [u8; 32]) -> Answer<'a, ()> {
        Box::pin(self.insert_service_token(token, hash))
    }

    fn service_token_lookup(&self, hash: [u8; 32]) -> Answer<'_, Option<ServiceToken>> {
        Box::pin(self.read_service_token(hash))
    }

    fn cluster_insert<'a>(
        &'a self,
        cluster: &'a ClusterRow,
        idempotency_key: Option<&'a str>,
    ) -> Answer<'a, ClusterInserted> {
        Box::pin(self.insert_cluster(cluster, idempotency_key))
    }

    fn cluster_get(&self, tenant: Option<TenantId>, cluster: ClusterId) -> Answer<'_, Option<ClusterRow>> {
        Box::pin(self.read_cluster(tenant, cluster))
    }

    fn cluster_list(&self) -> Answer<'_, Vec<ClusterRow>> {
        Box::pin(self.read_clusters())
    }

    fn cluster_page(&self, tenant: TenantId, after: Cursor, limit: usize) -> Answer<'_, Vec<ClusterRow>> {
        Box::pin(self.read_cluster_page(tenant, after, limit))
    }

    fn cluster_by_name<'a>(&'a self, tenant: TenantId, name: &'a str) -> Answer<'a, Option<ClusterRow>> {
        Box::pin(self.read_cluster_named(tenant, name))
    }

    fn cluster_by_host<'a>(&'a self, label: &'a str) -> Answer<'a, Option<ClusterRow>> {
        Box::pin(self.read_cluster_at(label))
    }

    fn cluster_shred(&self, tenant: TenantId, cluster: ClusterId) -> Answer<'_, bool> {
        Box::pin(self.shred_cluster(tenant, cluster))
    }

    fn clusters_deleting(&self, shard: ShardId) -> Answer<'_, Vec<ClusterId>> {
        Box::pin(self.read_deleting(shard))
    }

    fn clusters_purge<'a>(&'a self, fence: Fence, clusters: &'a [ClusterId], rows: i64) -> Answer<'a, bool> {
        Box::pin(self.purge_clusters(fence, clusters, rows))
    }

    fn bootstrap_insert<'a>(&'a self, token: &'a BootstrapToken, hash: [u8; 32]) -> Answer<'a, ()> {
        Box::pin(self.insert_bootstrap(token, hash))
    }

    fn bootstrap_consume<'a>(&'a self, hash: [u8; 32], node: &'a str, now: Timestamp) -> Answer<'a, BootstrapUse> {
        Box::pin(self.consume_bootstrap(hash, node, now))
    }

    fn installation_value<'a>(&'a self, name: &'a str, value: &'a [u8]) -> Answer<'a, Vec<u8>> {
        Box::pin(self.keep_installation_value(name, value))
    }
}
