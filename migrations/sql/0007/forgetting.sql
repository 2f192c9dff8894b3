-- A run that is asked for while it is being forgotten does not slip through: the tombstone is looked for after the row is
-- in, when whoever was forgetting it has committed. Before the row was in, it could still be invisible.
DROP TRIGGER runs_forgotten ON tailrace.runs;

CREATE TRIGGER runs_forgotten AFTER INSERT ON tailrace.runs
FOR EACH ROW EXECUTE FUNCTION tailrace.check_not_forgotten();

-- As before, and it meets requests that are on their way.
CREATE OR REPLACE FUNCTION tailrace.forget_run(p_environment text, p_run_id text)
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
