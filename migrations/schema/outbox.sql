-- The outbox: who is told when a run is settled.

-- What is to be told, written in the transaction that made it true. A worker sends it, keeps the row for an hour, and
-- sends it again if the broker has lost its memory meanwhile.
CREATE TABLE tailrace.outbox (
    id              bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    run             bigint NOT NULL REFERENCES tailrace.runs (id) ON DELETE CASCADE,
    event           text NOT NULL,
    created_at      timestamptz NOT NULL DEFAULT now(),
    next_attempt_at timestamptz NOT NULL DEFAULT now(),
    attempt         int NOT NULL DEFAULT 0,
    sent_at         timestamptz,
    epoch           text,
    last_error      text,
    CONSTRAINT outbox_event_check CHECK (event IN ('sealed', 'failed', 'reopened'))
);

COMMENT ON COLUMN tailrace.outbox.epoch IS 'The broker''s epoch when it was sent; a broker that was wiped has another.';

CREATE INDEX outbox_due_idx ON tailrace.outbox (next_attempt_at) WHERE sent_at IS NULL;
CREATE INDEX outbox_run_idx ON tailrace.outbox (run);


CREATE FUNCTION tailrace.note_run_event() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO tailrace.outbox (run, event)
    VALUES (NEW.id, CASE WHEN NEW.state IN ('sealed', 'failed') THEN NEW.state ELSE 'reopened' END);
    RETURN NULL;
END
$$;

CREATE TRIGGER runs_outbox AFTER UPDATE OF state ON tailrace.runs
FOR EACH ROW WHEN (
    OLD.state IS DISTINCT FROM NEW.state
    AND (NEW.state IN ('sealed', 'failed')
         OR (OLD.state IN ('sealed', 'failed') AND NEW.state IN ('requested', 'watched')))
)
EXECUTE FUNCTION tailrace.note_run_event();
