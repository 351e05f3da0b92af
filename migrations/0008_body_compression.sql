-- Bodies over 2 KB are compressed. pglz, Postgres' old method, took a third of what a commit of pods cost; lz4 takes next to
-- nothing. A Postgres that was built without lz4 keeps pglz. Rows that are there stay as they are: each value says how it is
-- compressed.
DO $$
DECLARE
    part regclass;
BEGIN
    ALTER TABLE objects ALTER COLUMN body SET COMPRESSION lz4;
    -- Partitions made later take it from `changes`; those that are there have their own.
    FOR part IN SELECT 'changes'::regclass UNION ALL SELECT inhrelid::regclass FROM pg_inherits WHERE inhparent = 'changes'::regclass
    LOOP
        EXECUTE format('ALTER TABLE %s ALTER COLUMN body SET COMPRESSION lz4, ALTER COLUMN prev_body SET COMPRESSION lz4', part);
    END LOOP;
EXCEPTION
    WHEN feature_not_supported THEN
        RAISE NOTICE 'this PostgreSQL was built without lz4: bodies stay compressed with pglz';
END
$$;
