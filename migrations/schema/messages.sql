-- The parts of AI SDK messages.

-- The parts of the AI SDK messages (UI message stream) of one stream, of these kinds only (null: all). Chunks that
-- can't play a part are left out by their text, unread: what counts has its kind in its type, or begins or resets a
-- message or a step. A backslash may hide any word. Nothing of a stream above 512 MiB, as in view message_parts: a text
-- of 1 GB is an error.
CREATE FUNCTION tailrace.parts_of_stream(p_stream_id bigint, p_kinds text[]) RETURNS TABLE (
    generation int, message int, superseded boolean, step int, first_index bigint, last_index bigint, kind text,
    part_id text, text text, tool_call_id text, tool_name text, state text, input json, output json, error_text text,
    data json, first_at timestamptz, last_at timestamptz
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER COST 100000 ROWS 20
BEGIN ATOMIC
    WITH word AS (
        SELECT '%' || replace(replace(replace(w, '\', '\\'), '%', '\%'), '_', '\_') || '%' AS pattern
        FROM unnest(p_kinds || '{start,reset-step,"\\"}'::text[]) w
    ), readable AS MATERIALIZED (
        SELECT
            g.generation, c.chunk_index, c.emitted_at,
            CASE WHEN g.odd THEN tailrace.mended(c.data_text)::json ELSE c.data END AS data
        FROM tailrace.segments g
        CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
        WHERE g.stream_id = p_stream_id
          AND (p_kinds IS NULL OR c.data_text LIKE ANY (ARRAY(SELECT w.pattern FROM word w)))
          AND (SELECT s.byte_count <= 536870912 FROM tailrace.streams s WHERE s.id = p_stream_id)
    ), chunk AS MATERIALIZED (
        -- Only chunks that say their type as a string; a part of any other shape has none. OFFSET 0: read once.
        SELECT d.generation, d.chunk_index, d.emitted_at, d.data, t.type
        FROM readable d
        CROSS JOIN LATERAL (
            SELECT CASE WHEN json_typeof(d.data) = 'object' THEN d.data -> 'type' END AS said OFFSET 0
        ) s
        CROSS JOIN LATERAL (
            SELECT CASE WHEN json_typeof(s.said) = 'string' THEN s.said #>> '{}' END AS type OFFSET 0
        ) t
        WHERE t.type IS NOT NULL
    ), placed AS (
        SELECT
            c.*,
            (count(*) FILTER (WHERE c.type = 'start') OVER upto)::int AS message,
            count(*) FILTER (WHERE c.type = 'start') OVER (PARTITION BY c.generation) AS messages,
            (count(*) FILTER (WHERE c.type = 'start-step') OVER upto)::int AS step,
            CASE
                WHEN c.type IN ('text-start', 'text-delta', 'text-end') THEN 'text'
                WHEN c.type IN ('reasoning-start', 'reasoning-delta', 'reasoning-end') THEN 'reasoning'
                WHEN c.type LIKE 'tool-%' THEN 'tool'
                WHEN c.type = 'error' THEN 'error'
                WHEN c.type IN ('source-url', 'source-document', 'file', 'custom') OR c.type LIKE 'data-%' THEN c.type
            END AS kind
        FROM chunk c
        WINDOW upto AS (PARTITION BY c.generation ORDER BY c.chunk_index)
    ), reset AS (
        SELECT p.generation, p.message, p.step, max(p.chunk_index) AS chunk_index
        FROM placed p WHERE p.type = 'reset-step' GROUP BY 1, 2, 3
    ), part AS (
        SELECT
            p.*,
            CASE WHEN p.kind IN ('text', 'reasoning') THEN p.data ->> 'id' END AS block_id,
            CASE WHEN p.kind = 'tool' THEN p.data ->> 'toolCallId' END AS call_id,
            coalesce(p.chunk_index < r.chunk_index, false) AS taken_back
        FROM placed p
        LEFT JOIN reset r ON r.generation = p.generation AND r.message = p.message AND r.step = p.step
        WHERE p.kind = ANY (p_kinds) OR (p_kinds IS NULL AND p.kind IS NOT NULL)
    ), block AS (
        -- Text and reasoning: a block begins at each start, and ids are used again. A tool call is what has one id.
        -- Everything else stands alone.
        SELECT
            p.*,
            CASE p.kind
                WHEN 'text' THEN count(*) FILTER (WHERE p.type = 'text-start') OVER same
                WHEN 'reasoning' THEN count(*) FILTER (WHERE p.type = 'reasoning-start') OVER same
                WHEN 'tool' THEN CASE WHEN p.call_id IS NULL THEN p.chunk_index ELSE -1 END
                ELSE p.chunk_index
            END AS use_of_id
        FROM part p
        WINDOW same AS (PARTITION BY p.generation, p.message, p.kind, p.block_id ORDER BY p.chunk_index)
    )
    SELECT
        b.generation, b.message, b.message < max(b.messages) OR bool_and(b.taken_back), max(b.step),
        min(b.chunk_index), max(b.chunk_index), b.kind, b.block_id,
        CASE WHEN b.kind IN ('text', 'reasoning') THEN string_agg(
            CASE json_typeof(coalesce(b.data -> 'delta', b.data -> 'text'))
                WHEN 'string' THEN coalesce(b.data ->> 'delta', b.data ->> 'text')
            END, '' ORDER BY b.chunk_index
        ) END,
        b.call_id,
        (array_agg(b.data ->> 'toolName' ORDER BY b.chunk_index)
            FILTER (WHERE b.kind = 'tool' AND b.data -> 'toolName' IS NOT NULL))[1],
        CASE WHEN b.kind IN ('text', 'reasoning', 'tool')
            THEN (array_agg(b.type ORDER BY b.chunk_index DESC))[1]
        END,
        (array_agg(b.data -> 'input' ORDER BY b.chunk_index DESC)
            FILTER (WHERE b.kind = 'tool' AND b.data -> 'input' IS NOT NULL))[1],
        (array_agg(b.data -> 'output' ORDER BY b.chunk_index DESC)
            FILTER (WHERE b.kind = 'tool' AND b.data -> 'output' IS NOT NULL))[1],
        (array_agg(b.data ->> 'errorText' ORDER BY b.chunk_index DESC)
            FILTER (WHERE b.kind IN ('tool', 'error') AND b.data -> 'errorText' IS NOT NULL))[1],
        CASE WHEN b.kind NOT IN ('text', 'reasoning', 'tool')
            THEN (array_agg(b.data ORDER BY b.chunk_index))[1]
        END,
        min(b.emitted_at), max(b.emitted_at)
    FROM block b
    GROUP BY b.generation, b.message, b.kind, b.block_id, b.call_id, b.use_of_id;
END;

REVOKE EXECUTE ON FUNCTION tailrace.parts_of_stream(bigint, text[]) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.parts_of_stream(bigint, text[]) IS
    'The rows of view message_parts of one stream, only of these kinds (null: all).';


-- All parts of one stream. See the comment on view message_parts.
CREATE FUNCTION tailrace.parts_of_stream(p_stream_id bigint) RETURNS TABLE (
    generation int, message int, superseded boolean, step int, first_index bigint, last_index bigint, kind text,
    part_id text, text text, tool_call_id text, tool_name text, state text, input json, output json, error_text text,
    data json, first_at timestamptz, last_at timestamptz
)
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER COST 100000 ROWS 20
BEGIN ATOMIC
    SELECT * FROM tailrace.parts_of_stream(p_stream_id, NULL);
END;

REVOKE EXECUTE ON FUNCTION tailrace.parts_of_stream(bigint) FROM PUBLIC;


CREATE VIEW tailrace.message_parts AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, p.generation, p.message, p.superseded, p.step, p.first_index,
    p.last_index, p.kind, p.part_id, p.text, p.tool_call_id, p.tool_name, p.state, p.input, p.output, p.error_text,
    p.data, p.first_at, p.last_at, s.id AS stream_id
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
-- As in stream_text: no text of a part may reach Postgres' limit of 1 GB.
CROSS JOIN LATERAL tailrace.parts_of_stream(CASE WHEN s.byte_count <= 536870912 THEN s.id END) p;

COMMENT ON VIEW tailrace.message_parts IS
    'The parts of AI SDK UI messages: one row for each text, reasoning, tool call, error, source, file or data part. '
    'superseded: of an attempt that a later "start" replaced, or of a step that was reset. kind: text, reasoning, '
    'tool, error, source-url, source-document, file, custom or data-...; state: the type of the part''s last chunk, for '
    'a tool call for example tool-output-available or tool-output-error. input, output and data are JSON with U+FFFD in '
    'the place of \u0000 and of halves of surrogate pairs.';
COMMENT ON COLUMN tailrace.message_parts.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.message_parts.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.message_parts.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.message_parts.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.message_parts.message IS 'Counts the start chunks.';
COMMENT ON COLUMN tailrace.message_parts.superseded IS
    'Of an attempt that a later start replaced, or of a step that was reset.';
COMMENT ON COLUMN tailrace.message_parts.step IS 'Counts the start-step chunks.';
COMMENT ON COLUMN tailrace.message_parts.first_index IS 'Index of its first chunk.';
COMMENT ON COLUMN tailrace.message_parts.last_index IS 'Of its last.';
COMMENT ON COLUMN tailrace.message_parts.kind IS
    'text, reasoning, tool, error, source-url, source-document, file, custom, data-...';
COMMENT ON COLUMN tailrace.message_parts.part_id IS 'The id of a text or reasoning part.';
COMMENT ON COLUMN tailrace.message_parts.text IS 'Of a text or reasoning part.';
COMMENT ON COLUMN tailrace.message_parts.tool_call_id IS 'Of a tool call.';
COMMENT ON COLUMN tailrace.message_parts.tool_name IS 'Of a tool call.';
COMMENT ON COLUMN tailrace.message_parts.state IS
    'Type of its last chunk: tool-output-available, tool-output-error, text-end, ...';
COMMENT ON COLUMN tailrace.message_parts.input IS 'Of a tool call.';
COMMENT ON COLUMN tailrace.message_parts.output IS 'Of a tool call.';
COMMENT ON COLUMN tailrace.message_parts.error_text IS 'Of an error or a failed tool call.';
COMMENT ON COLUMN tailrace.message_parts.data IS 'The chunk, for every other kind.';
COMMENT ON COLUMN tailrace.message_parts.first_at IS 'Upstream''s time of its first chunk.';
COMMENT ON COLUMN tailrace.message_parts.last_at IS 'Of its last.';
COMMENT ON COLUMN tailrace.message_parts.stream_id IS
    'Ours; grows with the time at which the stream was found. stream_id >= tailrace.stream_id_at(''2026-11-01'') '
    'reads no older partition.';
