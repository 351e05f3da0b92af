-- Who there is: tenants, their tokens, and what belongs to the installation as a whole.
--
-- Row-level security: a transaction sees the rows of the tenant named by the setting galley.tenant, all rows when it is '*',
-- and none when it is not set. FORCE: the owner, who is the server itself, is bound too.

CREATE TABLE tenants (
    id          uuid PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    created_at  timestamptz NOT NULL
);

CREATE TABLE api_tokens (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenants,
    name        text NOT NULL,
    -- SHA-256. Tokens are random: a plain hash cannot be searched.
    hash        bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at  timestamptz NOT NULL
);
CREATE INDEX api_tokens_tenant ON api_tokens (tenant_id);

-- Tokens of other parts of the installation, such as the cloud controller.
CREATE TABLE service_tokens (
    id          uuid PRIMARY KEY,
    service     text NOT NULL,
    hash        bytea NOT NULL UNIQUE CHECK (length(hash) = 32),
    created_at  timestamptz NOT NULL
);

-- Values that every replica must agree on, such as the installation's CA. Encrypted under the master key.
CREATE TABLE installation (
    name        text PRIMARY KEY,
    value       bytea NOT NULL
);

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON tenants USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR id::text = (SELECT current_setting('galley.tenant', true)));

ALTER TABLE api_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY tenant ON api_tokens USING (
    (SELECT current_setting('galley.tenant', true)) = '*' OR tenant_id::text = (SELECT current_setting('galley.tenant', true)));

ALTER TABLE service_tokens ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY installation ON service_tokens USING ((SELECT current_setting('galley.tenant', true)) = '*');

ALTER TABLE installation ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY installation ON installation USING ((SELECT current_setting('galley.tenant', true)) = '*');
