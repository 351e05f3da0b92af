//! The store on a real Postgres.

use std::sync::Arc;
use std::time::Duration;

use galley_types::{Clock, Revision};
use sqlx::{Connection as _, Row as _};

use super::support::*;
use crate::testing::{PATIENCE, Postgres, TokioClock, config, new_cluster};
use crate::*;

async fn open(postgres: &Postgres, holder: &str) -> (Store, Arc<TokioClock>) {
    let clock = clock();
    let store = Store::open(config(&postgres.url(), holder), clock.clone()).await.expect("opens");
    (store, clock)
}

/// What a superuser sees.
async fn superuser(postgres: &Postgres) -> sqlx::PgConnection {
    sqlx::PgConnection::connect(&postgres.url()).await.expect("connects")
}

#[tokio::test]
async fn writes_survive_reopening_and_watches_resume_from_changes() {
    let postgres = Postgres::start().expect("Postgres");
    let (store, _) = open(&postgres, "one").await;
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    cluster.commit(create("pods", "n", "x", "1")).await.expect("written");
    cluster.commit(update("pods", "n", "x", "2", Revision(1))).await.expect("written");
    cluster.commit(create("secrets", "n", "s", "hunter2")).await.expect("written");
    cluster.commit(update("secrets", "n", "s", "hunter3", Revision(3))).await.expect("written");
    cluster.commit(create("leases.coordination.k8s.io", "n", "l", "1")).await.expect("written");
    cluster.commit(delete("pods", "n", "x", Revision(2))).await.expect("written");
    cluster.commit(create("pods", "n", "y", "1")).await.expect("written");
    let id = cluster.id();
    drop(cluster);
    store.close().await;

    let (store, _) = open(&postgres, "two").await;
    let cluster = store.cluster(id).await.expect("loads");
    assert_eq!(cluster.revision(), Revision(7));
    assert_eq!(names(&cluster.list_all()), ["l=1", "y=1", "s=hunter3"]);
    let mut pods = cluster.watch(scope("pods", None), Revision(0)).await.expect("watch");
    assert_eq!(events(&mut pods, 4).await, ["Added x=1@1", "Modified x=2@2", "Deleted x=2@6", "Added y=1@7"]);
    let mut secrets = cluster.watch(scope("secrets", Some("n")), Revision(3)).await.expect("watch");
    let event = next_event(&mut secrets).await;
    assert_eq!(tell(&event), "Modified s=hunter3@4");
    assert_eq!(value_of(event.previous.as_ref().expect("the state before")), "hunter2");
    let pods_then = cluster.list_at(&scope("pods", None), Revision(5)).await.expect("listed");
    assert_eq!((names(&pods_then), pods_then.revision), (vec!["x=2".to_owned()], Revision(5)));
    store.close().await;
}

#[tokio::test]
async fn a_batch_is_all_of_its_writes() {
    let postgres = Postgres::start().expect("Postgres");
    let (store, _) = open(&postgres, "one").await;
    let one = store.cluster_for_test("a").await.expect("cluster");
    let two = store.cluster_for_test("b").await.expect("cluster");
    let writes = |count: usize| (0..count).map(|i| create("pods", "n", &format!("p{i}"), "1")).collect::<Vec<_>>();
    let (first, second) = tokio::join!(one.commit_all(writes(300)), two.commit_all(writes(200)));
    assert!(first.iter().chain(&second).all(Result::is_ok));
    let churn = vec![
        update("pods", "n", "p0", "2", Revision(1)),
        delete("pods", "n", "p0", Revision(301)),
        create("pods", "n", "p0", "3"),
        delete("pods", "n", "p1", Revision(2)),
        create("pods", "n", "new", "1"),
        delete("pods", "n", "new", Revision(305)),
    ];
    assert!(one.commit_all(churn).await.iter().all(Result::is_ok));
    let (ids, expected) = ([one.id(), two.id()], [names(&one.list_all()), names(&two.list_all())]);
    drop((one, two));
    store.close().await;
    let (store, _) = open(&postgres, "one").await;
    for (id, expected) in ids.into_iter().zip(expected) {
        assert_eq!(names(&store.cluster(id).await.expect("loads").list_all()), expected);
    }
    store.close().await;
}

#[tokio::test]
async fn a_dump_shows_no_plaintext_of_secrets_and_keys() {
    let postgres = Postgres::start().expect("Postgres");
    let (store, clock) = open(&postgres, "one").await;
    let tenant = store.tenant_create("acme").await.expect("tenant");
    let mut new = new_cluster(tenant.id, "a");
    new.keys = ClusterKeys { ca_key: "PRIVATE-ca".into(), service_account_key: "PRIVATE-sa".into() };
    let info = store.cluster_create(new).await.expect("cluster");
    let cluster = store.cluster(info.id).await.expect("loads");
    let secret = |value| testing::draft("secrets", &serde_json::json!({"metadata": {"name": "s"}, "data": value}), &[]);
    cluster.commit(Write::Create(secret("PLAIN-1"))).await.expect("written");
    // In another segment: the previous body is carried.
    clock.advance(std::time::Duration::from_secs(2000));
    cluster.commit(Write::Update { draft: secret("PLAIN-2"), expected: Revision(1) }).await.expect("written");
    cluster.commit(create("configmaps", "n", "c", "VISIBLE")).await.expect("written");
    let token = store.token_create(tenant.id, "t").await.expect("token");
    assert_eq!(store.installation_value("ca", b"PRIVATE-installation").await.expect("kept"), b"PRIVATE-installation");
    assert_eq!(store.installation_value("ca", b"other").await.expect("kept"), b"PRIVATE-installation");
    assert_eq!(cluster.keys().await.expect("keys").ca_key, "PRIVATE-ca");

    let mut connection = superuser(&postgres).await;
    let mut dump = String::new();
    let tables: Vec<String> = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
    .fetch_all(&mut connection)
    .await
    .expect("tables");
    for table in &tables {
        // Every column as text, bytes as they are where they are text.
        let rows: Vec<String> = sqlx::query_scalar(sqlx::AssertSqlSafe(format!(
            "SELECT encode(convert_to(t::text, 'UTF8'), 'escape') FROM {table} t"
        )))
        .fetch_all(&mut connection)
        .await
        .expect("rows");
        dump.extend(rows);
    }
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    assert!(dump.contains(&hex("VISIBLE")), "the dump has bodies");
    for plain in ["PLAIN-1", "PLAIN-2", "PRIVATE-ca", "PRIVATE-sa", "PRIVATE-installation", &token.secret] {
        assert!(!dump.contains(plain) && !dump.contains(&hex(plain)), "{plain} is in the dump");
    }
    store.close().await;
}

#[tokio::test]
async fn row_level_security_hides_what_is_not_asked_for() {
    let postgres = Postgres::start().expect("Postgres");
    let (store, _) = open(&postgres, "one").await;
    let one = store.cluster_for_test("a").await.expect("cluster");
    let two = store.cluster_for_test("b").await.expect("cluster");
    one.commit(create("pods", "n", "x", "1")).await.expect("written");
    two.commit(create("pods", "n", "y", "1")).await.expect("written");

    let mut connection = superuser(&postgres).await;
    let count =
        "SELECT (SELECT count(*) FROM objects), (SELECT count(*) FROM changes), (SELECT count(*) FROM clusters),
        (SELECT count(*) FROM tenants), (SELECT count(*) FROM cluster_progress), (SELECT count(*) FROM shards)";
    for (setting, expected) in [
        (None, [0, 0, 0, 0, 0, 0]),
        (Some(one.info().tenant.as_uuid().to_string()), [1, 1, 1, 1, 1, 0]),
        (Some(uuid::Uuid::nil().to_string()), [0, 0, 0, 0, 0, 0]),
        (Some("*".to_owned()), [2, 2, 2, 2, 2, 12]),
    ] {
        let mut tx = connection.begin().await.expect("begins");
        sqlx::query("SET LOCAL ROLE galley_server").execute(&mut *tx).await.expect("role");
        if let Some(setting) = &setting {
            sqlx::query("SELECT set_config('galley.tenant', $1, true)")
                .bind(setting)
                .execute(&mut *tx)
                .await
                .expect("set");
        }
        let row = sqlx::query(count).fetch_one(&mut *tx).await.expect("counts");
        let counts: Vec<i64> = (0..6).map(|at| row.get(at)).collect();
        assert_eq!(counts, expected, "with {setting:?}");
        if setting.as_deref() != Some("*") {
            // A tenant cannot write rows of another either.
            let forged =
                sqlx::query("UPDATE cluster_progress SET tenant_id = gen_random_uuid()").execute(&mut *tx).await;
            assert!(forged.map_or(true, |done| done.rows_affected() == 0), "forged with {setting:?}");
        }
        tx.rollback().await.expect("rolls back");
    }
    // Partitions are no way around it.
    let partition: String = sqlx::query_scalar(
        "SELECT relname::text FROM pg_class WHERE relname LIKE 'changes\\_1%' AND relkind = 'r' ORDER BY 1",
    )
    .fetch_one(&mut connection)
    .await
    .expect("a partition");
    let mut tx = connection.begin().await.expect("begins");
    sqlx::query("SET LOCAL ROLE galley_server").execute(&mut *tx).await.expect("role");
    sqlx::query("SET LOCAL galley.tenant = '*'").execute(&mut *tx).await.expect("set");
    let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {partition}")))
        .fetch_one(&mut *tx)
        .await
        .expect("counts");
    assert_eq!(rows, 0);
    tx.rollback().await.expect("rolls back");
    store.close().await;
}

#[tokio::test]
async fn the_registry_answers_by_tenant() {
    let postgres = Postgres::start().expect("Postgres");
    let (store, clock) = open(&postgres, "one").await;
    super::registry::answers_by_tenant(&store, &clock).await;
    store.close().await;
}

#[tokio::test]
async fn a_stale_writer_is_stopped_by_the_epoch() {
    let postgres = Postgres::start().expect("Postgres");
    let (old, _) = open(&postgres, "old").await;
    let stale = old.cluster_for_test("a").await.expect("cluster");
    stale.commit(create("pods", "n", "x", "1")).await.expect("written");
    // The lease runs out while the old process believes in it: its clock stood still.
    old.freeze();
    for expire in [
        "UPDATE shards SET expires_at = now() - interval '1 minute'",
        "UPDATE replicas SET expires_at = now() - interval '1 minute'",
    ] {
        sqlx::query(expire).execute(&mut superuser(&postgres).await).await.expect("expires");
    }
    let (new, _) = open(&postgres, "new").await;
    let refused = stale.commit(create("pods", "n", "y", "1")).await;
    assert!(matches!(refused, Err(CommitError::Unavailable(_))), "{refused:?}");
    let cluster = new.cluster(stale.id()).await.expect("loads");
    assert_eq!(names(&cluster.list_all()), ["x=1"]);
    cluster.commit(create("pods", "n", "z", "1")).await.expect("written");
    let shard = cluster.info().shard;
    old.renew().await.expect("learns that it lost");
    let answer = old.cluster(stale.id()).await;
    assert!(matches!(answer, Err(StoreError::NotOwner { shard: lost, .. }) if lost == shard), "{answer:?}");
    new.close().await;
    old.close().await;
}

#[tokio::test]
async fn changes_past_the_retention_are_gone_and_watches_of_them_expire() {
    let postgres = Postgres::start().expect("Postgres");
    let (store, clock) = open(&postgres, "one").await;
    let id = super::cluster::expiry(&store, &clock).await;
    drop(store);
    let store = Store::open(config(&postgres.url(), "one"), clock.clone()).await.expect("opens");
    super::cluster::after_expiry(&store, id).await;
    let mut connection = superuser(&postgres).await;
    let oldest: i64 = sqlx::query_scalar("SELECT extract(epoch FROM min(at))::bigint FROM changes")
        .fetch_one(&mut connection)
        .await
        .expect("reads");
    assert!(oldest > clock.now().as_second() - 3600 - 900);
    store.close().await;
}

#[tokio::test]
async fn a_deleted_cluster_leaves_no_rows() {
    let postgres = Postgres::start().expect("Postgres");
    let (store, _) = open(&postgres, "one").await;
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let writes = (0..50).map(|i| create("pods", "n", &format!("p{i}"), "1")).collect();
    assert!(cluster.commit_all(writes).await.iter().all(Result::is_ok));
    let mut watch = cluster.watch(scope("pods", None), Revision(50)).await.expect("watch");
    let info = cluster.info().clone();
    assert!(store.cluster_delete(info.tenant, &info.id.to_string()).await.expect("deleted"));
    assert_eq!(next(&mut watch).await.err(), Some(WatchEnd::Closing));
    assert!(matches!(cluster.commit(create("pods", "n", "late", "1")).await, Err(CommitError::Unavailable(_))));
    assert!(matches!(store.cluster(info.id).await, Err(StoreError::ClusterNotFound(_))));
    store.housekeep().await.expect("purges");
    let mut connection = superuser(&postgres).await;
    for table in ["objects", "changes", "clusters", "cluster_progress"] {
        let rows: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(format!("SELECT count(*) FROM {table}")))
            .fetch_one(&mut connection)
            .await
            .expect("counts");
        assert_eq!(rows, 0, "{table}");
    }
    store.close().await;
}

#[tokio::test]
async fn a_commit_cut_off_by_a_crash_of_postgres_is_settled_before_the_next() {
    let mut postgres = Postgres::start().expect("Postgres");
    let (store, _) = open(&postgres, "one").await;
    let cluster = store.cluster_for_test("a").await.expect("cluster");
    let mut watch = cluster.watch(scope("pods", None), Revision(0)).await.expect("watch");
    let mut acknowledged = Vec::new();
    for round in 0..2 {
        let storm: Vec<_> = (0..200)
            .map(|i| {
                let cluster = cluster.clone();
                tokio::spawn(async move {
                    let name = format!("p{round}-{i}");
                    let answer = cluster.commit(create("pods", "n", &name, "1")).await;
                    answer.ok().map(|object| (object.revision, name))
                })
            })
            .collect();
        tokio::task::yield_now().await;
        postgres.crash_and_restart().expect("restarts");
        for write in storm {
            acknowledged.extend(write.await.expect("joins"));
        }
        // Until the store writes again: it may still be finding out.
        let name = format!("after-{round}");
        let answer = tokio::time::timeout(testing::PATIENCE, async {
            loop {
                match cluster.commit(create("pods", "n", &name, "1")).await {
                    Ok(object) => break object,
                    Err(CommitError::Unavailable(_)) => tokio::task::yield_now().await,
                    Err(other) => panic!("{other}"),
                }
            }
        });
        acknowledged.push((answer.await.expect("recovers").revision, name));
    }
    acknowledged.sort();
    let expected = names(&cluster.list(&scope("pods", None)));
    for revision in 1..=cluster.revision().0 {
        assert_eq!(next_event(&mut watch).await.object.revision, Revision(revision), "no gap");
    }
    let id = cluster.id();
    drop((watch, cluster));
    store.close().await;
    let (store, _) = open(&postgres, "two").await;
    let cluster = store.cluster(id).await.expect("loads");
    assert_eq!(names(&cluster.list(&scope("pods", None))), expected, "memory was what Postgres has");
    for (revision, name) in acknowledged {
        let object = cluster.get(&ObjectKey::new(&"pods".into(), "n", &name)).expect("acknowledged, so there");
        assert_eq!(object.revision, revision);
    }
    store.close().await;
}

#[tokio::test]
async fn clusters_of_several_pages_are_loaded_whole_and_make_room_for_each_other() {
    // Pages of 500, the last not full.
    const OBJECTS: u64 = 1100;
    let postgres = Postgres::start().expect("Postgres");
    let (store, _) = open(&postgres, "one").await;
    let mut expected = Vec::new();
    for name in ["a", "b", "c", "d"] {
        let cluster = store.cluster_for_test(name).await.expect("cluster");
        let write = |number: u64| {
            let mut draft = draft("configmaps", "n", &format!("c{number}"), name);
            draft.tail = [draft.tail.as_ref(), &vec![b' '; 2000]].concat().into();
            Write::Create(draft)
        };
        assert!(cluster.commit_all((0..OBJECTS).map(write).collect()).await.iter().all(Result::is_ok));
        expected.push((cluster.id(), names(&cluster.list_all())));
    }
    store.close().await;

    let mut small = config(&postgres.url(), "one");
    // Two of the four fit, and each goes as soon as nobody holds it.
    small.cache.bytes = 8 << 20;
    small.cache.idle = Duration::ZERO;
    let limit = small.cache.bytes;
    let store = Store::open(small, clock()).await.expect("opens");
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..8 {
        let (store, expected) = (store.clone(), expected.clone());
        tasks.spawn(async move {
            for step in 0..5 {
                let (id, expected) = &expected[(first + step) % expected.len()];
                match store.cluster(*id).await {
                    Ok(cluster) => assert_eq!(cluster.list_all().objects.len(), expected.len()),
                    Err(StoreError::NoRoom { .. }) => {}
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    let all = async {
        while let Some(done) = tasks.join_next().await {
            done.expect("each load is answered")
        }
    };
    tokio::time::timeout(PATIENCE, all).await.expect("no load waits for another for ever");
    for (id, expected) in &expected {
        let cluster = store.cluster(*id).await.expect("there is room for each alone");
        assert_eq!(names(&cluster.list_all()), *expected);
        assert!(store.cache_bytes() <= limit, "{}", store.cache_bytes());
    }
    store.close().await;
}
