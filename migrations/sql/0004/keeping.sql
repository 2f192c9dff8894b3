-- Retention and forgetting. Rows go first, then the partition: what is cut off in between is finished the next time.

-- The daily partitions of segments, oldest first.
CREATE FUNCTION tailrace.partition_days() RETURNS TABLE (
    day date, name text, first_id bigint, end_id bigint, detaching boolean
)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT
        d.day, d.name, tailrace.stream_id_at(d.day::timestamp AT TIME ZONE 'UTC'),
        tailrace.stream_id_at((d.day + 1)::timestamp AT TIME ZONE 'UTC'), d.detaching
    FROM (
        SELECT to_date(right(c.relname, 8), 'YYYYMMDD') AS day, c.relname::text AS name,
               coalesce(i.inhdetachpending, false) AS detaching
        FROM pg_catalog.pg_class c
        LEFT JOIN pg_catalog.pg_inherits i ON i.inhrelid = c.oid
        WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relkind = 'r' AND c.relname ~ '^segments_[0-9]{8}$'
    ) d
    ORDER BY d.day;
END;


-- Delete the rows of up to p_limit streams that were found on a day (UTC); returns how many, 0 when none is left. Null,
-- and nothing is deleted, when a stream of that day is still open. Their segments go with the partition (drop_day).
CREATE FUNCTION tailrace.clear_day(p_day date, p_limit int DEFAULT 10000) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    first_id bigint := tailrace.stream_id_at(p_day::timestamp AT TIME ZONE 'UTC');
    end_id   bigint := tailrace.stream_id_at((p_day + 1)::timestamp AT TIME ZONE 'UTC');
    ids      bigint[];
    run_ids  bigint[];
BEGIN
    -- Locked first, looked at then: a stream that is being reopened is either open already or waits for us.
    SELECT array_agg(l.id) INTO ids FROM (
        SELECT s.id FROM tailrace.streams s WHERE s.id >= first_id AND s.id < end_id
        ORDER BY s.id LIMIT p_limit FOR UPDATE
    ) l;
    IF EXISTS (
        SELECT FROM tailrace.streams s
        WHERE s.id >= first_id AND s.id < end_id AND s.state IN ('pending', 'active', 'parked')
    ) THEN
        RETURN NULL;
    END IF;
    IF ids IS NULL THEN
        -- Of streams that no longer exist.
        DELETE FROM tailrace.holes h WHERE h.stream_id >= first_id AND h.stream_id < end_id;
        DELETE FROM tailrace.quarantine q WHERE q.stream_id >= first_id AND q.stream_id < end_id;
        RETURN 0;
    END IF;
    DELETE FROM tailrace.holes h WHERE h.stream_id = ANY (ids);
    DELETE FROM tailrace.quarantine q WHERE q.stream_id = ANY (ids);
    WITH gone AS (DELETE FROM tailrace.streams s WHERE s.id = ANY (ids) RETURNING s.run)
    SELECT array_agg(DISTINCT g.run) INTO run_ids FROM gone g;
    UPDATE tailrace.runs r SET pruned_at = now() WHERE r.id = ANY (run_ids);
    RETURN cardinality(ids);
END
$$;


-- Drop the partition of a day whose streams are gone; true when there was one. Waits at most half a second for its
-- locks, because writers wait behind it. With the rights of the tables' owner: a worker may call it.
CREATE FUNCTION tailrace.drop_day(p_day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' AS $$
DECLARE
    first_id bigint := tailrace.stream_id_at(p_day::timestamp AT TIME ZONE 'UTC');
    end_id   bigint := tailrace.stream_id_at((p_day + 1)::timestamp AT TIME ZONE 'UTC');
    part     record;
BEGIN
    IF p_day >= (clock_timestamp() AT TIME ZONE 'UTC')::date THEN
        RAISE EXCEPTION 'only partitions of past days can be dropped' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF EXISTS (SELECT FROM tailrace.streams s WHERE s.id >= first_id AND s.id < end_id) THEN
        RAISE EXCEPTION 'there are streams of % still', p_day USING ERRCODE = 'object_in_use';
    END IF;
    -- Not the lock of ensure_partitions, which would make writers' upkeep wait.
    IF NOT pg_try_advisory_xact_lock(7246712353003) THEN
        RAISE EXCEPTION 'somebody else is dropping partitions' USING ERRCODE = 'lock_not_available';
    END IF;
    SELECT * INTO part FROM tailrace.partition_days() d WHERE d.day = p_day;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    IF EXISTS (
        SELECT FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'tailrace.segments'::regclass AND c.relname = part.name
    ) THEN
        EXECUTE format('ALTER TABLE tailrace.segments DETACH PARTITION tailrace.%I%s', part.name,
                       CASE WHEN part.detaching THEN ' FINALIZE' ELSE '' END);
    END IF;
    EXECUTE format('DROP TABLE tailrace.%I', part.name);
    RETURN true;
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.drop_day(date) FROM PUBLIC;


-- Delete a run for privacy, wherever it is, and leave a tombstone. Returns the ids of its streams, for the proof that
-- nothing is left (traces_of), and the files of exports that hold it. A run that was never archived gets its tombstone
-- too. Whoever writes one of its streams is fenced off: its row is gone.
CREATE FUNCTION tailrace.forget_run(p_environment text, p_run_id text)
RETURNS TABLE (archived boolean, stream_ids bigint[], exports text[])
LANGUAGE plpgsql AS $$
DECLARE
    v_environment int;
    v_run         bigint;
BEGIN
    SELECT e.id INTO v_environment FROM tailrace.environments e WHERE e.name = p_environment;
    IF v_environment IS NULL THEN
        RAISE EXCEPTION 'forget_run: there is no environment "%"', p_environment USING ERRCODE = 'no_data_found';
    END IF;
    -- The run first, as everybody does: then no stream can be added.
    SELECT r.id INTO v_run FROM tailrace.runs r
    WHERE r.run_id = p_run_id AND r.environment_id = v_environment FOR UPDATE;
    archived := v_run IS NOT NULL;
    SELECT coalesce(array_agg(l.id), '{}') INTO stream_ids FROM (
        SELECT s.id FROM tailrace.streams s WHERE s.run = v_run ORDER BY s.id FOR UPDATE
    ) l;
    SELECT coalesce(array_agg(DISTINCT x.path), '{}') INTO exports FROM tailrace.exported x WHERE x.run = v_run;

    DELETE FROM tailrace.segments g WHERE g.stream_id = ANY (stream_ids);
    DELETE FROM tailrace.holes h WHERE h.stream_id = ANY (stream_ids);
    DELETE FROM tailrace.quarantine q WHERE q.stream_id = ANY (stream_ids);
    DELETE FROM tailrace.exported x WHERE x.run = v_run;
    DELETE FROM tailrace.streams s WHERE s.id = ANY (stream_ids);  -- facts and search with it
    DELETE FROM tailrace.runs r WHERE r.id = v_run;
    INSERT INTO tailrace.forgotten AS f (environment_id, run_hash, exports)
    VALUES (v_environment, tailrace.run_hash(p_run_id), forget_run.exports)
    ON CONFLICT (environment_id, run_hash) DO UPDATE SET
        exports = ARRAY(SELECT DISTINCT p FROM unnest(f.exports || excluded.exports) p ORDER BY p);
    SELECT f.exports INTO exports FROM tailrace.forgotten f
    WHERE f.environment_id = v_environment AND f.run_hash = tailrace.run_hash(p_run_id);
    RETURN NEXT;
END
$$;


-- What is left of a run and its streams: one row for each table that still has something; none is the proof.
CREATE FUNCTION tailrace.traces_of(p_environment text, p_run_id text, p_stream_ids bigint[])
RETURNS TABLE (place text, rows_left bigint)
LANGUAGE sql STABLE
BEGIN ATOMIC
    SELECT t.place, t.rows_left FROM (
        SELECT 'runs' AS place, count(*) AS rows_left FROM tailrace.runs r
        JOIN tailrace.environments e ON e.id = r.environment_id
        WHERE r.run_id = p_run_id AND e.name = p_environment
        UNION ALL SELECT 'streams', count(*) FROM tailrace.streams s WHERE s.id = ANY (p_stream_ids)
        UNION ALL SELECT 'segments', count(*) FROM tailrace.segments g WHERE g.stream_id = ANY (p_stream_ids)
        UNION ALL SELECT 'holes', count(*) FROM tailrace.holes h WHERE h.stream_id = ANY (p_stream_ids)
        UNION ALL SELECT 'quarantine', count(*) FROM tailrace.quarantine q WHERE q.stream_id = ANY (p_stream_ids)
        UNION ALL SELECT 'facts', count(*) FROM tailrace.facts f WHERE f.stream_id = ANY (p_stream_ids)
        UNION ALL SELECT 'search', count(*) FROM tailrace.search x WHERE x.stream_id = ANY (p_stream_ids)
        UNION ALL SELECT 'exported', count(*) FROM tailrace.exported x WHERE x.stream_id = ANY (p_stream_ids)
    ) t WHERE t.rows_left > 0;
END;


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
        last_error = NULL
    WHERE b.id = p_backfill;
    RETURN v_new;
END
$$;
