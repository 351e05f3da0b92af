//! Tenants, tokens and clusters: the same answers from every database.

use std::sync::Arc;
use std::time::Duration;

use galley_types::Clock as _;
use jiff::Timestamp;

use super::support::clock;
use crate::testing::{TokioClock, new_cluster};
use crate::*;

#[tokio::test(start_paused = true)]
async fn the_registry_answers_by_tenant() {
    let clock = clock();
    let store = Store::open_in_memory(clock.clone()).await.expect("opens");
    answers_by_tenant(&store, &clock).await;
}

pub async fn answers_by_tenant(store: &Store, clock: &Arc<TokioClock>) {
    let acme = store.tenant_create("acme").await.expect("tenant");
    let other = store.tenant_create("other").await.expect("tenant");
    assert!(matches!(store.tenant_create("acme").await, Err(StoreError::TenantNameTaken(_))));
    assert_eq!(store.tenant_by_name("acme").await.expect("reads"), Some(acme.clone()));

    let token = store.token_create(acme.id, "laptop").await.expect("token");
    assert_eq!(store.token_lookup(&token.secret).await.expect("reads").expect("found").tenant, acme.id);
    assert_eq!(store.token_lookup("galley_wrong").await.expect("reads"), None);
    let service = store.service_token_create("cloud-controller-manager").await.expect("token");
    let found = store.service_token_lookup(&service.secret).await.expect("reads").expect("found");
    assert_eq!(found.service, "cloud-controller-manager");
    assert_eq!(store.token_lookup(&service.secret).await.expect("reads"), None, "of another kind");

    let mut new = new_cluster(acme.id, "prod");
    new.idempotency_key = Some("once".into());
    let cluster = store.cluster_create(new.clone()).await.expect("cluster");
    assert_eq!(store.cluster_create(new.clone()).await.expect("the same"), cluster);
    new.idempotency_key = None;
    assert!(matches!(store.cluster_create(new).await, Err(StoreError::ClusterNameTaken { .. })));
    let theirs = store.cluster_create(new_cluster(other.id, "prod")).await.expect("names are each tenant's own");

    let id = cluster.id.to_string();
    assert_eq!(store.cluster_get(acme.id, &id).await.expect("reads"), Some(cluster.clone()));
    assert_eq!(store.cluster_get(other.id, &id).await.expect("reads"), None);
    store.cluster(cluster.id).await.expect("loads");
    assert_eq!(store.cluster_get(other.id, &id).await.expect("reads"), None, "loaded or not");
    assert_eq!(store.cluster_get(acme.id, "no id").await.expect("reads"), None);
    assert_eq!(store.cluster_by_id(&id).await.expect("reads"), Some(cluster.clone()));
    assert_eq!(store.cluster_by_hostname(&cluster.host_label).await.expect("reads"), Some(cluster.clone()));
    let page = store.cluster_page(acme.id, None, 10).await.expect("reads");
    assert_eq!((page.clusters, page.next), (vec![cluster.clone()], None));
    assert_eq!(store.cluster_by_name(acme.id, &cluster.name).await.expect("reads"), Some(cluster.clone()));
    assert_eq!(store.cluster_by_name(other.id, "prod").await.expect("reads"), Some(theirs.clone()));
    assert_eq!(store.cluster_list_all().await.expect("reads").len(), 2);
    assert_eq!(store.cluster_keys(cluster.id).await.expect("opens").service_account_key, "service account key");

    let expires = clock.now() + Duration::from_secs(60);
    let join = store.bootstrap_token_create(&cluster, expires).await.expect("token");
    let (one, two) = tokio::join!(
        store.bootstrap_token_consume(&join.secret, "a"),
        store.bootstrap_token_consume(&join.secret, "a")
    );
    let answers = [one.expect("reads"), two.expect("reads")];
    let granted = |answer: &BootstrapUse| matches!(answer, BootstrapUse::Granted(token) if token.cluster == cluster.id);
    assert_eq!(answers.iter().filter(|answer| granted(answer)).count(), 1, "one gets it: {answers:?}");
    // Databases keep microseconds.
    let about = |at: Timestamp, wanted: Timestamp| at.duration_since(wanted).as_secs() == 0;
    let used = |answer: &BootstrapUse| matches!(answer, BootstrapUse::Used { at, by } if by == "a" && *at < expires);
    assert!(answers.iter().any(used), "the other is told: {answers:?}");
    let late = store.bootstrap_token_create(&cluster, expires).await.expect("token");
    clock.advance(Duration::from_secs(61));
    let use_of = async |secret: &str| store.bootstrap_token_consume(secret, "b").await.expect("reads");
    assert!(matches!(use_of(&late.secret).await, BootstrapUse::Expired { at } if about(at, expires)));
    assert!(used(&use_of(&join.secret).await), "used says more than expired");
    assert_eq!(use_of("galley-join.made.up").await, BootstrapUse::Unknown);

    assert!(!store.cluster_delete(other.id, &id).await.expect("not theirs"));
    assert!(store.cluster_delete(acme.id, &id).await.expect("deleted"));
    assert!(!store.cluster_delete(acme.id, &id).await.expect("gone"));
    assert_eq!(store.cluster_get(acme.id, &id).await.expect("reads"), None);
    assert_eq!(store.cluster_by_hostname(&cluster.host_label).await.expect("reads"), None);
    assert!(store.cluster_keys(cluster.id).await.is_err());
    store.cluster_create(new_cluster(acme.id, "prod")).await.expect("the name is free");
    assert!(store.cluster(theirs.id).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn clusters_are_listed_page_by_page_each_once() {
    let store = Store::open_in_memory(clock()).await.expect("opens");
    let tenant = store.tenant_create("acme").await.expect("tenant").id;
    let mut made = Vec::new();
    for n in 0..25 {
        made.push(store.cluster_create(new_cluster(tenant, &format!("c{n}"))).await.expect("made").id);
        // Some are made in the same instant.
        if n % 3 == 0 {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }
    let (mut listed, mut after) = (Vec::new(), None);
    loop {
        let page = store.cluster_page(tenant, after.as_deref(), 10).await.expect("reads");
        listed.extend(page.clusters.iter().map(|cluster| cluster.id));
        // One that goes meanwhile disturbs no later page.
        if after.is_none() {
            assert!(store.cluster_delete(tenant, &listed[9].to_string()).await.expect("deleted"));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    listed.sort_unstable();
    made.sort_unstable();
    assert_eq!(listed, made);
    let answer = store.cluster_page(tenant, Some("x-y"), 10).await;
    assert!(matches!(answer, Err(StoreError::BadContinuation(_))), "{answer:?}");
}
