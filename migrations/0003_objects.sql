-- Kubernetes objects: what is, and what changed.
--
-- Names compare by bytes (COLLATE "C"), as Kubernetes orders lists, and as memory does. Bodies are JSON, as bytes: nobody
-- queries into them, and those of Secrets are encrypted.

CREATE TABLE objects (
    cluster_id   uuid NOT NULL,
    resource     text COLLATE "C" NOT NULL,
    namespace    text COLLATE "C" NOT NULL,
    name         text COLLATE "C" NOT NULL,
    tenant_id    uuid NOT NULL,
    revision     bigint NOT NULL,
    uid          text NOT NULL,
    -- Labels and selectable fields, as JSON.
    meta         text NOT NULL,
    -- Where the digits of metadata.resourceVersion are in the body.
    revision_at  integer NOT NULL,
    written_at   timestamptz NOT NULL,
    body         bytea NOT NULL,
    PRIMARY KEY (cluster_id, resource, namespace, name)
) WITH (fillfactor = 85);

-- A row for each change, kept for the retention: partitions changes_<first second> are made ahead and dropped by the store.
-- Leases' changes are not kept: they are half of a quiet fleet's writes, and nobody resumes a watch of them.
CREATE TABLE changes (
    cluster_id        uuid NOT NULL,
    revision          bigint NOT NULL,
    at                timestamptz NOT NULL,
    tenant_id         uuid NOT NULL,
    -- 1 added, 2 modified, 3 deleted
    kind              smallint NOT NULL,
    resource          text COLLATE "C" NOT NULL,
    namespace         text COLLATE "C" NOT NULL,
    name              text COLLATE "C" NOT NULL,
    uid               text NOT NULL,
    meta              text NOT NULL,
    revision_at       integer NOT NULL,
    -- NULL for a deletion: it is the previous body, with this revision in it.
    body              bytea,
    -- The state before, for modifications and deletions. Its body only where the change that wrote it lies in an older
    -- partition, which goes before this row does.
    prev_revision     bigint,
    prev_meta         text,
    prev_revision_at  integer,
    prev_body         bytea,
    PRIMARY KEY (cluster_id, revision, at)
) PARTITION BY RANGE (at);

-- Up to which revision a cluster's changes may be gone. Moved before a partition is dropped.
CREATE TABLE changes_compacted (
    cluster_id  uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL,
    revision    bigint NOT NULL
);

ALTER TABLE objects ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON objects USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR tenant_id::text = (SELECT current_setting('galley.tenant', true)));

ALTER TABLE changes ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON changes USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR tenant_id::text = (SELECT current_setting('galley.tenant', true)));

ALTER TABLE changes_compacted ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON changes_compacted USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR tenant_id::text = (SELECT current_setting('galley.tenant', true)));
