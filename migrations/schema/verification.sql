-- Verifying a whole archive, a step at a time: how far somebody has come, when each day was verified, what is wrong.

-- When all streams of a day (UTC, on which they were found) were last verified. A row a day, not a time a stream, which
-- would make every row of streams anew each time.
CREATE TABLE tailrace.verified_days (
    day         date PRIMARY KEY,
    verified_at timestamptz NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now(),
    streams     bigint NOT NULL
);

COMMENT ON COLUMN tailrace.verified_days.verified_at IS
    'When it was begun: what had been stored by then has been looked at since.';

-- Who verifies at present, and how far that has come; a row for each name: `all` (tailrace verify; no row when the last
-- one is over) and `scrub` (workers; without a day while none is at work).
CREATE TABLE tailrace.verifications (
    name         text PRIMARY KEY,
    begun_at     timestamptz NOT NULL DEFAULT now(),
    since        date,
    streams      bigint NOT NULL DEFAULT 0,
    day          date,
    day_begun_at timestamptz,
    day_streams  bigint NOT NULL DEFAULT 0,
    reached      bigint,
    held_by      uuid,
    held_until   timestamptz NOT NULL DEFAULT '-infinity',
    CONSTRAINT verifications_name_check CHECK (name IN ('all', 'scrub'))
);

COMMENT ON COLUMN tailrace.verifications.since IS 'Days before this one are left out; null: none.';
COMMENT ON COLUMN tailrace.verifications.streams IS 'How many streams it has looked at, on days that are finished.';
COMMENT ON COLUMN tailrace.verifications.reached IS 'Streams of the day with lower ids have been looked at.';
COMMENT ON COLUMN tailrace.verifications.held_until IS 'Then whoever held it is taken for dead, and another goes on.';

-- Streams with which something was wrong when they were last verified; no row: nothing. No foreign key: some have no
-- stream, and that is what is wrong.
CREATE TABLE tailrace.mismatches (
    stream_id  bigint PRIMARY KEY,
    since      timestamptz NOT NULL DEFAULT now(),
    seen_at    timestamptz NOT NULL DEFAULT now(),
    violations text[] NOT NULL,
    detail     text NOT NULL
);

COMMENT ON COLUMN tailrace.mismatches.since IS 'When it was first seen.';
COMMENT ON COLUMN tailrace.mismatches.violations IS
    'What is wrong: words of verify_accounts, digest (the contents have changed), unreadable (Postgres can''t read it).';


-- The day (UTC) on which a stream with this id was found.
CREATE FUNCTION tailrace.day_of(p_stream_id bigint) RETURNS date
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN (timestamp 'epoch' + (p_stream_id >> 20) * interval '1 millisecond')::date;


-- The days (UTC) that have streams, or rows of streams that are gone, or until today a partition of segments; oldest
-- first. Their ids are from first_id to before end_id. It jumps from day to day in the indices, however many streams a
-- day has.
CREATE FUNCTION tailrace.archived_days() RETURNS TABLE (day date, first_id bigint, end_id bigint)
LANGUAGE sql STABLE SECURITY DEFINER
BEGIN ATOMIC
    WITH RECURSIVE found AS (
        SELECT least(
            (SELECT min(s.id) FROM tailrace.streams s),
            (SELECT min(h.stream_id) FROM tailrace.holes h),
            (SELECT min(q.stream_id) FROM tailrace.quarantine q)
        ) AS id
        UNION ALL
        SELECT least(
            (SELECT min(s.id) FROM tailrace.streams s WHERE s.id >= later.id),
            (SELECT min(h.stream_id) FROM tailrace.holes h WHERE h.stream_id >= later.id),
            (SELECT min(q.stream_id) FROM tailrace.quarantine q WHERE q.stream_id >= later.id)
        )
        FROM found f
        CROSS JOIN LATERAL (
            SELECT tailrace.stream_id_at((tailrace.day_of(f.id) + 1)::timestamp AT TIME ZONE 'UTC')
        ) AS later (id)
        WHERE f.id IS NOT NULL
    ), days AS (
        SELECT tailrace.day_of(f.id) AS day FROM found f WHERE f.id IS NOT NULL
        UNION
        SELECT p.day FROM tailrace.partition_days() p WHERE p.day <= (now() AT TIME ZONE 'UTC')::date
    )
    SELECT d.day, tailrace.stream_id_at(d.day::timestamp AT TIME ZONE 'UTC'),
           tailrace.stream_id_at((d.day + 1)::timestamp AT TIME ZONE 'UTC')
    FROM days d ORDER BY d.day;
END;

REVOKE EXECUTE ON FUNCTION tailrace.archived_days() FROM PUBLIC;


-- The streams with ids from p_first to before p_end with which something may be wrong: every stream for which
-- verify_accounts(stream) has a row or whose contents are not those of its digest, and ids of rows that have no stream.
-- Others can be among them (all that were re-created, and all with quarantined records), so ask that function about
-- each. It is fast because it looks at all streams of the range together; what each rule means stands in
-- verify_accounts alone, and whoever changes one there looks here.
--
-- Planned for the range that is asked for, which is mostly in one partition; without compiling and in one process, so
-- that whoever calls it decides what load it makes.
CREATE FUNCTION tailrace.suspects(p_first bigint, p_end bigint) RETURNS SETOF bigint
LANGUAGE plpgsql STABLE
SET plan_cache_mode = force_custom_plan SET jit = off SET max_parallel_workers_per_gather = 0
-- Of a day that was never analyzed the planner expects few rows, and would go through one list for each row of another.
SET enable_nestloop = off AS $$
BEGIN
    RETURN QUERY
    WITH stream AS MATERIALIZED (
        SELECT n.id, n.generation, n.last_chunk_index, n.chunk_count, n.byte_count, n.hole_count, n.lost_count,
               n.quarantine_count, s.digest
        FROM tailrace.streams_now n JOIN tailrace.streams s ON s.id = n.id
        WHERE n.id >= p_first AND n.id < p_end AND s.id >= p_first AND s.id < p_end
    ), segment AS MATERIALIZED (
        SELECT
            g.stream_id, g.generation, g.first_index, g.last_index, g.index_offsets, held.chunks, held.bytes,
            held.hashes,
            held.chunks <> g.chunk_count
                OR g.first_index <= lag(g.last_index) OVER (
                    PARTITION BY g.stream_id, g.generation ORDER BY g.first_index
                )
                -- What is odd in a part is odd in the whole. Of long texts that costs more than to ask for each part.
                OR NOT g.odd AND CASE WHEN g.is_long THEN held.odd ELSE tailrace.is_odd(g.data::text) END AS suspect
        FROM (
            SELECT g.stream_id, g.generation, g.first_index, g.last_index, g.chunk_count, g.data, g.index_offsets,
                   g.odd, octet_length(g.data::text) > 15000 AS is_long
            FROM tailrace.segments g WHERE g.stream_id >= p_first AND g.stream_id < p_end
            OFFSET 0  -- unpacked once for it, and not for each chunk
        ) g
        JOIN stream s ON s.id = g.stream_id
        CROSS JOIN LATERAL (
            SELECT
                count(c.data) AS chunks,
                coalesce(sum(octet_length(c.data::text)), 0) AS bytes,
                bool_or(CASE WHEN g.is_long AND NOT g.odd THEN tailrace.is_odd(c.data::text) END) AS odd,
                -- As stream_digest has it. In order, because that is how they are unpacked; else it would be a suspect.
                string_agg(CASE WHEN s.digest IS NOT NULL AND s.chunk_count <= 10000 THEN sha256(
                    int4send(g.generation) || int8send(g.first_index + coalesce(c.index_offset, c.n - 1))
                        || convert_to(c.data::text, 'UTF8')
                ) END, ''::bytea) AS hashes
            FROM ROWS FROM (json_array_elements(g.data), unnest(g.index_offsets))
                WITH ORDINALITY AS c (data, index_offset, n)
        ) held
    ), hole AS MATERIALIZED (
        SELECT h.stream_id, h.generation, h.first_index, h.last_index, h.reason
        FROM tailrace.holes h WHERE h.stream_id >= p_first AND h.stream_id < p_end
    ), kept_raw AS MATERIALIZED (
        SELECT q.stream_id FROM tailrace.quarantine q WHERE q.stream_id >= p_first AND q.stream_id < p_end
    ), covered AS (
        SELECT g.stream_id, g.generation, g.first_index, g.last_index FROM segment g WHERE g.index_offsets IS NULL
        UNION ALL
        SELECT g.stream_id, g.generation, g.first_index + min(o.index_offset), g.first_index + max(o.index_offset)
        FROM segment g CROSS JOIN LATERAL unnest(g.index_offsets) WITH ORDINALITY AS o (index_offset, n)
        GROUP BY g.stream_id, g.generation, g.first_index, o.index_offset - o.n
        UNION ALL
        SELECT h.stream_id, h.generation, h.first_index, h.last_index FROM hole h WHERE h.last_index IS NOT NULL
    ), ordered AS (
        SELECT c.stream_id, c.generation, c.first_index, c.last_index, coalesce(lag(c.last_index) OVER (
            PARTITION BY c.stream_id, c.generation ORDER BY c.first_index, c.last_index
        ), -1) AS covered_to
        FROM covered c
    ), accounted AS (
        SELECT o.stream_id, max(o.last_index) AS last_index,
               bool_or(
                   o.generation <> 0 OR o.first_index <> o.covered_to + 1 OR o.last_index < o.first_index
               ) AS suspect
        FROM ordered o GROUP BY o.stream_id
    ), stored AS (
        SELECT g.stream_id, sum(g.chunks) AS chunks, sum(g.bytes) AS bytes, bool_or(g.suspect) AS suspect,
               string_agg(g.hashes, ''::bytea ORDER BY g.generation, g.first_index) AS hashes
        FROM segment g GROUP BY g.stream_id
    ), lost AS (
        SELECT h.stream_id, count(*) AS holes,
               count(*) FILTER (WHERE h.reason IN ('trimmed', 'expired', 'recreated', 'missing')) AS lost,
               bool_or(h.reason IN ('recreated', 'quarantined', 'repeat')) AS suspect
        FROM hole h GROUP BY h.stream_id
    )
    SELECT s.id
    FROM stream s
    LEFT JOIN accounted a ON a.stream_id = s.id
    LEFT JOIN stored t ON t.stream_id = s.id
    LEFT JOIN lost l ON l.stream_id = s.id
    WHERE s.generation <> 0 OR s.quarantine_count <> 0 OR a.suspect OR t.suspect OR l.suspect
       OR coalesce(a.last_index, -1) <> s.last_chunk_index
       OR s.chunk_count <> coalesce(t.chunks, 0) OR s.byte_count <> coalesce(t.bytes, 0)
       OR s.hole_count <> coalesce(l.holes, 0) OR s.lost_count <> coalesce(l.lost, 0)
       OR s.digest <> CASE
              WHEN s.chunk_count <= 10000 THEN sha256(CASE WHEN t.hashes IS NULL THEN '' ELSE sha256(t.hashes) END)
              ELSE tailrace.stream_digest(s.id)
          END
    UNION
    SELECT g.stream_id FROM segment g WHERE g.index_offsets IS NOT NULL AND EXISTS (
        SELECT FROM (
            SELECT o.index_offset, lag(o.index_offset) OVER (ORDER BY o.n) AS before
            FROM unnest(g.index_offsets) WITH ORDINALITY AS o (index_offset, n)
        ) pair WHERE pair.index_offset <= pair.before OR pair.index_offset IS NULL
    )
    UNION
    SELECT k.stream_id FROM kept_raw k
    UNION
    SELECT orphan.stream_id FROM (
        SELECT g.stream_id FROM tailrace.segments g WHERE g.stream_id >= p_first AND g.stream_id < p_end
        UNION ALL
        SELECT h.stream_id FROM hole h
    ) orphan WHERE NOT EXISTS (SELECT FROM stream s WHERE s.id = orphan.stream_id);
END
$$;

COMMENT ON FUNCTION tailrace.suspects(bigint, bigint) IS
    'Ids of streams, from the first to before the second, of which something may be wrong; verify_accounts says what.';
