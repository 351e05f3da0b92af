//! What an operator does directly in the database: tenants and tokens, and a look at who owns what.

use std::sync::Arc;

use anyhow::{Context, bail};
use galley_store::{Store, StoreConfig, StoreError};
use galley_types::SystemClock;

use crate::arguments::{AdminCommand, AdminOptions, StateOptions};

/// The store, without the ambition to write clusters.
async fn open(state: &StateOptions) -> anyhow::Result<Store> {
    let key = state.key()?;
    let holder = format!("admin-{}", uuid::Uuid::new_v4());
    let config = StoreConfig::new(&state.database_url, holder, Arc::new(key));
    Store::open_registry(config, Arc::new(SystemClock)).await.context("the store cannot be opened")
}

pub async fn run(options: AdminOptions) -> anyhow::Result<()> {
    let store = open(&options.state).await?;
    match options.command {
        AdminCommand::TenantCreate { name } => {
            let tenant = match store.tenant_create(&name).await {
                Err(StoreError::TenantNameTaken(_)) => {
                    store.tenant_by_name(&name).await?.context("the tenant is gone")?
                }
                other => other?,
            };
            println!("{}", tenant.id);
        }
        AdminCommand::TokenCreate { tenant: tenant_name, name } => {
            let Some(tenant) = store.tenant_by_name(&tenant_name).await? else {
                bail!("there is no tenant named {tenant_name:?}: make it with `admin tenant-create {tenant_name}`");
            };
            println!("{}", store.token_create(tenant.id, &name).await?.secret);
        }
        AdminCommand::ShardList => {
            store.owners_refresh().await?;
            for (shard, owner) in store.shard_list() {
                match owner {
                    Some(owner) => println!("{} {} {}", shard.0, owner.holder, owner.address),
                    None => println!("{} - -", shard.0),
                }
            }
        }
        AdminCommand::ClusterList => {
            for cluster in store.cluster_list_all().await? {
                println!("{} {} {} {}", cluster.id, cluster.shard.0, cluster.tenant, cluster.name);
            }
        }
        AdminCommand::CloudTokenCreate => {
            println!("{}", store.service_token_create("cloud-controller-manager").await?.secret);
        }
    }
    Ok(())
}
