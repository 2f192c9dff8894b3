-- Check the accounts of one stream, or of all: one row for each thing that is wrong, none if all is well. One snapshot,
-- so it can run at any time. Unpacks every chunk that it checks.
--
--   missing             indices up to the checkpoint that are neither chunk nor hole
--   twice               indices that are two chunks, two holes, or both
--   beyond_checkpoint   chunks or holes after the checkpoint, or of a generation that has not begun
--   recreated           the hole that ends a generation is missing, out of place, or has indices after it
--   segment             a segment's count, offsets or range is not what it holds
--   odd                 a segment holds a chunk that ->> or jsonb may refuse, and is not marked
--   count               a count of the stream is not the sum of what is stored
--   quarantine          a hole says quarantined or repeat, and quarantine holds nothing of it
--   orphan              rows of a stream that does not exist
--
-- A hole whose last_index is null covers no index: how much was lost before first_index is unknown.
CREATE FUNCTION tailrace.verify_accounts(p_stream_id bigint DEFAULT NULL) RETURNS TABLE (
    stream_id bigint, generation int, first_index bigint, last_index bigint, violation text, detail text
)
LANGUAGE sql STABLE
BEGIN ATOMIC
    WITH bounds AS (
        -- A range serves one stream and all of them with the same index.
        SELECT coalesce(p_stream_id, -9223372036854775808) AS low, coalesce(p_stream_id, 9223372036854775807) AS high
    ), stream AS (
        SELECT s.id, s.generation, s.last_chunk_index, s.chunk_count, s.byte_count, s.hole_count, s.lost_count,
               s.quarantine_count
        FROM bounds JOIN tailrace.streams_now s ON s.id BETWEEN bounds.low AND bounds.high
    ), segment AS MATERIALIZED (
        SELECT
            g.stream_id, g.generation, g.first_index, g.last_index, g.chunk_count, g.index_offsets, g.odd,
            held.chunks, held.bytes, held.unmarked,
            max(g.last_index) OVER (
                PARTITION BY g.stream_id, g.generation ORDER BY g.first_index
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS last_before
        FROM bounds JOIN tailrace.segments g ON g.stream_id BETWEEN bounds.low AND bounds.high
        CROSS JOIN LATERAL (
            SELECT
                count(*) AS chunks,
                coalesce(sum(octet_length(c.data::text)), 0)::bigint AS bytes,
                NOT g.odd AND coalesce(bool_or(tailrace.is_odd(c.data::text)), false) AS unmarked
            FROM json_array_elements(g.data) AS c (data)
        ) held
    ), hole AS (
        SELECT h.stream_id, h.generation, h.first_index, h.last_index, h.reason
        FROM bounds JOIN tailrace.holes h ON h.stream_id BETWEEN bounds.low AND bounds.high
    ), kept_raw AS (
        SELECT q.stream_id, q.generation, q.chunk_index
        FROM bounds JOIN tailrace.quarantine q ON q.stream_id BETWEEN bounds.low AND bounds.high
    ), covered AS (
        -- Every index that is accounted for, as ranges without a break.
        SELECT g.stream_id, g.generation, g.first_index, g.last_index FROM segment g WHERE g.index_offsets IS NULL
        UNION ALL
        SELECT g.stream_id, g.generation, g.first_index + min(o.index_offset), g.first_index + max(o.index_offset)
        FROM segment g CROSS JOIN LATERAL unnest(g.index_offsets) WITH ORDINALITY AS o (index_offset, n)
        GROUP BY g.stream_id, g.generation, g.first_index, o.index_offset - o.n
        UNION ALL
        SELECT h.stream_id, h.generation, h.first_index, h.last_index FROM hole h WHERE h.last_index IS NOT NULL
    ), ordered AS (
        SELECT
            c.stream_id, c.generation, c.first_index, c.last_index,
            coalesce(max(c.last_index) OVER (
                PARTITION BY c.stream_id, c.generation ORDER BY c.first_index, c.last_index
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ), -1) AS covered_to
        FROM covered c
    ), reached AS (
        -- How far each generation goes; -1: nothing of it.
        SELECT s.id AS stream_id, every.generation, coalesce(max(c.last_index), -1) AS last_index
        FROM stream s
        CROSS JOIN LATERAL generate_series(0, s.generation) AS every (generation)
        LEFT JOIN covered c ON c.stream_id = s.id AND c.generation = every.generation
        GROUP BY s.id, every.generation
    ), stored AS (
        SELECT
            s.id AS stream_id,
            coalesce(g.chunks, 0) AS chunk_count, coalesce(g.bytes, 0) AS byte_count,
            coalesce(h.holes, 0) AS hole_count, coalesce(h.lost, 0) AS lost_count,
            coalesce(q.records, 0) AS quarantine_count
        FROM stream s
        LEFT JOIN (SELECT g.stream_id, sum(g.chunks) AS chunks, sum(g.bytes) AS bytes FROM segment g GROUP BY 1) g
            ON g.stream_id = s.id
        LEFT JOIN (
            SELECT h.stream_id, count(*) AS holes,
                   count(*) FILTER (WHERE h.reason IN ('trimmed', 'expired', 'recreated', 'missing')) AS lost
            FROM hole h GROUP BY 1
        ) h ON h.stream_id = s.id
        LEFT JOIN (SELECT k.stream_id, count(*) AS records FROM kept_raw k GROUP BY 1) q ON q.stream_id = s.id
    )

    SELECT o.stream_id, o.generation, o.covered_to + 1, o.first_index - 1, 'missing', 'neither a chunk nor in a hole'
    FROM ordered o WHERE o.first_index > o.covered_to + 1
    UNION ALL
    SELECT s.id, s.generation, r.last_index + 1, s.last_chunk_index, 'missing', 'the checkpoint is ahead of the archive'
    FROM stream s JOIN reached r ON r.stream_id = s.id AND r.generation = s.generation
    WHERE r.last_index < s.last_chunk_index

    UNION ALL
    SELECT o.stream_id, o.generation, o.first_index, least(o.last_index, o.covered_to), 'twice', 'accounted for twice'
    FROM ordered o WHERE o.first_index <= o.covered_to

    UNION ALL
    SELECT s.id, s.generation, s.last_chunk_index + 1, r.last_index, 'beyond_checkpoint', 'stored after the checkpoint'
    FROM stream s JOIN reached r ON r.stream_id = s.id AND r.generation = s.generation
    WHERE r.last_index > s.last_chunk_index
    UNION ALL
    SELECT c.stream_id, c.generation, min(c.first_index), max(c.last_index), 'beyond_checkpoint',
           format('the stream is in generation %s', s.generation)
    FROM covered c JOIN stream s ON s.id = c.stream_id
    WHERE c.generation > s.generation GROUP BY c.stream_id, c.generation, s.generation

    UNION ALL
    SELECT r.stream_id, r.generation, r.last_index + 1, NULL, 'recreated', 'the generation ends without its hole'
    FROM reached r JOIN stream s ON s.id = r.stream_id
    WHERE r.generation < s.generation AND NOT EXISTS (
        SELECT FROM hole h
        WHERE h.stream_id = r.stream_id AND h.generation = r.generation AND h.reason = 'recreated'
    )
    UNION ALL
    SELECT h.stream_id, h.generation, h.first_index, h.last_index, 'recreated',
           format('the generation reaches to %s', r.last_index)
    FROM hole h JOIN reached r ON r.stream_id = h.stream_id AND r.generation = h.generation
    WHERE h.reason = 'recreated' AND coalesce(h.last_index, h.first_index - 1) <> r.last_index
    UNION ALL
    SELECT h.stream_id, h.generation, h.first_index, h.last_index, 'recreated', 'no generation follows'
    FROM hole h JOIN stream s ON s.id = h.stream_id
    WHERE h.reason = 'recreated' AND h.generation >= s.generation

    UNION ALL
    SELECT g.stream_id, g.generation, g.first_index, g.last_index, 'segment',
           format('says %s chunks, holds %s', g.chunk_count, g.chunks)
    FROM segment g WHERE g.chunks <> g.chunk_count
    UNION ALL
    SELECT g.stream_id, g.generation, g.first_index, g.last_index, 'segment', 'offsets do not ascend'
    FROM segment g WHERE g.index_offsets IS NOT NULL AND EXISTS (
        SELECT FROM (
            SELECT o.index_offset, lag(o.index_offset) OVER (ORDER BY o.n) AS before
            FROM unnest(g.index_offsets) WITH ORDINALITY AS o (index_offset, n)
        ) pair WHERE pair.index_offset <= pair.before OR pair.index_offset IS NULL
    )
    UNION ALL
    SELECT g.stream_id, g.generation, g.first_index, g.last_index, 'segment',
           format('begins inside a segment that ends at %s', g.last_before)
    FROM segment g WHERE g.first_index <= g.last_before

    UNION ALL
    SELECT g.stream_id, g.generation, g.first_index, g.last_index, 'odd', 'not marked as odd'
    FROM segment g WHERE g.unmarked

    UNION ALL
    SELECT s.id, NULL, NULL, NULL, 'count', format('%s says %s, stored are %s', pair.name, pair.said, pair.stored)
    FROM stream s JOIN stored t ON t.stream_id = s.id
    CROSS JOIN LATERAL (
        VALUES ('chunk_count', s.chunk_count, t.chunk_count), ('byte_count', s.byte_count, t.byte_count),
               ('hole_count', s.hole_count, t.hole_count), ('lost_count', s.lost_count, t.lost_count),
               ('quarantine_count', s.quarantine_count, t.quarantine_count)
    ) AS pair (name, said, stored)
    WHERE pair.said <> pair.stored

    UNION ALL
    SELECT h.stream_id, h.generation, h.first_index, h.last_index, 'quarantine',
           format('nothing kept of this hole (%s)', h.reason)
    FROM hole h
    WHERE h.reason IN ('quarantined', 'repeat') AND NOT EXISTS (
        SELECT FROM kept_raw k
        WHERE k.stream_id = h.stream_id AND k.generation = h.generation
          AND k.chunk_index BETWEEN h.first_index AND h.last_index
    )

    UNION ALL
    SELECT orphan.stream_id, NULL, NULL, NULL, 'orphan', format('rows in %s, but no stream', orphan.name)
    FROM (
        SELECT g.stream_id, 'segments' AS name FROM segment g
        UNION SELECT h.stream_id, 'holes' FROM hole h
        UNION SELECT k.stream_id, 'quarantine' FROM kept_raw k
    ) orphan
    WHERE NOT EXISTS (SELECT FROM stream s WHERE s.id = orphan.stream_id);
END;

COMMENT ON FUNCTION tailrace.verify_accounts(bigint) IS
    'One row for each violation of the archive''s accounts, of one stream or (null) of all; none: all is well.';
