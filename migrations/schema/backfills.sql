-- Runs found in upstream's list, by backfills and discovery.

-- Walks through upstream's list of runs. One that was killed goes on from its cursor.
CREATE TABLE tailrace.backfills (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    filters        json NOT NULL,
    since          timestamptz NOT NULL,
    until          timestamptz NOT NULL,
    state          text NOT NULL DEFAULT 'running',
    cursor         text,
    pages          bigint NOT NULL DEFAULT 0,
    seen           bigint NOT NULL DEFAULT 0,
    requested      bigint NOT NULL DEFAULT 0,
    token          bigint NOT NULL DEFAULT 0,
    leased_until   timestamptz,
    next_page_at   timestamptz NOT NULL DEFAULT now(),
    attempt        int NOT NULL DEFAULT 0,
    troubled_at    timestamptz,
    refusals       int NOT NULL DEFAULT 0,
    last_error     text,
    started_at     timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz,
    CONSTRAINT backfills_state_check CHECK (state IN ('running', 'done', 'failed', 'cancelled'))
);

CREATE INDEX backfills_next_page_idx ON tailrace.backfills (next_page_at) WHERE state = 'running';

COMMENT ON COLUMN tailrace.backfills.cursor IS 'Upstream''s cursor of the next page; null: the first page.';
COMMENT ON COLUMN tailrace.backfills.troubled_at IS
    'When upstream first refused to list, since it last did; null: it does not refuse.';
COMMENT ON COLUMN tailrace.backfills.refusals IS 'How often it refused since then.';
COMMENT ON COLUMN tailrace.backfills.token IS 'Grows with every takeover; progress with another token is not noted.';


-- How far new runs of an environment have been found (TAILRACE_DISCOVER).
CREATE TABLE tailrace.discoveries (
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    rule           text NOT NULL,
    covered_to     timestamptz NOT NULL,
    next_look_at   timestamptz NOT NULL DEFAULT now(),
    next_scan_at   timestamptz NOT NULL DEFAULT now(),
    found          bigint NOT NULL DEFAULT 0,
    last_error     text,
    CONSTRAINT discoveries_pkey PRIMARY KEY (environment_id, rule)
);

COMMENT ON COLUMN tailrace.discoveries.covered_to IS
    'Runs created before this have been listed, late entries included.';


-- Ask for many runs that a list of upstream's named; those that are archived already, or forgotten, are left alone.
-- Returns the run ids that are new. p_runs: a JSON array of {run_id, status, task_identifier, tags, created_at,
-- started_at, finished_at}.
CREATE FUNCTION tailrace.request_listed(p_environment text, p_runs json, p_priority int DEFAULT 1)
RETURNS SETOF text
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    INSERT INTO tailrace.runs (
        environment_id, run_id, priority, status, task_identifier, tags, created_at, started_at, finished_at
    )
    SELECT DISTINCT ON (l.run_id)
        e.id, l.run_id, p_priority, l.status, l.task_identifier,
        CASE WHEN json_typeof(l.tags) = 'array' THEN ARRAY(SELECT json_array_elements_text(l.tags)) ELSE '{}' END,
        l.created_at, l.started_at, l.finished_at
    FROM json_to_recordset(p_runs) AS l (
        run_id text, status text, task_identifier text, tags json, created_at timestamptz, started_at timestamptz,
        finished_at timestamptz
    )
    JOIN tailrace.environments e ON e.name = p_environment
    WHERE NOT EXISTS (
        SELECT FROM tailrace.forgotten f
        WHERE f.environment_id = e.id AND f.run_hash = tailrace.run_hash(l.run_id)
    ) AND NOT EXISTS (
        SELECT FROM tailrace.runs r WHERE r.run_id = l.run_id AND r.environment_id = e.id
    )
    ORDER BY l.run_id
    ON CONFLICT (run_id, environment_id) DO NOTHING
    RETURNING runs.run_id;
END;

COMMENT ON FUNCTION tailrace.request_listed(text, json, int) IS
    'Asks for those of the listed runs that are neither archived nor forgotten; returns their ids.';


-- Note a page of a backfill: ask for what is new on it and move the cursor, both or neither. Returns how many runs are
-- new; null, and nothing happens, when the backfill has another owner by now. p_next null: it was the last page.
CREATE FUNCTION tailrace.note_backfill_page(
    p_backfill bigint, p_token bigint, p_runs json, p_next text, p_wait_s double precision
) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    v_environment text;
    v_new         int;
BEGIN
    SELECT e.name INTO v_environment
    FROM tailrace.backfills b JOIN tailrace.environments e ON e.id = b.environment_id
    WHERE b.id = p_backfill AND b.token = p_token AND b.state = 'running'
    FOR NO KEY UPDATE OF b;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT count(*) INTO v_new FROM tailrace.request_listed(v_environment, p_runs, 1);
    UPDATE tailrace.backfills b SET
        cursor = p_next,
        pages = b.pages + 1,
        seen = b.seen + json_array_length(p_runs),
        requested = b.requested + v_new,
        state = CASE WHEN p_next IS NULL THEN 'done' ELSE b.state END,
        finished_at = CASE WHEN p_next IS NULL THEN now() END,
        leased_until = NULL,
        next_page_at = now() + p_wait_s * interval '1 second',
        attempt = 0,
        troubled_at = NULL,
        refusals = 0,
        last_error = NULL
    WHERE b.id = p_backfill;
    RETURN v_new;
END
$$;
