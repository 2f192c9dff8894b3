-- Asking for runs, and stopping and retrying them.

-- Ask for a run to be archived. A row is all it takes, in the caller's own transaction: a worker finds it within
-- seconds after the commit. Returns runs.id.
--
-- Asking again never narrows: the selection widens (all wins), live wins over backfill, and a run that had failed,
-- was cancelled or is sealed is looked at again, the failed and cancelled streams that are asked for included. Of a
-- sealed run, the sealed streams that are asked for are read again too, and it gets another late check once it is sealed
-- anew; a backfill (p_priority 1) leaves both as they are, for it may come by again and again.
--
-- p_then: a Celery task (task@queue) to call when the run is settled. p_options: batch limits (options_problem).
-- What can't be meant is refused as in worker/tailrace/arguments.py. p_traceparent: the caller's trace (W3C Trace
-- Context); what is none is ignored, for no trace is worth a request. A run that is open stays in the trace it is in.
--
-- This and cancel_run have their owner's rights (SECURITY DEFINER): who may call them needs no right to any table.
CREATE FUNCTION tailrace.request_ingest(
    p_run_id text,
    p_streams text[] DEFAULT NULL,
    p_environment text DEFAULT 'default',
    p_priority int DEFAULT 0,
    p_then text DEFAULT NULL,
    p_options json DEFAULT NULL,
    p_traceparent text DEFAULT NULL
) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_environment int;
    v_run         bigint;
    v_sealed      boolean;
    v_problem     text;
    v_traceparent text := CASE WHEN tailrace.is_traceparent(p_traceparent) THEN p_traceparent END;
BEGIN
    IF coalesce(p_run_id, '') = '' THEN
        RAISE EXCEPTION 'request_ingest: p_run_id is empty' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF octet_length(p_run_id) > 1000 THEN
        RAISE EXCEPTION 'request_ingest: p_run_id is too long' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'A run id has up to 1,000 bytes.';
    END IF;
    IF cardinality(p_streams) NOT BETWEEN 1 AND 10000
        OR EXISTS (SELECT FROM unnest(p_streams) k WHERE coalesce(octet_length(k), 0) NOT BETWEEN 1 AND 1000)
    THEN
        RAISE EXCEPTION 'request_ingest: p_streams names no stream, or too many' USING
            ERRCODE = 'invalid_parameter_value',
            HINT = '1 to 10,000 stream keys of 1 to 1,000 bytes. NULL asks for every stream of the run.';
    END IF;
    IF p_then !~ '^[^\s[:cntrl:]@]+(@[^\s[:cntrl:]]+)?$' OR length(p_then) > 500 THEN
        RAISE EXCEPTION 'request_ingest: p_then is no name of a Celery task' USING ERRCODE = 'invalid_parameter_value',
            HINT = 'For example app.tasks.archived, or app.tasks.archived@queue unless its queue is celery.';
    END IF;
    v_problem := tailrace.options_problem(p_options);
    IF v_problem IS NOT NULL THEN
        RAISE EXCEPTION 'request_ingest: %', v_problem USING ERRCODE = 'invalid_parameter_value',
            HINT = 'Options are batch_max_chunks, batch_max_bytes and batch_max_age_ms, '
                   'each in the range of the setting of this name.';
    END IF;
    SELECT e.id INTO v_environment FROM tailrace.environments e WHERE e.name = p_environment;
    IF v_environment IS NULL THEN
        RAISE EXCEPTION 'request_ingest: there is no environment "%"', p_environment
            USING ERRCODE = 'no_data_found', HINT = 'Environments are rows of tailrace.environments.';
    END IF;

    -- Locked before it is changed: of two who ask at once, the second finds it open, and changes nothing.
    SELECT r.state = 'sealed' AND coalesce(p_priority, 0) = 0 INTO v_sealed
    FROM tailrace.runs r WHERE r.run_id = p_run_id AND r.environment_id = v_environment
    FOR NO KEY UPDATE;

    INSERT INTO tailrace.runs AS r (environment_id, run_id, selection, priority, then_tasks, options, traceparent)
    VALUES (
        v_environment, p_run_id,
        (SELECT array_agg(DISTINCT k ORDER BY k) FROM unnest(p_streams) k),
        coalesce(p_priority, 0),
        CASE WHEN p_then IS NULL THEN '{}' ELSE ARRAY[p_then] END,
        coalesce(p_options, '{}'),
        v_traceparent
    )
    ON CONFLICT (run_id, environment_id) DO UPDATE SET
        selection = CASE WHEN r.selection IS NOT NULL AND EXCLUDED.selection IS NOT NULL THEN (
            SELECT array_agg(DISTINCT k ORDER BY k) FROM unnest(r.selection || EXCLUDED.selection) k
        ) END,
        priority = least(r.priority, EXCLUDED.priority),
        then_tasks = CASE WHEN p_then IS NULL OR p_then = ANY (r.then_tasks) THEN r.then_tasks
                          ELSE r.then_tasks || p_then END,
        options = CASE WHEN p_options IS NULL THEN r.options ELSE p_options END,
        state = CASE r.state
            WHEN 'sealed' THEN 'watched'
            WHEN 'failed' THEN 'requested'
            WHEN 'cancelled' THEN 'requested'
            ELSE r.state
        END,
        -- For a run that upstream does not know, the time to give up counts from here.
        requested_at = CASE WHEN r.state IN ('requested', 'watched') THEN r.requested_at ELSE now() END,
        last_error = CASE WHEN r.state IN ('requested', 'watched') THEN r.last_error END,
        traceparent = CASE WHEN r.state IN ('requested', 'watched') THEN coalesce(r.traceparent, v_traceparent)
                           ELSE v_traceparent END,
        sealed_at = NULL,
        next_watch_at = now(),
        watch_attempt = 0,
        troubled_at = CASE WHEN r.state IN ('requested', 'watched') THEN r.troubled_at END,
        refusals = CASE WHEN r.state IN ('requested', 'watched') THEN r.refusals ELSE 0 END,
        keys_read_at = CASE WHEN v_sealed THEN NULL ELSE r.keys_read_at END,
        late_check_at = CASE WHEN v_sealed THEN NULL ELSE r.late_check_at END
    RETURNING r.id INTO v_run;

    UPDATE tailrace.streams s
    SET state = 'active', verdict = 'open', attempt = 0, next_attempt_at = now(), last_error = NULL, sealed_at = NULL
    WHERE s.run = v_run AND (s.state IN ('failed', 'cancelled') OR (v_sealed AND s.state = 'sealed'))
      AND (p_streams IS NULL OR s.stream_key = ANY (p_streams));

    RETURN v_run;
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.request_ingest(text, text[], text, int, text, json, text) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.request_ingest(text, text[], text, int, text, json, text) IS
    'Asks for a run (p_streams null: all its streams) to be archived; takes effect when the transaction commits. '
    'Asking again is harmless: it widens the selection, revives what had failed and has a sealed run read again. '
    'p_priority: 0 live, 1 backfill, which leaves what is sealed as it is. '
    'p_then: a Celery task (task@queue) to call when the run is settled. p_options: batch limits for this run. '
    'p_traceparent: the caller''s trace, as W3C Trace Context writes it.';


-- Stop a run: its readers leave within seconds, and whatever they have not committed is dropped, because the fence
-- (token) has moved on. What is stored stays. Returns how many streams were stopped; null: there is no such run.
CREATE FUNCTION tailrace.cancel_run(p_run_id text, p_environment text DEFAULT 'default') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_run     bigint;
    v_stopped int;
BEGIN
    SELECT r.id INTO v_run
    FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
    WHERE r.run_id = p_run_id AND e.name = p_environment;
    IF v_run IS NULL THEN
        RETURN NULL;
    END IF;
    -- The run first: from here nobody adds streams to it.
    UPDATE tailrace.runs r SET state = 'cancelled' WHERE r.id = v_run AND r.state IN ('requested', 'watched');
    UPDATE tailrace.streams s
    SET state = 'cancelled', worker_id = NULL, token = s.token + 1, rev = s.rev + 1, hinted_until = NULL
    WHERE s.run = v_run AND s.state IN ('pending', 'active', 'parked');
    GET DIAGNOSTICS v_stopped = ROW_COUNT;
    RETURN v_stopped;
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.cancel_run(text, text) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.cancel_run(text, text) IS
    'Stops the ingestion of a run; what is stored stays. Returns the number of streams stopped; null: no such run.';


-- Take what failed or was cancelled of a run up again, from its checkpoints; what was asked for stays as it was.
-- Returns how many streams are read again; null: there is no such run.
CREATE FUNCTION tailrace.retry_run(p_run_id text, p_environment text DEFAULT 'default') RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    v_run     bigint;
    v_revived int;
BEGIN
    SELECT r.id INTO v_run
    FROM tailrace.runs r JOIN tailrace.environments e ON e.id = r.environment_id
    WHERE r.run_id = p_run_id AND e.name = p_environment;
    IF v_run IS NULL THEN
        RETURN NULL;
    END IF;
    UPDATE tailrace.streams s
    SET state = 'active', verdict = 'open', attempt = 0, next_attempt_at = now(), last_error = NULL, sealed_at = NULL
    WHERE s.run = v_run AND s.state IN ('failed', 'cancelled');
    GET DIAGNOSTICS v_revived = ROW_COUNT;
    UPDATE tailrace.runs r
    SET state = CASE WHEN r.state = 'sealed' THEN 'watched' ELSE 'requested' END,
        requested_at = now(), last_error = NULL, sealed_at = NULL, next_watch_at = now(), watch_attempt = 0,
        troubled_at = NULL, refusals = 0,
        late_check_at = CASE WHEN r.state = 'sealed' THEN NULL ELSE r.late_check_at END
    WHERE r.id = v_run AND (r.state IN ('failed', 'cancelled') OR (r.state = 'sealed' AND v_revived > 0));
    RETURN v_revived;
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.retry_run(text, text) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.retry_run(text, text) IS
    'Takes failed and cancelled streams of a run up again. Returns their number; null: no such run.';
