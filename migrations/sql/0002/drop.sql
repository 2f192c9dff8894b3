-- Back to 0001.
DROP FUNCTION tailrace.retry_run(text, text), tailrace.cancel_run(text, text);
DROP FUNCTION tailrace.request_ingest(text, text[], text, int, text, json);
DROP TRIGGER runs_outbox ON tailrace.runs;
DROP FUNCTION tailrace.note_run_event();
DROP TABLE tailrace.outbox;
ALTER TABLE tailrace.runs DROP COLUMN then_tasks;
DROP FUNCTION tailrace.connections_left(int, boolean);
ALTER TABLE tailrace.streams DROP COLUMN hinted_by;
COMMENT ON COLUMN tailrace.streams.hinted_until IS NULL;

CREATE FUNCTION tailrace.request_ingest(
    p_run_id text,
    p_streams text[] DEFAULT NULL,
    p_environment text DEFAULT 'default',
    p_priority int DEFAULT 0
) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    v_environment int;
    v_run         bigint;
BEGIN
    IF coalesce(p_run_id, '') = '' THEN
        RAISE EXCEPTION 'request_ingest: p_run_id is empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF cardinality(p_streams) = 0 OR array_position(p_streams, NULL) IS NOT NULL THEN
        RAISE EXCEPTION 'request_ingest: p_streams names no stream' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'NULL asks for every stream of the run.';
    END IF;
    SELECT e.id INTO v_environment FROM tailrace.environments e WHERE e.name = p_environment;
    IF v_environment IS NULL THEN
        RAISE EXCEPTION 'request_ingest: there is no environment "%"', p_environment
            USING ERRCODE = 'no_data_found', HINT = 'Environments are rows of tailrace.environments.';
    END IF;

    INSERT INTO tailrace.runs AS r (environment_id, run_id, selection, priority)
    VALUES (
        v_environment, p_run_id,
        (SELECT array_agg(DISTINCT k ORDER BY k) FROM unnest(p_streams) k),
        coalesce(p_priority, 0)
    )
    ON CONFLICT (run_id, environment_id) DO UPDATE SET
        selection = CASE WHEN r.selection IS NOT NULL AND EXCLUDED.selection IS NOT NULL THEN (
            SELECT array_agg(DISTINCT k ORDER BY k) FROM unnest(r.selection || EXCLUDED.selection) k
        ) END,
        priority = least(r.priority, EXCLUDED.priority),
        state = CASE r.state
            WHEN 'sealed' THEN 'watched'
            WHEN 'failed' THEN 'requested'
            WHEN 'cancelled' THEN 'requested'
            ELSE r.state
        END,
        -- For a run that upstream does not know, the time to give up counts from here.
        requested_at = CASE WHEN r.state IN ('requested', 'watched') THEN r.requested_at ELSE now() END,
        last_error = CASE WHEN r.state IN ('requested', 'watched') THEN r.last_error END,
        sealed_at = NULL,
        next_watch_at = now(),
        watch_attempt = 0
    RETURNING r.id INTO v_run;

    UPDATE tailrace.streams s
    SET state = 'active', verdict = 'open', attempt = 0, next_attempt_at = now(), last_error = NULL, sealed_at = NULL
    WHERE s.run = v_run AND s.state IN ('failed', 'cancelled')
      AND (p_streams IS NULL OR s.stream_key = ANY (p_streams));

    RETURN v_run;
END
$$;

COMMENT ON FUNCTION tailrace.request_ingest(text, text[], text, int) IS
    'Asks for a run (p_streams null: all its streams) to be archived; takes effect when the transaction commits. '
    'Asking again is harmless: it widens the selection and revives what had failed. p_priority: 0 live, 1 backfill.';
