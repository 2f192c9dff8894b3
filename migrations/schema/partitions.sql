-- Partitions of segments: one for each day (UTC) on which streams were created.

-- Make the partition of one day if it is missing; returns whether it was made.
--
-- CREATE TABLE ... LIKE and ATTACH take no lock that a writer waits for (CREATE TABLE ... PARTITION OF would). Two
-- at once wait for each other at the advisory lock; the second finds nothing left to do. Runs with the rights of the
-- tables' owner, so that a worker without the right to create tables can call it.
CREATE FUNCTION tailrace.ensure_partition(p_day date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET client_min_messages = warning AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
    name  text := 'segments_' || to_char(p_day, 'YYYYMMDD');
BEGIN
    IF p_day NOT BETWEEN today - 3660 AND today + 366 THEN
        RAISE EXCEPTION 'a partition must be of a day of the last ten years or the coming one, not %', p_day
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    -- Asked of the table: to_regclass would answer from a cache that the advisory lock does not refresh.
    IF EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relname = name) THEN
        RETURN false;
    END IF;
    PERFORM pg_advisory_xact_lock(7246712353001);
    -- Whoever held the lock may have made it meanwhile.
    IF EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'tailrace'::regnamespace AND c.relname = name) THEN
        RETURN false;
    END IF;
    EXECUTE format('CREATE TABLE tailrace.%I (LIKE tailrace.segments INCLUDING ALL)', name);
    EXECUTE format(
        'ALTER TABLE tailrace.segments ATTACH PARTITION tailrace.%I FOR VALUES FROM (%s) TO (%s)', name,
        tailrace.stream_id_at(p_day::timestamp AT TIME ZONE 'UTC'),
        tailrace.stream_id_at((p_day + 1)::timestamp AT TIME ZONE 'UTC')
    );
    RETURN true;
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.ensure_partition(date) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.ensure_partition(date) IS
    'Makes the partition of segments for streams created on this day (UTC), if it is missing. Safe at any time.';


-- Make the daily partitions that are missing around today; returns how many were made.
CREATE FUNCTION tailrace.ensure_partitions(days_ahead int DEFAULT 14, days_back int DEFAULT 1) RETURNS int
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    today date := (clock_timestamp() AT TIME ZONE 'UTC')::date;
BEGIN
    IF days_ahead NOT BETWEEN 0 AND 366 OR days_back NOT BETWEEN 0 AND 3660 THEN
        RAISE EXCEPTION 'days_ahead must be 0 to 366 and days_back 0 to 3660'
            USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN (
        SELECT count(*) FILTER (WHERE tailrace.ensure_partition(day::date))
        FROM generate_series(today - days_back, today + days_ahead, interval '1 day') day
    );
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.ensure_partitions(int, int) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.ensure_partitions(int, int) IS
    'Makes the missing daily partitions of segments around today and returns how many. Safe at any time.';


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


SELECT tailrace.ensure_partitions();
