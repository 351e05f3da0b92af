//! Each migration, from the schema before it, with rows in.

use sqlx::{Connection as _, PgConnection};

use crate::backend::postgres::MIGRATIONS;
use crate::testing::Postgres;

async fn at_version(version: i64) -> (Postgres, PgConnection) {
    let postgres = Postgres::start().expect("Postgres");
    let mut connection = PgConnection::connect(&postgres.url()).await.expect("connects");
    for migration in MIGRATIONS.iter().filter(|migration| migration.version < version) {
        sqlx::raw_sql(migration.sql.clone()).execute(&mut connection).await.expect("runs");
    }
    (postgres, connection)
}

async fn run(connection: &mut PgConnection, version: i64) {
    let migration = MIGRATIONS.iter().find(|migration| migration.version == version).expect("there");
    sqlx::raw_sql(migration.sql.clone()).execute(connection).await.expect("runs");
}

async fn execute(connection: &mut PgConnection, statement: &'static str) -> Result<u64, sqlx::Error> {
    sqlx::raw_sql(statement).execute(connection).await.map(|done| done.rows_affected())
}

const TENANT: &str = "INSERT INTO tenants VALUES ('00000000-0000-0000-0000-000000000001', 'acme', now())";
const CLUSTER: &str = "INSERT INTO shards (id) VALUES (0);
    INSERT INTO clusters VALUES ('00000000-0000-0000-0000-0000000000c1', '00000000-0000-0000-0000-000000000001', 'prod', 'prod-1',
        0, 'active', now(), 'key', '{}', 'pem', 'x', 'x', 'x')";

#[tokio::test]
async fn migration_1_keeps_tenants_and_hashed_tokens() {
    let (_postgres, mut connection) = at_version(1).await;
    run(&mut connection, 1).await;
    execute(&mut connection, TENANT).await.expect("a tenant");
    let token = "INSERT INTO api_tokens VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 't', sha256('x'), now())";
    execute(&mut connection, token).await.expect("a token");
    assert!(execute(&mut connection, token).await.is_err(), "the same token twice");
    let plain = "INSERT INTO api_tokens VALUES (gen_random_uuid(), '00000000-0000-0000-0000-000000000001', 't', 'plain', now())";
    assert!(execute(&mut connection, plain).await.is_err(), "not a hash");
    let orphan = "INSERT INTO api_tokens VALUES (gen_random_uuid(), gen_random_uuid(), 't', sha256('y'), now())";
    assert!(execute(&mut connection, orphan).await.is_err(), "of nobody");
}

#[tokio::test]
async fn migration_2_keeps_clusters_of_the_tenants_that_are_there() {
    let (_postgres, mut connection) = at_version(2).await;
    execute(&mut connection, TENANT).await.expect("a tenant");
    run(&mut connection, 2).await;
    execute(&mut connection, CLUSTER).await.expect("a cluster");
    let namesake = "INSERT INTO clusters SELECT gen_random_uuid(), tenant_id, name, 'other', 0, state, now(), NULL, network, '', '', '', '' FROM clusters";
    assert!(execute(&mut connection, namesake).await.is_err(), "the name is taken");
    execute(&mut connection, "UPDATE clusters SET state = 'deleting'").await.expect("deleted");
    execute(&mut connection, "INSERT INTO clusters SELECT gen_random_uuid(), tenant_id, name, 'other', 0, 'active', now(), NULL, network, '', '', '', '' FROM clusters")
        .await
        .expect("the name is free");
    execute(&mut connection, "INSERT INTO cluster_progress SELECT id, tenant_id FROM clusters")
        .await
        .expect("progress");
    assert!(execute(&mut connection, "UPDATE cluster_progress SET revision = -1").await.is_err());
}

#[tokio::test]
async fn migration_3_keeps_objects_in_byte_order() {
    let (_postgres, mut connection) = at_version(3).await;
    execute(&mut connection, TENANT).await.expect("a tenant");
    execute(&mut connection, CLUSTER).await.expect("a cluster");
    run(&mut connection, 3).await;
    execute(
        &mut connection,
        "INSERT INTO objects SELECT c.id, 'pods', 'n', n, c.tenant_id, 1, 'u', '', 1, now(), '{}'
         FROM clusters c, unnest(ARRAY['a.b', 'a-b', 'B', 'ab']) n",
    )
    .await
    .expect("objects");
    let names: Vec<String> =
        sqlx::query_scalar("SELECT name FROM objects ORDER BY name").fetch_all(&mut connection).await.expect("reads");
    assert_eq!(names, ["B", "a-b", "a.b", "ab"]);
    assert!(
        execute(
            &mut connection,
            "INSERT INTO changes SELECT id, 1, now(), tenant_id, 1, 'pods', 'n', 'x', 'u', '', 1 FROM clusters"
        )
        .await
        .is_err(),
        "no partition until the store makes one"
    );
}

#[tokio::test]
async fn migration_4_keeps_operations_past_their_cluster() {
    let (_postgres, mut connection) = at_version(4).await;
    execute(&mut connection, TENANT).await.expect("a tenant");
    run(&mut connection, 4).await;
    execute(&mut connection, "INSERT INTO operations (id, tenant_id, cluster_id, kind, state, created_at) SELECT gen_random_uuid(), id, gen_random_uuid(), 'create', 'running', now() FROM tenants")
        .await
        .expect("an operation");
}

#[tokio::test]
async fn migration_5_keeps_a_row_for_each_replica() {
    let (_postgres, mut connection) = at_version(5).await;
    run(&mut connection, 5).await;
    let replica =
        "INSERT INTO replicas (holder, address, started_at, expires_at) VALUES ('a', '10.0.0.1:6444', now(), now())";
    execute(&mut connection, replica).await.expect("a replica");
    assert!(execute(&mut connection, replica).await.is_err(), "the same one twice");
}

#[tokio::test]
async fn migration_6_keeps_join_tokens_unused() {
    let (_postgres, mut connection) = at_version(6).await;
    execute(&mut connection, TENANT).await.expect("a tenant");
    execute(&mut connection, CLUSTER).await.expect("a cluster");
    execute(
        &mut connection,
        "INSERT INTO bootstrap_tokens SELECT gen_random_uuid(), tenant_id, id, sha256('x'), now() FROM clusters",
    )
    .await
    .expect("a token");
    run(&mut connection, 6).await;
    let unused: i64 = sqlx::query_scalar("SELECT count(*) FROM bootstrap_tokens WHERE used_at IS NULL")
        .fetch_one(&mut connection)
        .await
        .expect("reads");
    assert_eq!(unused, 1);
    let nobody = execute(&mut connection, "UPDATE bootstrap_tokens SET used_at = now()").await;
    assert!(nobody.is_err(), "used by nobody");
    execute(&mut connection, "UPDATE bootstrap_tokens SET used_at = now(), used_by = 'node-1'").await.expect("used");
}

#[tokio::test]
async fn migration_7_lists_clusters_by_index() {
    let (_postgres, mut connection) = at_version(7).await;
    run(&mut connection, 7).await;
    // An empty table is read in any way: the question is whether the index can give the order.
    execute(&mut connection, "SET enable_sort = off").await.expect("set");
    let plan: Vec<String> = sqlx::query_scalar(
        "EXPLAIN SELECT id FROM clusters WHERE tenant_id = '00000000-0000-0000-0000-000000000001' AND state = 'active'
             AND (created_at, id) > (now(), '00000000-0000-0000-0000-000000000002') ORDER BY created_at, id LIMIT 500",
    )
    .fetch_all(&mut connection)
    .await
    .expect("plans");
    assert!(plan.iter().any(|line| line.contains("clusters_listed")), "{plan:?}");
}

#[tokio::test]
async fn migration_8_compresses_bodies_with_lz4_where_postgres_has_it() {
    let (_postgres, mut connection) = at_version(8).await;
    let part = "CREATE TABLE changes_0 (LIKE changes INCLUDING ALL);
        ALTER TABLE changes ATTACH PARTITION changes_0 FOR VALUES FROM ('2026-01-01') TO ('2026-01-02')";
    execute(&mut connection, part).await.expect("a partition");
    run(&mut connection, 8).await;
    execute(&mut connection, "CREATE TABLE later (LIKE changes INCLUDING ALL)").await.expect("a partition made later");
    let methods: Vec<String> = sqlx::query_scalar(
        "SELECT attcompression::text FROM pg_attribute WHERE attname IN ('body', 'prev_body')
             AND attrelid IN ('objects'::regclass, 'changes'::regclass, 'changes_0'::regclass, 'later'::regclass)",
    )
    .fetch_all(&mut connection)
    .await
    .expect("reads");
    let has_lz4 = execute(&mut connection, "SET default_toast_compression = 'lz4'").await.is_ok();
    assert_eq!(methods, [if has_lz4 { "l" } else { "" }; 7]);
}

#[tokio::test]
async fn every_table_has_row_level_security_that_binds_its_owner() {
    let (_postgres, mut connection) = at_version(i64::MAX).await;
    let unbound: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class c WHERE relkind IN ('r', 'p') AND relnamespace = 'public'::regnamespace
             AND (NOT relrowsecurity OR NOT relforcerowsecurity
                 OR NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid))",
    )
    .fetch_all(&mut connection)
    .await
    .expect("reads");
    assert_eq!(unbound, [""; 0]);
    let keyless: Vec<String> = sqlx::query_scalar(
        "SELECT DISTINCT table_name::text FROM information_schema.columns c WHERE table_schema = 'public'
             AND column_name = 'cluster_id' AND NOT EXISTS (SELECT FROM information_schema.columns t
                 WHERE t.table_name = c.table_name AND t.column_name = 'tenant_id')",
    )
    .fetch_all(&mut connection)
    .await
    .expect("reads");
    assert_eq!(keyless, [""; 0], "a cluster's rows name their tenant");
    let versions: Vec<i64> = MIGRATIONS.iter().map(|migration| migration.version).collect();
    assert_eq!(versions, [1, 2, 3, 4, 5, 6, 7, 8], "a new migration needs a test here");
}
