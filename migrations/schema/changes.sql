-- What was archived after a cursor, for those who follow the archive.

-- Which changes are certainly all visible: those below this number. A transaction that is still open holds it back.
CREATE FUNCTION tailrace.changes_until() RETURNS bigint
LANGUAGE sql STABLE PARALLEL SAFE
RETURN (pg_snapshot_xmin(pg_current_snapshot())::text)::bigint + tailrace.changes_base();


-- Have changes go on far behind all that anybody can have seen, where the archive came to another server: a dump that was
-- restored, rows that were replicated. That one may have counted less, and those who follow the archive have seen changes
-- that are not in it. `p_went_back`: do so on the same server too, which has gone back to a moment and gives numbers of
-- transactions a second time. Returns by how much; 0 where nothing was to be done. For the owner; `tailrace migrate` calls it.
CREATE FUNCTION tailrace.follow_server(p_went_back boolean DEFAULT false) RETURNS bigint
LANGUAGE plpgsql AS $$
DECLARE
    far CONSTANT bigint := 4294967296;  -- more transactions than anybody makes between a backup and its use
    here bigint;
    known bigint;
    ahead bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('tailrace.follow_server', 0));
    IF has_function_privilege('pg_control_system()', 'EXECUTE') THEN
        SELECT c.system_identifier INTO here FROM pg_control_system() c;
    END IF;
    SELECT c.system_identifier INTO known FROM tailrace.counted_on c;
    -- Of this server, no change that can be seen is as great as the next transaction's.
    SELECT max(g.change_id) + 1 - (pg_snapshot_xmax(pg_current_snapshot())::text)::bigint - tailrace.changes_base()
    INTO ahead FROM tailrace.segments g;
    IF here IS NOT NULL AND known IS DISTINCT FROM here THEN
        INSERT INTO tailrace.counted_on (system_identifier) VALUES (here)
        ON CONFLICT (one) DO UPDATE SET system_identifier = excluded.system_identifier;
    END IF;
    IF (p_went_back OR known <> here OR ahead > 0) IS NOT TRUE THEN
        RETURN 0;
    END IF;
    ahead := far + greatest(ahead, 0);
    EXECUTE format(
        'CREATE OR REPLACE FUNCTION tailrace.changes_base() RETURNS bigint '
        'LANGUAGE sql STABLE PARALLEL SAFE RETURN %s::bigint',
        tailrace.changes_base() + ahead
    );
    RETURN ahead;
END
$$;

COMMENT ON FUNCTION tailrace.follow_server(boolean) IS
    'Has change_id go on behind all that anybody can have seen, where the archive came from another server or went back.';


-- See the comment on it. Reads only the segments that hold what it returns: to unpack everything after the cursor would
-- cost the same however small the portion that was asked for.
CREATE FUNCTION tailrace.changes_since(p_cursor bigint DEFAULT -1, p_segments int DEFAULT NULL)
RETURNS TABLE (
    change_id bigint, environment text, run_id text, stream_key text, generation int, chunk_index bigint, data json,
    data_text text, data_jsonb jsonb, type text, text_delta text, emitted_at timestamptz, committed_at timestamptz,
    stream_id bigint
)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 10000
BEGIN ATOMIC
    WITH bound AS MATERIALIZED (
        -- The last change that is looked at: the newest that is safe, or the one of the p_segments-th segment.
        SELECT greatest(p_cursor, coalesce((
            SELECT g.change_id FROM tailrace.segments g
            WHERE p_segments IS NOT NULL AND g.change_id > p_cursor AND g.change_id < tailrace.changes_until()
            ORDER BY g.change_id OFFSET greatest(p_segments, 1) - 1 LIMIT 1
        ), tailrace.changes_until() - 1)) AS change_id
    ), changed AS (
        SELECT g.* FROM tailrace.segments g
        WHERE g.change_ids IS NULL AND g.change_id > p_cursor AND g.change_id <= (SELECT b.change_id FROM bound b)
        UNION ALL
        -- Compacted, and of several changes: some before the cursor, some after the bound.
        SELECT g.* FROM tailrace.segments g
        WHERE g.change_ids IS NOT NULL
          AND tailrace.span_of_changes(g.change_ids)
              && int8range(p_cursor, (SELECT b.change_id FROM bound b), '(]')
        UNION ALL
        -- Segments without a change_id are change 0, which cursor -1 asks for.
        SELECT g.* FROM tailrace.segments g WHERE g.change_id IS NULL AND p_cursor < 0
    )
    SELECT
        c.change_id, e.name, r.run_id, s.stream_key, g.generation, c.chunk_index, c.data, c.data_text, c.data_jsonb,
        c.type, c.text_delta, c.emitted_at, c.committed_at, g.stream_id
    FROM changed g
    JOIN tailrace.streams s ON s.id = g.stream_id
    JOIN tailrace.runs r ON r.id = s.run
    JOIN tailrace.environments e ON e.id = r.environment_id
    CROSS JOIN LATERAL tailrace.unpack(
        g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd,
        g.committed_at, g.committed, g.change_id, g.change_ids
    ) c
    WHERE c.change_id > p_cursor AND c.change_id <= (SELECT b.change_id FROM bound b)
    ORDER BY c.change_id, g.stream_id, g.generation, c.chunk_index;
END;

REVOKE EXECUTE ON FUNCTION tailrace.changes_since(bigint, int) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.changes_since(bigint, int) IS
    'The chunks that were committed after a cursor, in the order of their change_id. Keep the largest change_id that '
    'you have processed and ask with it again: no chunk is missed, whatever the order of commits, and none comes '
    'twice, compaction or not. Begin with -1. p_segments: stop after the change that holds the so manieth segment. A '
    'transaction that stays open anywhere on the server holds newer changes back.';
