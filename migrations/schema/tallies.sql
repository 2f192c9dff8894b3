-- Tallies: how much the archive holds of each day, counted now and then, so that nobody has to count all of it.

-- Of the streams that were created on one day (UTC) and are closed. Open ones are counted when somebody asks: they are
-- few, whatever the archive holds.
CREATE TABLE tailrace.tallies (
    day            date NOT NULL,
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    state          text NOT NULL,
    verdict        text NOT NULL,
    streams        bigint NOT NULL,
    chunks         bigint NOT NULL,
    bytes          bigint NOT NULL,
    losses         bigint NOT NULL,
    quarantined    bigint NOT NULL,
    CONSTRAINT tallies_pkey PRIMARY KEY (day, environment_id, state, verdict)
);

-- When each day was last counted, and how many of its streams were still open then.
CREATE TABLE tailrace.tallied (
    day         date NOT NULL,
    taken_at    timestamptz NOT NULL DEFAULT '-infinity',
    open        bigint NOT NULL DEFAULT 0,
    CONSTRAINT tallied_pkey PRIMARY KEY (day)
);


-- Count the day that is most due, if one is; returns it, or null. Days still being written, today and yesterday, are
-- counted every p_fresh_s seconds; those with open streams every hour; all others once a day, because streams of theirs
-- are opened again and forgotten. Whoever comes while another counts a day takes the next. It gives up on somebody's lock:
-- workers pause by how long a count took, and would take the wait for one.
CREATE FUNCTION tailrace.tally(p_fresh_s double precision) RETURNS date
LANGUAGE plpgsql VOLATILE SET search_path = pg_catalog, pg_temp SET lock_timeout = '2s' AS $$
DECLARE
    v_today date := (now() AT TIME ZONE 'UTC')::date;
    v_day   date;
BEGIN
    -- Only what is missing: a row that another is about to add would be waited for.
    INSERT INTO tailrace.tallied (day) SELECT p.day FROM tailrace.partition_days() p
    WHERE p.day <= v_today AND NOT EXISTS (SELECT FROM tailrace.tallied t WHERE t.day = p.day)
    ON CONFLICT DO NOTHING;
    SELECT t.day INTO v_day FROM tailrace.tallied t
    WHERE t.taken_at < now() - CASE
        WHEN t.day >= v_today - 1 THEN p_fresh_s * interval '1 second'
        WHEN t.open > 0 THEN interval '1 hour'
        ELSE interval '1 day' END
    ORDER BY t.day >= v_today - 1 DESC, t.taken_at, t.day
    LIMIT 1 FOR UPDATE SKIP LOCKED;
    IF v_day IS NULL THEN
        RETURN NULL;
    END IF;
    DELETE FROM tailrace.tallies t WHERE t.day = v_day;
    IF NOT EXISTS (SELECT FROM tailrace.partition_days() p WHERE p.day = v_day) THEN
        DELETE FROM tailrace.tallied t WHERE t.day = v_day; -- retention dropped it
        RETURN v_day;
    END IF;
    WITH counted AS (
        SELECT r.environment_id, s.state, s.verdict, count(*) AS streams, sum(s.chunk_count) AS chunks,
               sum(s.byte_count) AS bytes, sum(s.lost_count) AS losses, sum(s.quarantine_count) AS quarantined
        FROM tailrace.streams s JOIN tailrace.runs r ON r.id = s.run
        WHERE s.id >= tailrace.stream_id_at(v_day::timestamp AT TIME ZONE 'UTC')
          AND s.id < tailrace.stream_id_at((v_day + 1)::timestamp AT TIME ZONE 'UTC')
        GROUP BY 1, 2, 3
    ), kept AS (
        INSERT INTO tailrace.tallies (day, environment_id, state, verdict, streams, chunks, bytes, losses, quarantined)
        SELECT v_day, c.* FROM counted c WHERE c.state NOT IN ('pending', 'active', 'parked')
    )
    UPDATE tailrace.tallied t SET taken_at = now(), open = (
        SELECT coalesce(sum(c.streams), 0) FROM counted c WHERE c.state IN ('pending', 'active', 'parked')
    ) WHERE t.day = v_day;
    RETURN v_day;
END
$$;

COMMENT ON FUNCTION tailrace.tally(double precision) IS
    'Counts what the archive holds of the day that is most due, into tallies; returns the day, null when none is.';
