-- How runs and streams went, one row for each.

-- What is worth knowing about a sealed stream without unpacking it.
CREATE TABLE tailrace.facts (
    stream_id        bigint PRIMARY KEY REFERENCES tailrace.streams (id) ON DELETE CASCADE,
    first_emitted_at timestamptz,
    last_emitted_at  timestamptz,
    first_text_at    timestamptz,
    longest_stall_s  double precision,
    stalled_before   bigint,
    text_chunks      bigint NOT NULL,
    text_characters  bigint NOT NULL,
    chunk_types      text[] NOT NULL
);


-- What `facts` holds of a sealed stream, worked out from its chunks. One row; none for null, without any work.
-- A pause is measured between neighbours in a generation, by upstream's times.
CREATE FUNCTION tailrace.facts_of_stream(p_stream_id bigint) RETURNS SETOF tailrace.facts
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER COST 100000 ROWS 1
BEGIN ATOMIC
    WITH chunk AS (
        SELECT g.generation, c.chunk_index, left(c.type, 100) AS type, length(c.text_delta) AS characters, c.emitted_at
        FROM tailrace.segments g
        CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
        WHERE g.stream_id = p_stream_id
    ), paused AS (
        SELECT
            c.*,
            extract(epoch FROM c.emitted_at - lag(c.emitted_at) OVER (
                PARTITION BY c.generation ORDER BY c.chunk_index
            ))::double precision AS pause_s
        FROM chunk c
    ), known_type AS (
        SELECT DISTINCT p.type FROM paused p WHERE p.type IS NOT NULL ORDER BY p.type LIMIT 100
    )
    SELECT
        p_stream_id, min(p.emitted_at), max(p.emitted_at), min(p.emitted_at) FILTER (WHERE p.characters > 0),
        max(p.pause_s), (array_agg(p.chunk_index ORDER BY p.pause_s DESC NULLS LAST, p.chunk_index)
                         FILTER (WHERE p.pause_s IS NOT NULL))[1],
        count(*) FILTER (WHERE p.characters > 0), coalesce(sum(p.characters), 0)::bigint,
        coalesce((SELECT array_agg(k.type ORDER BY k.type) FROM known_type k), '{}')
    FROM paused p;
END;

REVOKE EXECUTE ON FUNCTION tailrace.facts_of_stream(bigint) FROM PUBLIC;


-- How each stream went. Of sealed streams the figures are kept (table facts); of others they are worked out.
CREATE VIEW tailrace.stream_stats AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, r.task_identifier, s.state, s.verdict,
    s.chunk_count AS chunks, s.byte_count AS bytes,
    coalesce(kept.first_emitted_at, live.first_emitted_at) AS first_chunk_at,
    coalesce(kept.last_emitted_at, live.last_emitted_at) AS last_chunk_at,
    extract(epoch FROM coalesce(kept.first_emitted_at, live.first_emitted_at)
                       - coalesce(r.started_at, r.created_at))::double precision AS first_chunk_s,
    extract(epoch FROM coalesce(kept.first_text_at, live.first_text_at)
                       - coalesce(r.started_at, r.created_at))::double precision AS first_text_s,
    span.seconds AS duration_s,
    CASE WHEN span.seconds > 0 THEN s.chunk_count / span.seconds END AS chunks_per_s,
    coalesce(kept.longest_stall_s, live.longest_stall_s) AS longest_stall_s,
    coalesce(kept.stalled_before, live.stalled_before) AS stalled_before,
    coalesce(kept.text_chunks, live.text_chunks, 0) AS text_chunks,
    coalesce(kept.text_characters, live.text_characters, 0) AS text_characters,
    coalesce(kept.chunk_types, live.chunk_types, '{}') AS chunk_types,
    s.lag, s.last_error, s.id AS stream_id,
    tailrace.verdict_reason(s.state, s.verdict, s.doubt, s.lost_count, s.last_error) AS verdict_reason
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams_now s ON s.run = r.id
LEFT JOIN tailrace.facts kept ON kept.stream_id = s.id
LEFT JOIN LATERAL tailrace.facts_of_stream(
    CASE WHEN kept.stream_id IS NULL AND s.chunk_count > 0 THEN s.id END
) live ON kept.stream_id IS NULL AND s.chunk_count > 0
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM coalesce(kept.last_emitted_at, live.last_emitted_at)
                              - coalesce(kept.first_emitted_at, live.first_emitted_at))::double precision AS seconds
) span;

COMMENT ON VIEW tailrace.stream_stats IS
    'One row for each stream. Times are upstream''s. first_chunk_s and first_text_s count from the run''s start (else '
    'its creation); longest_stall_s is the longest pause between two chunks, the second of which is stalled_before; '
    'chunk_types are up to 100 different types. Sealed streams cost a lookup, others are unpacked.';
COMMENT ON COLUMN tailrace.stream_stats.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.stream_stats.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.stream_stats.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.stream_stats.task_identifier IS 'The task.';
COMMENT ON COLUMN tailrace.stream_stats.state IS 'pending, active, parked, sealed, failed, cancelled.';
COMMENT ON COLUMN tailrace.stream_stats.verdict IS 'open, complete, complete_with_gaps, possibly_truncated, failed.';
COMMENT ON COLUMN tailrace.stream_stats.chunks IS 'Chunks archived.';
COMMENT ON COLUMN tailrace.stream_stats.bytes IS 'Bytes of their JSON text.';
COMMENT ON COLUMN tailrace.stream_stats.first_chunk_at IS 'Upstream''s time of the first chunk.';
COMMENT ON COLUMN tailrace.stream_stats.last_chunk_at IS 'Of the last.';
COMMENT ON COLUMN tailrace.stream_stats.first_chunk_s IS
    'Seconds from the run''s start (else its creation) to the first chunk.';
COMMENT ON COLUMN tailrace.stream_stats.first_text_s IS 'To the first chunk with text: time to first token.';
COMMENT ON COLUMN tailrace.stream_stats.duration_s IS 'From the first to the last chunk.';
COMMENT ON COLUMN tailrace.stream_stats.chunks_per_s IS 'Chunks by that.';
COMMENT ON COLUMN tailrace.stream_stats.longest_stall_s IS 'The longest pause between two chunks.';
COMMENT ON COLUMN tailrace.stream_stats.stalled_before IS 'The index after that pause.';
COMMENT ON COLUMN tailrace.stream_stats.text_chunks IS 'Chunks that add text: about the tokens of an answer.';
COMMENT ON COLUMN tailrace.stream_stats.text_characters IS 'Characters of all of them, retried attempts too.';
COMMENT ON COLUMN tailrace.stream_stats.chunk_types IS 'Up to 100 different types, each cut at 100 characters.';
COMMENT ON COLUMN tailrace.stream_stats.lag IS
    'How many records the archive was behind upstream when last heard (v2, open streams).';
COMMENT ON COLUMN tailrace.stream_stats.last_error IS 'What went wrong last; null when nothing did.';
COMMENT ON COLUMN tailrace.stream_stats.stream_id IS
    'Ours; grows with the time at which the stream was found. stream_id >= tailrace.stream_id_at(''2026-11-01'') '
    'reads no older partition.';
COMMENT ON COLUMN tailrace.stream_stats.verdict_reason IS
    'Why the verdict is what it is, and what would have made it complete, in words; null for complete.';


-- One row for each run, however many streams it has.
CREATE VIEW tailrace.run_overview AS
SELECT
    e.name AS environment, r.run_id, r.task_identifier, r.status, r.tags, r.created_at, r.started_at, r.finished_at,
    r.state, v.verdict,
    t.streams, t.sealed, t.chunks, t.bytes, t.gaps, t.quarantined, t.lag, t.last_chunk_at AS last_committed_at,
    r.requested_at, r.sealed_at, r.pruned_at, coalesce(r.last_error, t.last_error) AS last_error, r.id AS run,
    CASE
        WHEN r.state <> 'failed' AND t.worst = v.verdict THEN t.worst_reason
        ELSE tailrace.run_reason(v.verdict, r.state, r.last_error)
    END AS verdict_reason
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
CROSS JOIN LATERAL (
    SELECT
        count(*) AS streams,
        count(*) FILTER (WHERE s.state = 'sealed') AS sealed,
        count(*) FILTER (WHERE s.state IN ('pending', 'active', 'parked')) AS open,
        count(*) FILTER (WHERE s.state = 'failed' OR s.verdict = 'failed') AS failed,
        count(*) FILTER (WHERE s.verdict = 'possibly_truncated') AS truncated,
        count(*) FILTER (WHERE s.verdict = 'complete_with_gaps') AS gapped,
        coalesce(sum(s.chunk_count), 0)::bigint AS chunks,
        coalesce(sum(s.byte_count), 0)::bigint AS bytes,
        coalesce(sum(s.lost_count), 0)::bigint AS gaps,
        coalesce(sum(s.quarantine_count), 0)::bigint AS quarantined,
        max(s.lag) FILTER (WHERE s.state IN ('pending', 'active', 'parked')) AS lag,
        max(s.last_chunk_at) AS last_chunk_at,
        max(s.last_error) AS last_error,
        (array_agg(w.verdict ORDER BY w.rank, s.stream_key))[1] AS worst,
        (array_agg(
            s.stream_key || ': ' || tailrace.verdict_reason(s.state, s.verdict, s.doubt, s.lost_count, s.last_error)
            ORDER BY w.rank, s.stream_key
        ))[1] AS worst_reason
    FROM tailrace.streams_now s
    CROSS JOIN LATERAL (
        SELECT
            CASE WHEN s.state IN ('failed', 'pending', 'active', 'parked') THEN
                CASE s.state WHEN 'failed' THEN 'failed' ELSE 'open' END
            ELSE s.verdict END AS verdict,
            CASE
                WHEN s.state = 'failed' OR s.verdict = 'failed' THEN 1
                WHEN s.state IN ('pending', 'active', 'parked') THEN 2
                WHEN s.verdict = 'possibly_truncated' THEN 3
                WHEN s.verdict = 'complete_with_gaps' THEN 4
                ELSE 5
            END AS rank
    ) w
    WHERE s.run = r.id
) t
CROSS JOIN LATERAL (
    SELECT CASE
        WHEN r.pruned_at IS NOT NULL AND t.streams = 0 THEN 'pruned'
        -- Upstream's list named it, and nothing else of upstream's knows it any more.
        WHEN r.state = 'failed' AND t.streams = 0 AND r.status IS NOT NULL THEN 'gone'
        WHEN r.state = 'failed' OR t.failed > 0 THEN 'failed'
        WHEN r.state <> 'sealed' OR t.open > 0 THEN 'open'
        WHEN t.truncated > 0 THEN 'possibly_truncated'
        WHEN t.gaps > 0 OR t.gapped > 0 THEN 'complete_with_gaps'
        ELSE 'complete'
    END AS verdict
) v;

COMMENT ON VIEW tailrace.run_overview IS
    'One row for each run. verdict is the worst of its streams: failed, open, possibly_truncated, complete_with_gaps, '
    'complete; pruned when retention dropped them; gone when upstream listed the run and no longer serves it. '
    'gaps counts losses; lag is that of the stream furthest behind.';
COMMENT ON COLUMN tailrace.run_overview.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.run_overview.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.run_overview.task_identifier IS 'The task.';
COMMENT ON COLUMN tailrace.run_overview.status IS 'Upstream''s, by the API''s name.';
COMMENT ON COLUMN tailrace.run_overview.tags IS 'The run''s tags.';
COMMENT ON COLUMN tailrace.run_overview.created_at IS 'Upstream''s time.';
COMMENT ON COLUMN tailrace.run_overview.started_at IS 'Upstream''s time.';
COMMENT ON COLUMN tailrace.run_overview.finished_at IS 'Upstream''s time.';
COMMENT ON COLUMN tailrace.run_overview.state IS 'requested, watched, sealed, failed, cancelled.';
COMMENT ON COLUMN tailrace.run_overview.verdict IS
    'The worst of its streams; pruned: retention dropped them; gone: upstream listed it and no longer serves it.';
COMMENT ON COLUMN tailrace.run_overview.streams IS 'How many.';
COMMENT ON COLUMN tailrace.run_overview.sealed IS 'How many of them are sealed.';
COMMENT ON COLUMN tailrace.run_overview.chunks IS 'Sum.';
COMMENT ON COLUMN tailrace.run_overview.bytes IS 'Sum.';
COMMENT ON COLUMN tailrace.run_overview.gaps IS 'Losses, see gaps.';
COMMENT ON COLUMN tailrace.run_overview.quarantined IS 'See quarantined.';
COMMENT ON COLUMN tailrace.run_overview.lag IS
    'How many records the archive was behind upstream when last heard (v2, open streams).';
COMMENT ON COLUMN tailrace.run_overview.last_committed_at IS 'When something was archived last.';
COMMENT ON COLUMN tailrace.run_overview.requested_at IS 'When it was asked for.';
COMMENT ON COLUMN tailrace.run_overview.sealed_at IS 'When all of it was proven complete.';
COMMENT ON COLUMN tailrace.run_overview.pruned_at IS 'When retention dropped its streams.';
COMMENT ON COLUMN tailrace.run_overview.last_error IS 'What went wrong last; null when nothing did.';
COMMENT ON COLUMN tailrace.run_overview.run IS 'Ours.';
COMMENT ON COLUMN tailrace.run_overview.verdict_reason IS
    'Of the worst stream, by key (or of the run): why, and what would have made it complete, in words; null for '
    'complete.';
