-- Clusters, who writes them, and how nodes join them.

-- One row for each set of clusters that has one writer. Every commit reads its row FOR SHARE and compares the epoch; taking a
-- shard over raises the epoch, and so waits for commits under way and stops all later ones.
CREATE TABLE shards (
    id          integer PRIMARY KEY,
    holder      text,
    epoch       bigint NOT NULL DEFAULT 0,
    expires_at  timestamptz NOT NULL DEFAULT '-infinity'
) WITH (fillfactor = 50);

CREATE TABLE clusters (
    id                   uuid PRIMARY KEY,
    tenant_id            uuid NOT NULL REFERENCES tenants,
    name                 text NOT NULL,
    -- The first label of its host name.
    host_label           text NOT NULL UNIQUE,
    shard_id             integer NOT NULL REFERENCES shards,
    state                text NOT NULL CHECK (state IN ('active', 'deleting')),
    created_at           timestamptz NOT NULL,
    idempotency_key      text,
    network              jsonb NOT NULL,
    ca_certificate       text NOT NULL,
    -- The key of everything encrypted of this cluster, wrapped by the master key. Emptied by deletion: that shreds the rest.
    data_key             bytea NOT NULL,
    ca_key               bytea NOT NULL,
    service_account_key  bytea NOT NULL,
    UNIQUE (tenant_id, idempotency_key)
);
CREATE UNIQUE INDEX clusters_name ON clusters (tenant_id, name) WHERE state = 'active';
CREATE INDEX clusters_deleting ON clusters (shard_id) WHERE state = 'deleting';

-- What every commit moves: apart from `clusters`, whose rows are wide.
CREATE TABLE cluster_progress (
    cluster_id        uuid PRIMARY KEY REFERENCES clusters ON DELETE CASCADE,
    tenant_id         uuid NOT NULL,
    -- The newest committed revision. A commit that was not decided on it writes -1, and so fails.
    revision          bigint NOT NULL DEFAULT 0 CONSTRAINT cluster_progress_follows CHECK (revision >= 0),
    -- Controllers have nothing left to do up to here, and nothing before wake_at.
    settled_revision  bigint NOT NULL DEFAULT 0,
    wake_at           timestamptz
) WITH (fillfactor = 50);

CREATE TABLE bootstrap_tokens (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    cluster_id  uuid NOT NULL REFERENCES clusters ON DELETE CASCADE,
    hash        bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    expires_at  timestamptz NOT NULL
);
CREATE INDEX bootstrap_tokens_cluster ON bootstrap_tokens (cluster_id);

ALTER TABLE shards ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY installation ON shards USING ((SELECT current_setting('galley.tenant', true)) = '*');

-- Foreign keys are checked as the owner, past row-level security.
ALTER TABLE clusters ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON clusters USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR tenant_id::text = (SELECT current_setting('galley.tenant', true)));

ALTER TABLE cluster_progress ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON cluster_progress USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR tenant_id::text = (SELECT current_setting('galley.tenant', true)));

ALTER TABLE bootstrap_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON bootstrap_tokens USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR tenant_id::text = (SELECT current_setting('galley.tenant', true)));
