-- Pages of a tenant's clusters, in the order of their making. Not CONCURRENTLY: the table has one row for each cluster, and only
-- making and deleting clusters waits.
CREATE INDEX clusters_listed ON clusters (tenant_id, created_at, id) WHERE state = 'active';
