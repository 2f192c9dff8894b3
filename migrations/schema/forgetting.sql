-- Forgetting: runs that are deleted for privacy do not come back. Only a hash of each is left.

CREATE TABLE tailrace.forgotten (
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    run_hash       bytea NOT NULL,
    forgotten_at   timestamptz NOT NULL DEFAULT now(),
    exports        text[] NOT NULL DEFAULT '{}',
    CONSTRAINT forgotten_pkey PRIMARY KEY (environment_id, run_hash)
);

COMMENT ON COLUMN tailrace.forgotten.exports IS 'Files of exports that held the run when it was forgotten.';


-- What stands in `forgotten` for a run.
CREATE FUNCTION tailrace.run_hash(p_run_id text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN sha256(convert_to(p_run_id, 'UTF8'));

-- A forgotten run does not come back, whoever asks for it: not by a late message, backfill or discovery.
CREATE FUNCTION tailrace.check_not_forgotten() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM tailrace.forgotten f
        WHERE f.environment_id = NEW.environment_id AND f.run_hash = tailrace.run_hash(NEW.run_id)
    ) THEN
        RAISE EXCEPTION 'this run was forgotten and is not archived again'
            USING ERRCODE = 'check_violation', SCHEMA = 'tailrace', TABLE = 'runs', CONSTRAINT = 'runs_forgotten',
                  HINT = 'tailrace forget --allow-again lifts it.';
    END IF;
    RETURN NEW;
END
$$;

-- The tombstone is looked for after the row is in, when whoever was forgetting the run has committed: a run that is
-- asked for meanwhile does not slip through. Before the row was in, the tombstone could still be invisible.
CREATE TRIGGER runs_forgotten AFTER INSERT ON tailrace.runs
FOR EACH ROW EXECUTE FUNCTION tailrace.check_not_forgotten();


-- Delete a run for privacy, wherever it is, and leave a tombstone. Returns the ids of its streams, for the proof that
-- nothing is left (traces_of), and the files of exports that hold it. A run that was never archived gets its tombstone
-- too. Whoever writes one of its streams is fenced off: its row is gone.
CREATE FUNCTION tailrace.forget_run(p_environment text, p_run_id text)
RETURNS TABLE (archived boolean, stream_ids bigint[], exports text[])
LANGUAGE plpgsql AS $$
DECLARE
    v_environment int;
    v_run         bigint;
    v_mine        bigint;
BEGIN
    SELECT e.id INTO v_environment FROM tailrace.environments e WHERE e.name = p_environment;
    IF v_environment IS NULL THEN
        RAISE EXCEPTION 'forget_run: there is no environment "%"', p_environment USING ERRCODE = 'no_data_found';
    END IF;
    -- A request for it that is not committed yet is waited for, at the unique index; one that comes now waits there for
    -- us, and then finds the tombstone.
    BEGIN
        INSERT INTO tailrace.runs (environment_id, run_id, state) VALUES (v_environment, p_run_id, 'cancelled')
        ON CONFLICT DO NOTHING RETURNING id INTO v_mine;
    EXCEPTION WHEN check_violation THEN
        NULL;  -- it has its tombstone already
    END;
    -- The run first, as everybody does: then no stream can be added.
    SELECT r.id INTO v_run FROM tailrace.runs r
    WHERE r.run_id = p_run_id AND r.environment_id = v_environment FOR UPDATE;
    archived := v_run IS NOT NULL AND v_run IS DISTINCT FROM v_mine;
    SELECT coalesce(array_agg(l.id), '{}') INTO stream_ids FROM (
        SELECT s.id FROM tailrace.streams s WHERE s.run = v_run ORDER BY s.id FOR UPDATE
    ) l;
    SELECT coalesce(array_agg(DISTINCT x.path), '{}') INTO exports FROM tailrace.exported x WHERE x.run = v_run;

    DELETE FROM tailrace.segments g WHERE g.stream_id = ANY (stream_ids);
    DELETE FROM tailrace.holes h WHERE h.stream_id = ANY (stream_ids);
    DELETE FROM tailrace.quarantine q WHERE q.stream_id = ANY (stream_ids);
    DELETE FROM tailrace.mismatches m WHERE m.stream_id = ANY (stream_ids);
    DELETE FROM tailrace.exported x WHERE x.run = v_run;
    DELETE FROM tailrace.audit a WHERE a.run_id = p_run_id AND a.environment_id = v_environment;
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
        UNION ALL SELECT 'mismatches', count(*) FROM tailrace.mismatches m WHERE m.stream_id = ANY (p_stream_ids)
        UNION ALL SELECT 'audit', count(*) FROM tailrace.audit a
        JOIN tailrace.environments e ON e.id = a.environment_id
        WHERE a.run_id = p_run_id AND e.name = p_environment
        UNION ALL SELECT 'exported', count(*) FROM tailrace.exported x WHERE x.stream_id = ANY (p_stream_ids)
    ) t WHERE t.rows_left > 0;
END;
