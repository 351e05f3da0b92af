-- Long-running work of the management API that a caller may ask about: creation and deletion of clusters and what follows.

CREATE TABLE operations (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenants,
    -- Stays after the cluster is gone.
    cluster_id   uuid,
    kind         text NOT NULL,
    state        text NOT NULL CHECK (state IN ('running', 'succeeded', 'failed')),
    detail       jsonb NOT NULL DEFAULT '{}',
    created_at   timestamptz NOT NULL,
    finished_at  timestamptz
);
CREATE INDEX operations_tenant ON operations (tenant_id, created_at DESC);

ALTER TABLE operations ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON operations USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR tenant_id::text = (SELECT current_setting('galley.tenant', true)));
