//! The registry's half of the in-memory database.

use std::collections::BTreeMap;
use std::time::Duration;

use galley_types::{ClusterId, Revision, ShardId, TenantId};
use jiff::Timestamp;

use super::memory::Memory;
use super::{
    Answer, Backend, BackendError, Batch, ChangesPage, ChangesQuery, Fence, Fits, Mark, Presence, Renewed, Snapshot,
    Unsettled,
};
use crate::registry::ClusterState;
use crate::registry::records::{
    BootstrapToken, BootstrapUse, ClusterInserted, ClusterRow, Cursor, SealedKeys, ServiceToken, Tenant,
    TenantInserted, TokenRow,
};
use crate::spread::Roster;

#[derive(Debug, Default)]
pub(super) struct Registry {
    tenants: Vec<Tenant>,
    tokens: Vec<TokenRow>,
    service_tokens: Vec<([u8; 32], ServiceToken)>,
    /// In the order of their making.
    clusters: Vec<(Option<String>, ClusterRow)>,
    bootstrap_tokens: Vec<BootstrapRow>,
    installation: BTreeMap<String, Vec<u8>>,
}

#[derive(Debug)]
struct BootstrapRow {
    hash: [u8; 32],
    token: BootstrapToken,
    used: Option<(Timestamp, String)>,
}

impl Registry {
    fn find(&self, wanted: impl Fn(&ClusterRow) -> bool) -> Option<ClusterRow> {
        self.clusters.iter().map(|(_, row)| row).find(|row| wanted(row)).cloned()
    }

    pub(super) fn active<'a>(&'a self, shards: &'a [ShardId]) -> impl Iterator<Item = ClusterId> + 'a {
        self.in_state(shards, ClusterState::Active)
    }

    fn in_state<'a>(&'a self, shards: &'a [ShardId], state: ClusterState) -> impl Iterator<Item = ClusterId> + 'a {
        let rows = self.clusters.iter().map(|(_, row)| &row.cluster);
        rows.filter(move |row| row.state == state && shards.contains(&row.shard)).map(|row| row.id)
    }

    fn insert(&mut self, row: &ClusterRow, idempotency_key: Option<&str>) -> ClusterInserted {
        let cluster = &row.cluster;
        let same_tenant = |other: &ClusterRow| other.cluster.tenant == cluster.tenant;
        if idempotency_key.is_some()
            && let Some((_, before)) =
                self.clusters.iter().find(|(key, other)| key.as_deref() == idempotency_key && same_tenant(other))
        {
            return ClusterInserted::Before(before.clone());
        }
        let active = |other: &ClusterRow| other.cluster.state == ClusterState::Active;
        if self.find(|other| active(other) && same_tenant(other) && other.cluster.name == cluster.name).is_some() {
            return ClusterInserted::NameTaken;
        }
        if self.find(|other| other.cluster.host_label == cluster.host_label).is_some() {
            return ClusterInserted::LabelTaken;
        }
        self.clusters.push((idempotency_key.map(str::to_owned), row.clone()));
        ClusterInserted::New
    }
}

impl Backend for Memory {
    fn shards_ensure(&self, count: u32) -> Answer<'_, ()> {
        Memory::shards_ensure(self, count)
    }

    fn lease_acquire<'a>(&'a self, holder: &'a str, shards: &'a [ShardId], lease: Duration) -> Answer<'a, Vec<Fence>> {
        Memory::lease_acquire(self, holder, shards, lease)
    }

    fn lease_renew<'a>(&'a self, me: &'a Presence, held: &'a [Fence], lease: Duration) -> Answer<'a, Renewed> {
        Memory::lease_renew(self, me, held, lease)
    }

    fn lease_release<'a>(&'a self, held: &'a [(Fence, Option<String>)], lease: Duration) -> Answer<'a, ()> {
        Memory::lease_release(self, held, lease)
    }

    fn roster(&self) -> Answer<'_, Roster> {
        Memory::roster(self)
    }

    fn replica_leave<'a>(&'a self, holder: &'a str) -> Answer<'a, ()> {
        Memory::replica_leave(self, holder)
    }

    fn lease_bump(&self, fence: Fence, lease: Duration) -> Answer<'_, Option<Fence>> {
        Memory::lease_bump(self, fence, lease)
    }

    fn commit<'a>(&'a self, fence: Fence, batch: &'a Batch) -> Answer<'a, ()> {
        Memory::commit(self, fence, batch)
    }

    fn revisions<'a>(&'a self, clusters: &'a [ClusterId]) -> Answer<'a, Vec<Revision>> {
        Memory::revisions(self, clusters)
    }

    fn snapshot<'a>(&'a self, cluster: ClusterId, fits: Fits<'a>) -> Answer<'a, Option<Snapshot>> {
        Memory::snapshot(self, cluster, fits)
    }

    fn changes(&self, query: ChangesQuery) -> Answer<'_, ChangesPage> {
        Memory::changes(self, query)
    }

    fn compact(&self, before: Timestamp, _now: Timestamp) -> Answer<'_, ()> {
        Memory::compact(self, before)
    }

    fn settle<'a>(&'a self, marks: &'a [Mark]) -> Answer<'a, ()> {
        Memory::settle(self, marks)
    }

    fn unsettled<'a>(&'a self, shards: &'a [ShardId], now: Timestamp) -> Answer<'a, Vec<Unsettled>> {
        Memory::unsettled(self, shards, now)
    }

    fn tenant_insert<'a>(&'a self, tenant: &'a Tenant) -> Answer<'a, TenantInserted> {
        self.answer("tenant_insert", move |tables| {
            let tenants = &mut tables.registry.tenants;
            if tenants.iter().any(|other| other.name == tenant.name) {
                return TenantInserted::NameTaken;
            }
            tenants.push(tenant.clone());
            TenantInserted::New
        })
    }

    fn tenant_get(&self, tenant: TenantId) -> Answer<'_, Option<Tenant>> {
        self.answer("tenant_get", move |tables| tables.registry.tenants.iter().find(|row| row.id == tenant).cloned())
    }

    fn tenant_by_name<'a>(&'a self, name: &'a str) -> Answer<'a, Option<Tenant>> {
        self.answer("tenant_by_name", move |tables| {
            tables.registry.tenants.iter().find(|row| row.name == name).cloned()
        })
    }

    fn token_insert<'a>(&'a self, token: &'a TokenRow) -> Answer<'a, ()> {
        self.answer("token_insert", move |tables| tables.registry.tokens.push(token.clone()))
    }

    fn token_lookup(&self, hash: [u8; 32]) -> Answer<'_, Option<TokenRow>> {
        self.answer("token_lookup", move |tables| tables.registry.tokens.iter().find(|row| row.hash == hash).cloned())
    }

    fn service_token_insert<'a>(&'a self, token: &'a ServiceToken, hash: [u8; 32]) -> Answer<'a, ()> {
        self.answer("service_token_insert", move |tables| {
            tables.registry.service_tokens.push((hash, token.clone()));
        })
    }

    fn service_token_lookup(&self, hash: [u8; 32]) -> Answer<'_, Option<ServiceToken>> {
        self.answer("service_token_lookup", move |tables| {
            let mut tokens = tables.registry.service_tokens.iter();
            tokens.find(|(kept, _)| *kept == hash).map(|(_, token)| token.clone())
        })
    }

    fn cluster_insert<'a>(
        &'a self,
        cluster: &'a ClusterRow,
        idempotency_key: Option<&'a str>,
    ) -> Answer<'a, ClusterInserted> {
        self.answer("cluster_insert", move |tables| {
            let inserted = tables.registry.insert(cluster, idempotency_key);
            if let ClusterInserted::New = inserted {
                tables.contents_add(cluster.cluster.id);
            }
            inserted
        })
    }

    fn cluster_get(&self, tenant: Option<TenantId>, cluster: ClusterId) -> Answer<'_, Option<ClusterRow>> {
        self.answer("cluster_get", move |tables| {
            tables
                .registry
                .find(|row| row.cluster.id == cluster && tenant.is_none_or(|tenant| row.cluster.tenant == tenant))
        })
    }

    fn cluster_list(&self) -> Answer<'_, Vec<ClusterRow>> {
        self.answer("cluster_list", move |tables| {
            let rows = tables.registry.clusters.iter().map(|(_, row)| row);
            rows.filter(|row| row.cluster.state == ClusterState::Active).cloned().collect()
        })
    }

    fn cluster_page(&self, tenant: TenantId, after: Cursor, limit: usize) -> Answer<'_, Vec<ClusterRow>> {
        self.answer("cluster_page", move |tables| {
            let place = |row: &ClusterRow| Cursor { created: row.cluster.created, id: row.cluster.id.as_uuid() };
            let rows = tables.registry.clusters.iter().map(|(_, row)| row);
            let mut rows: Vec<ClusterRow> = rows
                .filter(|row| {
                    row.cluster.state == ClusterState::Active && row.cluster.tenant == tenant && place(row) > after
                })
                .cloned()
                .collect();
            rows.sort_by_key(place);
            rows.truncate(limit);
            rows
        })
    }

    fn cluster_by_name<'a>(&'a self, tenant: TenantId, name: &'a str) -> Answer<'a, Option<ClusterRow>> {
        self.answer("cluster_by_name", move |tables| {
            let active = |row: &ClusterRow| row.cluster.state == ClusterState::Active;
            tables.registry.find(|row| active(row) && row.cluster.tenant == tenant && row.cluster.name == name)
        })
    }

    fn cluster_by_host<'a>(&'a self, label: &'a str) -> Answer<'a, Option<ClusterRow>> {
        self.answer("cluster_by_host", move |tables| {
            let active = |row: &ClusterRow| row.cluster.state == ClusterState::Active;
            tables.registry.find(|row| active(row) && row.cluster.host_label == label)
        })
    }

    fn cluster_shred(&self, tenant: TenantId, cluster: ClusterId) -> Answer<'_, bool> {
        self.answer("cluster_shred", move |tables| {
            let mut rows = tables.registry.clusters.iter_mut().map(|(_, row)| row);
            let found = rows.find(|row| {
                row.cluster.id == cluster && row.cluster.tenant == tenant && row.cluster.state == ClusterState::Active
            });
            let Some(row) = found else { return false };
            row.cluster.state = ClusterState::Deleting;
            row.sealed = SealedKeys::default();
            true
        })
    }

    fn clusters_deleting(&self, shard: ShardId) -> Answer<'_, Vec<ClusterId>> {
        self.answer("clusters_deleting", move |tables| {
            tables.registry.in_state(&[shard], ClusterState::Deleting).collect()
        })
    }

    fn clusters_purge<'a>(&'a self, fence: Fence, clusters: &'a [ClusterId], _rows: i64) -> Answer<'a, bool> {
        self.try_answer("clusters_purge", move |tables| {
            if !tables.holds(fence) {
                return Err(BackendError::Fenced { shard: fence.shard });
            }
            for cluster in clusters {
                tables.contents_remove(*cluster);
            }
            tables.registry.bootstrap_tokens.retain(|row| !clusters.contains(&row.token.cluster));
            tables.registry.clusters.retain(|(_, row)| !clusters.contains(&row.cluster.id));
            Ok(true)
        })
    }

    fn bootstrap_insert<'a>(&'a self, token: &'a BootstrapToken, hash: [u8; 32]) -> Answer<'a, ()> {
        let row = BootstrapRow { hash, token: token.clone(), used: None };
        self.answer("bootstrap_insert", move |tables| tables.registry.bootstrap_tokens.push(row))
    }

    fn bootstrap_consume<'a>(&'a self, hash: [u8; 32], node: &'a str, now: Timestamp) -> Answer<'a, BootstrapUse> {
        self.answer("bootstrap_consume", move |tables| {
            let Some(row) = tables.registry.bootstrap_tokens.iter_mut().find(|row| row.hash == hash) else {
                return BootstrapUse::Unknown;
            };
            match &row.used {
                Some((at, by)) => BootstrapUse::Used { at: *at, by: by.clone() },
                None if row.token.expires <= now => BootstrapUse::Expired { at: row.token.expires },
                None => {
                    row.used = Some((now, node.to_owned()));
                    BootstrapUse::Granted(row.token.clone())
                }
            }
        })
    }

    fn installation_value<'a>(&'a self, name: &'a str, value: &'a [u8]) -> Answer<'a, Vec<u8>> {
        self.answer("installation_value", move |tables| {
            tables.registry.installation.entry(name.to_owned()).or_insert_with(|| value.to_vec()).clone()
        })
    }
}
