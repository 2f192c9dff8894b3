-- Verdicts in words: why one is what it is, and what would have made it `complete`. The words stand here and nowhere else.

-- Why nobody can say that all of a stream is there; worker/tailrace/model.py (Doubt) has the names, a test keeps both
-- alike. Null without a doubt.
CREATE FUNCTION tailrace.doubt_reason(p_doubt text, p_error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE p_doubt
    WHEN 'old' THEN
        'Upstream forgets a v1 stream a day after its last writer, and this one can have been that old when it was first '
        'read. Complete, had it been read within 23 hours of the creation of its run, or its run been watched before the '
        'stream was begun.'
    WHEN 'undated' THEN
        'Upstream''s answers came without a Date, so nobody knows how old the v1 stream was when it was first read. '
        'Complete, had nothing on the way dropped that header.'
    WHEN 'backlog' THEN
        'Upstream keeps about the last 1000 entries of a v1 stream and does not say what it dropped; about as many were '
        'waiting to be read. Complete, had it been read before 900 were waiting: earlier, without a pause, or '
        'written more slowly.'
    WHEN 'not_there' THEN
        'Upstream had dropped the newest line that is held when the v1 stream was read on, and what came next does not '
        'tell whether more went with it. Complete, had that line been there at every reconnect.'
    WHEN 'unconfirmed' THEN
        'The last sweeps did not bring back the newest chunk that is held: upstream had forgotten the stream, or begun '
        'it anew. Complete, had upstream still shown that chunk after the end of the run.'
    WHEN 'unserved' THEN
        'Upstream stopped serving the stream after a part of it had been read'
        || coalesce(' (' || p_error || ')', '')
        || '. Complete, had it been served until two sweeps after the end of its run brought nothing.'
END;

-- Null where there is nothing to explain: of `complete`.
CREATE FUNCTION tailrace.verdict_reason(
    p_state text, p_verdict text, p_doubt text, p_losses bigint, p_error text
) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_verdict = 'possibly_truncated' THEN coalesce(
        tailrace.doubt_reason(p_doubt, p_error),
        'Something may be missing that nothing tells of; why was not noted. Complete, had it been read to its end in time.')
    WHEN p_verdict = 'complete_with_gaps' THEN
        CASE WHEN p_losses > 0
            THEN 'Upstream dropped or left out what view gaps names (' || p_losses
                 || CASE p_losses WHEN 1 THEN ' gap' ELSE ' gaps' END || '). Complete, had that been read while upstream had it.'
            ELSE 'An event was larger than TAILRACE_EVENT_MAX_BYTES: view quarantined has its beginning. Complete, had '
                 'the limit been higher.'
        END || coalesce(' Besides: ' || tailrace.doubt_reason(p_doubt, p_error), '')
    WHEN p_verdict = 'failed' THEN
        'Upstream does not serve the stream, or what it serves makes no sense' || coalesce(' (' || p_error || ')', '')
        || '. Complete, were it served: then ask for the run again.'
    WHEN p_state = 'failed' THEN
        'It could not be read again' || coalesce(' (' || p_error || ')', '') || '. What was archived before is there.'
    WHEN p_verdict = 'complete' THEN NULL
    WHEN p_state = 'cancelled' THEN 'Its ingestion was cancelled. Complete, were the run asked for again and read to its end.'
    ELSE
        CASE p_state
            WHEN 'pending' THEN 'It waits to be read'
            WHEN 'parked' THEN 'It is looked at now and then, since nothing comes or it can''t be read'
            ELSE 'It is being read'
        END || coalesce(' (' || p_error || ')', '')
        || '. Complete once its run is over and two sweeps a quiet time apart bring nothing new.'
END;

-- Of a run: where it is not a stream's.
CREATE FUNCTION tailrace.run_reason(p_verdict text, p_state text, p_error text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN p_verdict = 'complete' THEN NULL
    WHEN p_verdict = 'pruned' THEN 'Retention dropped what was archived of it.'
    WHEN p_verdict = 'gone' THEN
        'Upstream listed the run and no longer serves it. Complete, had it been asked for while upstream had it.'
    WHEN p_verdict = 'failed' THEN
        'The run could not be read' || coalesce(' (' || p_error || ')', '')
        || '. Complete, were it served: then ask for it again.'
    WHEN p_verdict = 'complete_with_gaps' THEN 'Upstream dropped or left out what view gaps names.'
    WHEN p_state = 'cancelled' THEN
        'Its ingestion was cancelled. Complete, were it asked for again and read to its end.'
    ELSE
        CASE p_state
            WHEN 'requested' THEN 'Nothing has been heard of the run yet'
            ELSE 'The run goes on, or it has not been looked at for the last time'
        END || coalesce(' (' || p_error || ')', '')
        || '. Complete once it is over and two sweeps of each stream bring nothing new.'
END;

COMMENT ON FUNCTION tailrace.run_reason(text, text, text) IS
    'Why a run''s verdict is what it is where none of its streams says so, in words; null for complete.';
COMMENT ON FUNCTION tailrace.doubt_reason(text, text) IS 'Why nobody can say that all of a stream is there, in words.';
COMMENT ON FUNCTION tailrace.verdict_reason(text, text, text, bigint, text) IS
    'Why a stream''s verdict is what it is, and what would have made it complete, in words; null for complete.';
