-- Who hinted: a hint counts only as long as the process that sent it lives, so that a process which dies with hints on
-- their way keeps nobody from its streams.
ALTER TABLE tailrace.streams ADD COLUMN hinted_by uuid;

COMMENT ON COLUMN tailrace.streams.hinted_until IS
    'Until then nobody else chooses the stream, unless the worker of hinted_by dies before.';

-- How many more streams the fleet may read at once, p_most being the limit. Living leases count and, if p_hints, living
-- hints too.
--
-- It holds a lock until the caller's transaction ends: whoever takes leases or hints under a limit calls this in the
-- same single statement, and so no two take the same place. In autocommit only: nothing may hold it over a round trip.
CREATE FUNCTION tailrace.connections_left(p_most int, p_hints boolean) RETURNS int
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_taken bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7237125, 1);
    -- A new snapshot: what the last holder of the lock did is seen.
    SELECT count(*) INTO v_taken
    FROM tailrace.streams s
    WHERE s.state IN ('pending', 'active', 'parked')
      AND (EXISTS (SELECT FROM tailrace.workers w WHERE w.id = s.worker_id AND w.expires_at > now())
           OR (p_hints AND s.hinted_until > now() AND EXISTS (
               SELECT FROM tailrace.workers w WHERE w.id = s.hinted_by AND w.expires_at > now())));
    RETURN greatest(0, p_most - v_taken);
END
$$;

COMMENT ON FUNCTION tailrace.connections_left(int, boolean) IS
    'How many more streams may be read at once under a fleet-wide limit; locks others out until the statement ends.';
