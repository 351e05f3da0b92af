-- A join token that was used stays a while, so that the next machine that tries it is told what became of it. Servers of the
-- release before delete it instead.

ALTER TABLE bootstrap_tokens
    ADD COLUMN used_at timestamptz,
    -- The name of the node that it became.
    ADD COLUMN used_by text,
    ADD CONSTRAINT bootstrap_tokens_used CHECK ((used_at IS NULL) = (used_by IS NULL));
