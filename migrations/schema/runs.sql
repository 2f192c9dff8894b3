-- Runs upstream, each from the moment somebody asked for it.

-- Whether a text is a traceparent of W3C Trace Context, version 00: whose trace and which span of it is not all zeros.
-- The same rule as worker/tailrace/tracecontext.py.
CREATE FUNCTION tailrace.is_traceparent(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp
RETURN p_text ~ '^00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}$';

CREATE TABLE tailrace.runs (
    id              bigint PRIMARY KEY DEFAULT tailrace.next_id(),
    environment_id  int NOT NULL REFERENCES tailrace.environments (id),
    run_id          text NOT NULL,
    state           text NOT NULL DEFAULT 'requested',
    status          text,
    task_identifier text,
    tags            text[] NOT NULL DEFAULT '{}',
    created_at      timestamptz,
    started_at      timestamptz,
    finished_at     timestamptz,
    selection       text[],
    options         json NOT NULL DEFAULT '{}',
    priority        smallint NOT NULL DEFAULT 0,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    terminal_at     timestamptz,
    keys_read_at    timestamptz,
    next_watch_at   timestamptz DEFAULT now(),
    watch_attempt   int NOT NULL DEFAULT 0,
    troubled_at     timestamptz,
    refusals        int NOT NULL DEFAULT 0,
    last_error      text,
    sealed_at       timestamptz,
    then_tasks      text[] NOT NULL DEFAULT '{}',
    pruned_at       timestamptz,
    listed_at       timestamptz,
    late_check_at   timestamptz,
    traceparent     text,
    -- run_id first: queries name the run and seldom the environment.
    CONSTRAINT runs_run_id_environment_id_key UNIQUE (run_id, environment_id),
    CONSTRAINT runs_run_id_check CHECK (run_id <> ''),
    CONSTRAINT runs_state_check CHECK (state IN ('requested', 'watched', 'sealed', 'failed', 'cancelled')),
    CONSTRAINT runs_priority_check CHECK (priority IN (0, 1)),
    CONSTRAINT runs_options_check CHECK (tailrace.options_problem(options) IS NULL),
    CONSTRAINT runs_traceparent_check CHECK (tailrace.is_traceparent(traceparent))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN tailrace.runs.status IS 'Upstream''s status by the API''s name; null: not known yet.';
COMMENT ON COLUMN tailrace.runs.created_at IS 'Upstream''s time, as are started_at and finished_at.';
COMMENT ON COLUMN tailrace.runs.selection IS 'The stream keys that were asked for; null: all of them.';
COMMENT ON COLUMN tailrace.runs.options IS 'Batch limits of this request; see tailrace.options_problem.';
COMMENT ON COLUMN tailrace.runs.priority IS '0 live, 1 backfill: live goes first.';
COMMENT ON COLUMN tailrace.runs.terminal_at IS 'When a terminal status was first seen.';
COMMENT ON COLUMN tailrace.runs.next_watch_at IS
    'When the run is to be looked at: it was asked for, or could not be read. Null: whoever watches knows it and decides.';
COMMENT ON COLUMN tailrace.runs.watch_attempt IS 'How often in a row looking at the run brought nothing.';
COMMENT ON COLUMN tailrace.runs.troubled_at IS
    'When upstream first refused to show the run, since it last showed it; null: it does not refuse.';
COMMENT ON COLUMN tailrace.runs.refusals IS 'How often it refused since then; other failures are not counted.';
COMMENT ON COLUMN tailrace.runs.then_tasks IS
    'Celery tasks (task@queue) to call when the run is sealed, fails or is opened again.';
COMMENT ON COLUMN tailrace.runs.pruned_at IS 'When retention dropped the streams of this run; null: it did not.';
COMMENT ON COLUMN tailrace.runs.listed_at IS
    'When all of the run''s stream keys were last made streams; null: not yet, or only some were asked for.';
COMMENT ON COLUMN tailrace.runs.late_check_at IS
    'When the sealed run is looked at once more; not after sealed_at: that has been done.';
COMMENT ON COLUMN tailrace.runs.traceparent IS
    'The span that asked for the run, by which all that is done for it is one trace; null: nobody traces it.';

-- Runs whose rows say that they are due, and all that are watched. Small whatever the archive holds.
CREATE INDEX runs_watch_idx ON tailrace.runs (environment_id, next_watch_at)
    WHERE state IN ('requested', 'watched') AND next_watch_at IS NOT NULL;
CREATE INDEX runs_open_idx ON tailrace.runs (environment_id) WHERE state IN ('requested', 'watched');
-- The newest runs of an environment.
CREATE INDEX runs_environment_id_idx ON tailrace.runs (environment_id, id);
-- Runs by when they were created upstream, as its own list has them; the ids in the order of their bytes.
CREATE INDEX runs_created_at_idx ON tailrace.runs (environment_id, created_at, run_id COLLATE "C");
-- Runs that failed: few, and looked for by whoever asks how the fleet is.
CREATE INDEX runs_failed_idx ON tailrace.runs (id) WHERE state = 'failed';
-- Runs of a tag.
CREATE INDEX runs_tags_idx ON tailrace.runs USING gin (tags);
-- Sealed runs that are still to be looked at once more.
CREATE INDEX runs_late_check_idx ON tailrace.runs (late_check_at) WHERE state = 'sealed' AND late_check_at > sealed_at;
