-- Audit: what people had done through the console, each before it was done.

-- The run is named by its id and is no foreign key: who forgets a run has its rows here deleted (forgetting.sql).
CREATE TABLE tailrace.audit (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at             timestamptz NOT NULL DEFAULT now(),
    who            text NOT NULL,
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    run_id         text NOT NULL,
    action         text NOT NULL,
    outcome        text,
    CONSTRAINT audit_action_check CHECK (action IN ('ingest', 'retry', 'cancel'))
);

COMMENT ON COLUMN tailrace.audit.who IS
    'The name of a key, an environment''s secret key, or the user whom a reverse proxy named.';
COMMENT ON COLUMN tailrace.audit.outcome IS
    'What came of it; null: it is not known, because the server ended before it was noted.';

-- What was done to a run, newest first.
CREATE INDEX audit_run_id_idx ON tailrace.audit (run_id, id);
