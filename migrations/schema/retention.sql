-- Retention. Rows go first, then the partition: what is cut off in between is finished the next time.

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
        DELETE FROM tailrace.mismatches m WHERE m.stream_id >= first_id AND m.stream_id < end_id;
        DELETE FROM tailrace.verified_days v WHERE v.day = p_day;
        RETURN 0;
    END IF;
    DELETE FROM tailrace.holes h WHERE h.stream_id = ANY (ids);
    DELETE FROM tailrace.quarantine q WHERE q.stream_id = ANY (ids);
    DELETE FROM tailrace.mismatches m WHERE m.stream_id = ANY (ids);
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
