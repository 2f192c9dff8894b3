-- Checkpoints: how far each stream is archived at this moment.
--
-- A commit that only adds chunks makes no new version of the stream's row: versions that somebody's open snapshot keeps
-- would have to be passed by each later commit. Its last segment carries the cursor instead. What lies behind the row's
-- checkpoint, up to the last such segment, has yet to be added to the row: it is, every now and then, by a commit, and
-- whoever takes the lease begins with that.

-- What is stored of a stream after a checkpoint of its row; no row: nothing. Never inlined, so that the plan, which has
-- every partition in it, is made once a session and not with each query.
CREATE FUNCTION tailrace.stored_after(p_stream_id bigint, p_generation int, p_last_index bigint)
RETURNS TABLE (
    last_index bigint, cursor json, chunks bigint, bytes bigint, first_committed_at timestamptz,
    last_committed_at timestamptz
)
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT a.* FROM (
            SELECT
                g.last_index, g.cursor, sum(g.chunk_count) OVER earlier,
                -- Of [a,b,c] without the brackets and the commas: the Writer puts nothing else around chunks.
                (sum(octet_length(g.data::text) - g.chunk_count - 1) OVER earlier)::bigint,
                min(g.committed_at) OVER earlier, max(g.committed_at) OVER earlier
            FROM tailrace.segments g
            WHERE g.stream_id = p_stream_id AND g.generation = p_generation AND g.first_index > p_last_index
            WINDOW earlier AS (ORDER BY g.first_index)
        ) a
        WHERE a.cursor IS NOT NULL ORDER BY a.last_index DESC LIMIT 1;
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.stored_after(bigint, int, bigint) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.stored_after(bigint, int, bigint) IS
    'What is stored of a stream after the checkpoint that its row tells: the present checkpoint, and how much that is.';

-- How fast chunks of a stream came lately, and when upstream says that the newest was written; no row: nothing is stored.
-- Looks at a hundred segments at most, however many there are. Never inlined, for the same reason.
CREATE FUNCTION tailrace.recently_stored(p_stream_id bigint, p_generation int, p_within_s double precision)
RETURNS TABLE (chunks_per_s double precision, emitted_at timestamptz)
LANGUAGE plpgsql STABLE STRICT PARALLEL SAFE SECURITY DEFINER ROWS 1 SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN QUERY
        SELECT
            -- Over the time that was looked through: less than p_within_s when there was more, or nothing before.
            coalesce(sum(l.chunk_count) FILTER (WHERE l.age_s <= p_within_s), 0)
                / greatest(1, least(p_within_s, max(l.age_s))),
            to_timestamp((
                SELECT g.emitted_ms[cardinality(g.emitted_ms)] FROM tailrace.segments g
                WHERE g.stream_id = p_stream_id AND g.generation = p_generation ORDER BY g.first_index DESC LIMIT 1
            ) / 1000.0)
        FROM (
            SELECT g.chunk_count, extract(epoch FROM now() - g.committed_at)::double precision AS age_s
            FROM tailrace.segments g
            WHERE g.stream_id = p_stream_id AND g.generation = p_generation ORDER BY g.first_index DESC LIMIT 100
        ) l
        HAVING count(*) > 0;
END
$$;

REVOKE EXECUTE ON FUNCTION tailrace.recently_stored(bigint, int, double precision) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.recently_stored(bigint, int, double precision) IS
    'How many chunks a second were stored of a stream within the last so many seconds, and upstream''s time of the newest.';

-- The columns of streams as they are now. Of a sealed stream the row is right.
CREATE VIEW tailrace.streams_now AS
SELECT
    s.id, s.run, s.stream_key, s.wire, s.generation, coalesce(a.last_index, s.last_chunk_index) AS last_chunk_index,
    coalesce(a.cursor, s.cursor) AS cursor, s.rev, s.state, s.verdict,
    s.chunk_count + coalesce(a.chunks, 0) AS chunk_count, s.byte_count + coalesce(a.bytes, 0) AS byte_count,
    s.hole_count, s.lost_count, s.quarantine_count,
    -- Upstream's tail was so far ahead of the row's checkpoint.
    CASE WHEN s.lag IS NOT NULL
        THEN greatest(0, s.lag - (coalesce(a.last_index, s.last_chunk_index) - s.last_chunk_index))
    END AS lag,
    s.worker_id, s.token, s.attempt, s.next_attempt_at, s.last_error, s.swept_at, s.swept_index,
    coalesce(s.first_chunk_at, a.first_committed_at) AS first_chunk_at,
    coalesce(a.last_committed_at, s.last_chunk_at) AS last_chunk_at, s.sealed_at, s.created_at,
    s.stuck_at, s.doubt
FROM tailrace.streams s
LEFT JOIN LATERAL tailrace.stored_after(
    CASE WHEN s.state <> 'sealed' THEN s.id END, s.generation, s.last_chunk_index
) a ON true;

COMMENT ON VIEW tailrace.streams_now IS 'Streams, with their checkpoints, counts and times as they are at this moment.';
COMMENT ON COLUMN tailrace.streams_now.id IS 'Ours; grows with the time at which the stream was found.';
COMMENT ON COLUMN tailrace.streams_now.run IS 'The id of its run in runs.';
COMMENT ON COLUMN tailrace.streams_now.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.streams_now.wire IS 'v1 (Redis) or v2 (S2); null: nobody has connected yet.';
COMMENT ON COLUMN tailrace.streams_now.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.streams_now.last_chunk_index IS
    'Every index of this generation up to here is a chunk or in a hole. -1: nothing yet.';
COMMENT ON COLUMN tailrace.streams_now.cursor IS 'Opaque resume position that goes with it.';
COMMENT ON COLUMN tailrace.streams_now.rev IS 'Grows by one with every commit that the stream''s row follows.';
COMMENT ON COLUMN tailrace.streams_now.state IS 'pending, active, parked, sealed, failed, cancelled.';
COMMENT ON COLUMN tailrace.streams_now.verdict IS 'open, complete, complete_with_gaps, possibly_truncated, failed.';
COMMENT ON COLUMN tailrace.streams_now.chunk_count IS 'Chunks stored, over all generations.';
COMMENT ON COLUMN tailrace.streams_now.byte_count IS 'Sum of octet_length of the chunks'' texts, over all generations.';
COMMENT ON COLUMN tailrace.streams_now.hole_count IS 'Rows in holes, over all generations.';
COMMENT ON COLUMN tailrace.streams_now.lost_count IS 'Rows in holes whose reason is a loss.';
COMMENT ON COLUMN tailrace.streams_now.quarantine_count IS 'Rows in quarantine.';
COMMENT ON COLUMN tailrace.streams_now.lag IS
    'How far the checkpoint was behind upstream''s tail when last heard (v2).';
COMMENT ON COLUMN tailrace.streams_now.worker_id IS 'Who holds the lease; null: nobody.';
COMMENT ON COLUMN tailrace.streams_now.token IS
    'Grows with every takeover; a write with another token changes nothing.';
COMMENT ON COLUMN tailrace.streams_now.attempt IS 'How many times in a row something went wrong.';
COMMENT ON COLUMN tailrace.streams_now.next_attempt_at IS 'When it is read next, if nobody reads it.';
COMMENT ON COLUMN tailrace.streams_now.last_error IS 'What went wrong last; null when nothing did.';
COMMENT ON COLUMN tailrace.streams_now.swept_at IS 'When a final sweep ended.';
COMMENT ON COLUMN tailrace.streams_now.swept_index IS 'The checkpoint at which it ended.';
COMMENT ON COLUMN tailrace.streams_now.first_chunk_at IS 'When a chunk was archived first.';
COMMENT ON COLUMN tailrace.streams_now.last_chunk_at IS 'When a chunk was archived last.';
COMMENT ON COLUMN tailrace.streams_now.sealed_at IS 'When it was sealed.';
COMMENT ON COLUMN tailrace.streams_now.created_at IS 'When the stream was found.';
COMMENT ON COLUMN tailrace.streams_now.stuck_at IS
    'Since when its reader gets nothing although there is more; null: it is not so.';
COMMENT ON COLUMN tailrace.streams_now.doubt IS 'Why the verdict claims no more; verdicts.sql has the words.';
