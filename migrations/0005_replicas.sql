-- The replicas that own shards, and where the others reach them. A row that has run out is a replica that is gone; the time
-- is Postgres', as for leases.
CREATE TABLE replicas (
    holder      text PRIMARY KEY,
    -- HOST:PORT of its peer listener.
    address     text NOT NULL,
    started_at  timestamptz NOT NULL,
    -- It hands its shards over and takes none.
    leaving     boolean NOT NULL DEFAULT false,
    expires_at  timestamptz NOT NULL
) WITH (fillfactor = 50);

ALTER TABLE replicas ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY installation ON replicas USING ((SELECT current_setting('galley.tenant', true)) = '*');
