//! Tenants, tokens and clusters: what is no Kubernetes object. The only source of tenant and cluster ids: every id that leaves
//! here belongs to a row that was found for the caller.

pub(crate) mod records;

use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use galley_types::{ClusterId, ShardId, TenantId};
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

pub use records::{
    BootstrapToken, BootstrapUse, Cluster, ClusterKeys, ClusterNetwork, ClusterPage, ClusterState, NewCluster,
    ServiceToken, Tenant, TokenRow,
};
use records::{ClusterInserted, ClusterRow, Cursor, SealedKeys, TenantInserted};

use crate::crypto::{DataKey, KeyError, random};
use crate::error::StoreError;
use crate::store::Store;

/// Attempts to find a free host label: a collision of 32 random bits under one name is next to impossible once.
const LABEL_ATTEMPTS: usize = 8;
const CA_KEY: &str = "ca-key";
const SERVICE_ACCOUNT_KEY: &str = "service-account-key";

/// A token as its owner gets it, once. The store keeps its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct NewToken {
    /// Names the token in lists and logs.
    pub id: Uuid,
    /// What to present.
    pub secret: String,
}

impl std::fmt::Debug for NewToken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NewToken").field("id", &self.id).finish_non_exhaustive()
    }
}

impl NewToken {
    /// `<prefix>_<43 characters>`: the prefix lets people and secret scanners see what it is.
    fn generate(prefix: &str) -> Result<Self, KeyError> {
        let secret = format!("{prefix}_{}", BASE64_URL_SAFE_NO_PAD.encode(random::<32>()?));
        Ok(Self { id: Uuid::new_v4(), secret })
    }
}

/// Tokens have 256 random bits: a plain hash cannot be searched.
fn hash(secret: &str) -> [u8; 32] {
    Sha256::digest(secret).into()
}

pub(crate) fn open_keys(key: &DataKey, sealed: &SealedKeys) -> Result<ClusterKeys, StoreError> {
    let text = |name, sealed: &[u8]| -> Result<String, KeyError> {
        String::from_utf8(key.open_named(name, sealed)?).map_err(|_| KeyError::DoesNotOpen { what: name })
    };
    Ok(ClusterKeys {
        ca_key: text(CA_KEY, &sealed.ca_key)?,
        service_account_key: text(SERVICE_ACCOUNT_KEY, &sealed.service_account_key)?,
    })
}

/// A cluster id as people and URLs write it: 32 hex digits, hyphens allowed.
fn parse_cluster_id(text: &str) -> Option<ClusterId> {
    Uuid::try_parse(text).ok().map(ClusterId::from_trusted_row)
}

impl Store {
    /// Makes a tenant.
    pub async fn tenant_create(&self, name: &str) -> Result<Tenant, StoreError> {
        let tenant = Tenant {
            id: TenantId::from_trusted_row(self.inner.config.entropy.uuid()),
            name: name.to_owned(),
            created: self.inner.now(),
        };
        match self.inner.backend.tenant_insert(&tenant).await? {
            TenantInserted::New => Ok(tenant),
            TenantInserted::NameTaken => Err(StoreError::TenantNameTaken(tenant.name)),
        }
    }

    /// A tenant, by its id.
    pub async fn tenant_get(&self, id: TenantId) -> Result<Option<Tenant>, StoreError> {
        Ok(self.inner.backend.tenant_get(id).await?)
    }

    /// A tenant, by its name: for administrators.
    pub async fn tenant_by_name(&self, name: &str) -> Result<Option<Tenant>, StoreError> {
        Ok(self.inner.backend.tenant_by_name(name).await?)
    }

    /// Makes a bearer token of a tenant.
    pub async fn token_create(&self, tenant: TenantId, name: &str) -> Result<NewToken, StoreError> {
        if self.tenant_get(tenant).await?.is_none() {
            return Err(StoreError::TenantNotFound(tenant));
        }
        let token = NewToken::generate("galley")?;
        let row = TokenRow {
            id: token.id,
            tenant,
            name: name.to_owned(),
            hash: hash(&token.secret),
            created: self.inner.now(),
        };
        self.inner.backend.token_insert(&row).await?;
        Ok(token)
    }

    /// Whose token it is.
    pub async fn token_lookup(&self, secret: &str) -> Result<Option<TokenRow>, StoreError> {
        Ok(self.inner.backend.token_lookup(hash(secret)).await?)
    }

    /// Makes a bearer token for a part of the installation, such as `cloud-controller-manager`.
    pub async fn service_token_create(&self, service: &str) -> Result<NewToken, StoreError> {
        let token = NewToken::generate("galley-service")?;
        let row = ServiceToken { id: token.id, service: service.to_owned(), created: self.inner.now() };
        self.inner.backend.service_token_insert(&row, hash(&token.secret)).await?;
        Ok(token)
    }

    /// Which part of the installation the token is for.
    pub async fn service_token_lookup(&self, secret: &str) -> Result<Option<ServiceToken>, StoreError> {
        Ok(self.inner.backend.service_token_lookup(hash(secret)).await?)
    }

    /// Makes a cluster: its row and its data key. Repeated with the same idempotency key, it answers the same cluster.
    pub async fn cluster_create(&self, new: NewCluster) -> Result<Cluster, StoreError> {
        if self.tenant_get(new.tenant).await?.is_none() {
            return Err(StoreError::TenantNotFound(new.tenant));
        }
        for _ in 0..LABEL_ATTEMPTS {
            let row = self.cluster_row(&new).await?;
            match self.inner.backend.cluster_insert(&row, new.idempotency_key.as_deref()).await? {
                ClusterInserted::New => return Ok(row.cluster),
                ClusterInserted::Before(before) => return Ok(before.cluster),
                ClusterInserted::LabelTaken => {}
                ClusterInserted::NameTaken => break,
            }
        }
        Err(StoreError::ClusterNameTaken { tenant: new.tenant, name: new.name })
    }

    async fn cluster_row(&self, new: &NewCluster) -> Result<ClusterRow, StoreError> {
        let uuid = self.inner.config.entropy.uuid();
        let id = ClusterId::from_trusted_row(uuid);
        let hex = uuid.as_simple().to_string();
        let data_key = random()?;
        let key = DataKey::new(id, &data_key);
        let sealed = SealedKeys {
            data_key: self.inner.config.master_key.wrap(id, &data_key).await?,
            ca_key: key.seal_named(CA_KEY, new.keys.ca_key.as_bytes())?,
            service_account_key: key.seal_named(SERVICE_ACCOUNT_KEY, new.keys.service_account_key.as_bytes())?,
        };
        let shard = uuid.as_u128() % u128::from(self.inner.config.shards.max(1));
        let cluster = Cluster {
            id,
            tenant: new.tenant,
            name: new.name.clone(),
            host_label: format!("{}-{}", new.name, &hex[..8]),
            shard: ShardId(i32::try_from(shard).unwrap_or(0)),
            state: ClusterState::Active,
            created: self.inner.now(),
            ca_certificate: new.ca_certificate.clone(),
            network: new.network.clone(),
        };
        Ok(ClusterRow { cluster, sealed })
    }

    /// A cluster of the tenant, by the id in a request. Another tenant's cluster is `None`, as one that never was.
    pub async fn cluster_get(&self, tenant: TenantId, id: &str) -> Result<Option<Cluster>, StoreError> {
        self.cluster_find(Some(tenant), id).await
    }

    /// A cluster, by the id in a request that is yet to be authenticated by the cluster's own means, or that comes from
    /// another part of the installation.
    pub async fn cluster_by_id(&self, id: &str) -> Result<Option<Cluster>, StoreError> {
        self.cluster_find(None, id).await
    }

    async fn cluster_find(&self, tenant: Option<TenantId>, id: &str) -> Result<Option<Cluster>, StoreError> {
        let Some(id) = parse_cluster_id(id) else { return Ok(None) };
        if let Some(loaded) = self.inner.cluster_if_loaded(id) {
            let info = loaded.info();
            return Ok((tenant.is_none_or(|tenant| tenant == info.tenant)).then(|| info.clone()));
        }
        let row = self.inner.backend.cluster_get(tenant, id).await?;
        Ok(row.map(|row| row.cluster).filter(|cluster| cluster.state == ClusterState::Active))
    }

    /// At most `limit` of the tenant's clusters, oldest first, from the beginning or after an earlier page.
    pub async fn cluster_page(
        &self,
        tenant: TenantId,
        after: Option<&str>,
        limit: usize,
    ) -> Result<ClusterPage, StoreError> {
        let after = match after {
            None => Cursor::START,
            Some(text) => Cursor::decode(text).ok_or_else(|| StoreError::BadContinuation(text.to_owned()))?,
        };
        let rows = self.inner.backend.cluster_page(tenant, after, limit).await?;
        let clusters: Vec<Cluster> = rows.into_iter().map(|row| row.cluster).collect();
        let full = clusters.len() >= limit;
        let last = clusters.last().filter(|_| full);
        let next = last.map(|last| Cursor { created: last.created, id: last.id.as_uuid() }.encode());
        Ok(ClusterPage { clusters, next })
    }

    /// The tenant's cluster of that name.
    pub async fn cluster_by_name(&self, tenant: TenantId, name: &str) -> Result<Option<Cluster>, StoreError> {
        Ok(self.inner.backend.cluster_by_name(tenant, name).await?.map(|row| row.cluster))
    }

    /// Every tenant's clusters: for other parts of the installation.
    pub async fn cluster_list_all(&self) -> Result<Vec<Cluster>, StoreError> {
        Ok(self.inner.backend.cluster_list().await?.into_iter().map(|row| row.cluster).collect())
    }

    /// A cluster, by the first label of the host name that a client asked for (SNI).
    pub async fn cluster_by_hostname(&self, label: &str) -> Result<Option<Cluster>, StoreError> {
        let row = self.inner.backend.cluster_by_host(label).await?;
        Ok(row.map(|row| row.cluster))
    }

    /// The private keys of a cluster that may not be loaded.
    pub async fn cluster_keys(&self, id: ClusterId) -> Result<ClusterKeys, StoreError> {
        let row = self.inner.backend.cluster_get(None, id).await?.ok_or(StoreError::ClusterNotFound(id))?;
        if row.cluster.state != ClusterState::Active {
            return Err(StoreError::ClusterNotFound(id));
        }
        let key = DataKey::new(id, &self.inner.config.master_key.unwrap(id, &row.sealed.data_key).await?);
        open_keys(&key, &row.sealed)
    }

    /// Deletes a cluster of the tenant. When this returns its keys are destroyed and nobody finds it; its rows go soon after.
    /// False: the tenant has no such cluster.
    pub async fn cluster_delete(&self, tenant: TenantId, id: &str) -> Result<bool, StoreError> {
        let Some(id) = parse_cluster_id(id) else { return Ok(false) };
        if !self.inner.backend.cluster_shred(tenant, id).await? {
            return Ok(false);
        }
        self.inner.forget(id);
        Ok(true)
    }

    /// Lets go of a cluster that was deleted at another replica.
    pub fn cluster_forget(&self, id: ClusterId) {
        self.inner.forget(id);
    }

    /// Makes a one-time token that a node joins the cluster with.
    pub async fn bootstrap_token_create(&self, cluster: &Cluster, expires: Timestamp) -> Result<NewToken, StoreError> {
        let token = NewToken::generate("galley-join")?;
        let row = BootstrapToken { id: token.id, tenant: cluster.tenant, cluster: cluster.id, expires };
        self.inner.backend.bootstrap_insert(&row, hash(&token.secret)).await?;
        Ok(token)
    }

    /// Uses a join token up for the node of this name. Of two that try at once, one gets it.
    pub async fn bootstrap_token_consume(&self, secret: &str, node: &str) -> Result<BootstrapUse, StoreError> {
        Ok(self.inner.backend.bootstrap_consume(hash(secret), node, self.inner.now()).await?)
    }

    /// A value of the whole installation, encrypted under the master key: the one that is there, or else `value`, for ever.
    /// Of several replicas that start together, all get the same.
    pub async fn installation_value(&self, name: &str, value: &[u8]) -> Result<Vec<u8>, StoreError> {
        let owner = ClusterId::from_trusted_row(Uuid::nil());
        let data_key = random()?;
        let wrapped = self.inner.config.master_key.wrap(owner, &data_key).await?;
        let sealed = DataKey::new(owner, &data_key).seal_named("installation", value)?;
        // Length of the wrapped key, wrapped key, sealed value.
        let length = u16::try_from(wrapped.len()).map_err(|_| KeyError::DoesNotOpen { what: "data key" })?;
        let proposed = [&length.to_be_bytes()[..], &wrapped, &sealed].concat();
        let kept = self.inner.backend.installation_value(name, &proposed).await?;
        let broken = || KeyError::DoesNotOpen { what: "installation value" };
        let (length, rest) = kept.split_first_chunk::<2>().ok_or_else(broken)?;
        let (wrapped, sealed) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length))).ok_or_else(broken)?;
        let data_key = self.inner.config.master_key.unwrap(owner, wrapped).await?;
        Ok(DataKey::new(owner, &data_key).open_named("installation", sealed)?)
    }
}
