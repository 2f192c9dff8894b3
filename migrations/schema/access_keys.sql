-- Who may read over HTTP: the keys that `tailrace serve` takes. Only a hash of each is here.

CREATE TABLE tailrace.access_keys (
    id             int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    name           text NOT NULL,
    key_hash       bytea NOT NULL,
    acts           boolean NOT NULL DEFAULT false,
    created_at     timestamptz NOT NULL DEFAULT now(),
    created_by     text NOT NULL DEFAULT session_user,
    last_used_at   timestamptz,
    revoked_at     timestamptz,
    CONSTRAINT access_keys_name_key UNIQUE (name),
    CONSTRAINT access_keys_key_hash_key UNIQUE (key_hash),
    CONSTRAINT access_keys_key_hash CHECK (octet_length(key_hash) = 32)
);

COMMENT ON COLUMN tailrace.access_keys.key_hash IS
    'SHA-256 of the key. The key is 43 random characters, so nobody finds it from its hash.';
COMMENT ON COLUMN tailrace.access_keys.acts IS
    'Whoever has the key may also have runs ingested, retried and cancelled, in the console.';
COMMENT ON COLUMN tailrace.access_keys.last_used_at IS
    'When a request showed the key; up to a minute late. Servers on a standby do not note it.';
COMMENT ON COLUMN tailrace.access_keys.revoked_at IS
    'Since when the key is refused. The row stays: it says who had access and when.';
