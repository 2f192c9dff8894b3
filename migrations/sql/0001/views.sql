-- What people query. Columns of these views are a contract: none may go away or change its meaning without a release
-- that says so.
--
-- A chunk is any JSON text that type json takes, and that is more than ->> and jsonb take. One chunk that they refuse
-- would fail a whole query, so no derived column may raise, whatever a chunk holds. What they refuse:
--
--   the escape \u0000, and half a surrogate pair    U+FFFD takes its place (mended)
--   numbers that numeric can't hold                 data_jsonb is null (fits_jsonb)
--   what jsonb would write out as gigabytes         data_jsonb is null (fits_jsonb)
--   more than 16 MiB                                all derived columns are null
--
-- segments.odd marks a segment that holds such a chunk; only there is this looked at, so the writer must set it
-- whenever is_odd is true of one of its chunks (worker/tailrace/wire/chunk_json.py; verify_accounts checks it), and may set it
-- without need. The rest is in the columns themselves: a key that is absent, null or of another type than was hoped
-- for, and times outside the years 1 to 9999, are null. `data` and `data_text` are the chunk as it was sent, always.


-- Whether ::jsonb takes this text, odd escapes aside, and its output stays far below Postgres' limit of 1 GB.
--
-- jsonb holds an array of up to 256 MB, needs up to six times the bytes of the text ([1,1,1,...]), and writes each
-- number out without exponent (1e999 becomes a thousand digits). numeric takes 131 072 digits before the point and
-- 16 383 after. So: up to 16 MiB; exponents of up to three digits, two above 1 MiB; fewer than 15 000 digits in a row.
CREATE FUNCTION tailrace.fits_jsonb(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE
    WHEN octet_length(p_text) > 16777216 THEN false
    -- Nearly every chunk: nothing in it even looks like such a number.
    WHEN p_text !~ '[0-9][eE][+-]?[0-9]{3}' AND octet_length(p_text) < 15000 THEN true
    -- Else look again without the strings.
    ELSE regexp_replace(p_text, '"(?:[^"\\]|\\.)*"', '', 'g') !~ CASE
            WHEN octet_length(p_text) <= 1048576 THEN '[0-9][eE][+-]?0*[1-9][0-9]{3}'
            ELSE '[0-9][eE][+-]?0*[1-9][0-9]{2}'
        END
        AND position(repeat('0', 15000) IN translate(
            regexp_replace(p_text, '"(?:[^"\\]|\\.)*"', '', 'g'), '123456789', '000000000'
        )) = 0
END;

COMMENT ON FUNCTION tailrace.fits_jsonb(text) IS
    'Whether a JSON text can be cast to jsonb and printed without an error, once its odd escapes are mended.';


-- Whether ->> or ::jsonb may refuse this JSON text. `\\u0000` is no such escape, but a backslash and then the
-- letters u0000: with each escaped backslash replaced by its equal \u005c, every \u that is left begins an escape.
-- Read from the left, pairs of backslashes are found where JSON sees them.
CREATE FUNCTION tailrace.is_odd(p_text text) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN NOT tailrace.fits_jsonb(p_text) OR (
    position('\u' IN p_text) > 0 AND replace(p_text, '\\', '\u005c') ~ (
        '\\u0000'
        '|\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})'
        '|(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}'
    )
);

COMMENT ON FUNCTION tailrace.is_odd(text) IS
    'Whether ->> or ::jsonb may refuse this JSON text: it holds \u0000, half a surrogate pair, a number that numeric '
    'can''t hold, or more than 16 MiB.';


-- The same JSON with U+FFFD in the place of \u0000 and of halves of surrogate pairs, for ->> and jsonb to read. Null
-- above 16 MiB: the regular expressions need several times that in memory.
CREATE FUNCTION tailrace.mended(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(p_text) <= 16777216 THEN
    -- last, second halves that no first half stands before
    regexp_replace(
        -- then first halves that no second half follows
        regexp_replace(
            -- first, escaped backslashes and \u0000
            replace(replace(p_text, '\\', '\u005c'), '\u0000', '\ufffd'),
            '\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})', '\\ufffd', 'g'
        ),
        '(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u[dD][c-fC-F][0-9a-fA-F]{2}', '\\ufffd', 'g'
    )
END;

COMMENT ON FUNCTION tailrace.mended(text) IS
    'A JSON text with U+FFFD in the place of \u0000 and of halves of surrogate pairs; null above 16 MiB.';


-- The chunk's `type`, when it is an object that says one as a string. Not for odd text.
CREATE FUNCTION tailrace.type_of(p_data json) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN json_typeof(p_data -> 'type') = 'string' THEN p_data ->> 'type' END;


-- The text that the chunk adds to an answer, null when it adds none. Not for odd text. The shapes are those that the
-- usual AI libraries send:
--   a string                       itself
--   AI SDK, UI or fullStream part  {"type": "text-delta", "delta" | "text" | "textDelta": "..."}
--   OpenAI Responses               {"type": "response.output_text.delta", "delta": "..."}
--   Anthropic                      {"type": "content_block_delta", "delta": {"type": "text_delta", "text": "..."}}
--   OpenAI Chat Completions        {"object": "chat.completion.chunk", "choices": [{"delta": {"content": "..."}}]}
CREATE FUNCTION tailrace.text_delta_of(p_data json) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE json_typeof(p_data)
    WHEN 'string' THEN p_data #>> '{}'
    WHEN 'object' THEN CASE p_data ->> 'type'
        WHEN 'text-delta' THEN CASE 'string'
            WHEN json_typeof(p_data -> 'delta') THEN p_data ->> 'delta'
            WHEN json_typeof(p_data -> 'text') THEN p_data ->> 'text'
            WHEN json_typeof(p_data -> 'textDelta') THEN p_data ->> 'textDelta'
        END
        WHEN 'response.output_text.delta' THEN
            CASE WHEN json_typeof(p_data -> 'delta') = 'string' THEN p_data ->> 'delta' END
        WHEN 'content_block_delta' THEN
            CASE WHEN p_data #>> '{delta,type}' = 'text_delta' AND json_typeof(p_data #> '{delta,text}') = 'string'
                THEN p_data #>> '{delta,text}'
            END
        ELSE
            CASE WHEN p_data ->> 'object' = 'chat.completion.chunk'
                      AND json_typeof(p_data #> '{choices,0,delta,content}') = 'string'
                THEN p_data #>> '{choices,0,delta,content}'
            END
    END
END;


-- A segment's chunks with their derived columns, in order. The planner puts this into the query that calls it, so
-- columns that are not asked for cost nothing. All arrays are unpacked side by side: a subscript for each element
-- would detoast the array each time.
CREATE FUNCTION tailrace.unpack(
    p_first_index bigint, p_data json, p_emitted_ms bigint[], p_index_offsets int[], p_odd boolean
) RETURNS TABLE (
    chunk_index bigint, data json, data_text text, data_jsonb jsonb, type text, text_delta text, emitted_at timestamptz
)
LANGUAGE sql IMMUTABLE PARALLEL SAFE ROWS 500
BEGIN ATOMIC
    SELECT
        p_first_index + coalesce(c.index_offset, c.n - 1),
        c.data,
        c.data::text,
        CASE WHEN p_odd
            THEN CASE WHEN tailrace.fits_jsonb(tailrace.mended(c.data::text))
                     THEN tailrace.mended(c.data::text)::jsonb
                 END
            ELSE c.data::jsonb
        END,
        CASE WHEN p_odd
            THEN tailrace.type_of(tailrace.mended(c.data::text)::json)
            ELSE tailrace.type_of(c.data)
        END,
        CASE WHEN p_odd
            THEN tailrace.text_delta_of(tailrace.mended(c.data::text)::json)
            ELSE tailrace.text_delta_of(c.data)
        END,
        CASE WHEN c.emitted_ms BETWEEN -62135596800000 AND 253402300799999
            THEN to_timestamp(c.emitted_ms::double precision / 1000)
        END
    FROM ROWS FROM (json_array_elements(p_data), unnest(p_emitted_ms), unnest(p_index_offsets))
        WITH ORDINALITY AS c (data, emitted_ms, index_offset, n);
END;


CREATE VIEW tailrace.chunks AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, g.generation, c.chunk_index, c.data, c.data_text, c.data_jsonb,
    c.type, c.text_delta, c.emitted_at, g.committed_at
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
JOIN tailrace.segments g ON g.stream_id = s.id
CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c;

COMMENT ON VIEW tailrace.chunks IS
    'Every chunk of every stream. Order by generation, chunk_index. No column raises an error, whatever a chunk holds.';
COMMENT ON COLUMN tailrace.chunks.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.chunks.data IS 'The chunk as it was sent. Operators of type json can raise on it.';
COMMENT ON COLUMN tailrace.chunks.data_text IS 'The chunk''s JSON text, byte for byte as it was sent.';
COMMENT ON COLUMN tailrace.chunks.data_jsonb IS
    'The chunk as jsonb, with U+FFFD in the place of \u0000 and of halves of surrogate pairs. Null where jsonb can''t '
    'hold it: above 16 MiB, exponents from 1000 up (100 above 1 MiB), numbers of 15 000 digits.';
COMMENT ON COLUMN tailrace.chunks.type IS 'The chunk''s "type" when that is a string.';
COMMENT ON COLUMN tailrace.chunks.text_delta IS
    'The text this chunk adds: a string chunk itself, or the delta of the AI SDK, OpenAI or Anthropic.';
COMMENT ON COLUMN tailrace.chunks.emitted_at IS 'Upstream''s time of the chunk.';
COMMENT ON COLUMN tailrace.chunks.committed_at IS 'When the chunk was committed here.';


-- The chunks of one stream between two indices, both included, in order. Reads only the segments that hold them:
-- within a generation, from the last one that begins at or before p_from to the last one that begins at or before
-- p_to.
CREATE FUNCTION tailrace.chunks_range(p_run_id text, p_stream_key text, p_from bigint, p_to bigint)
RETURNS SETOF tailrace.chunks
LANGUAGE sql STABLE PARALLEL SAFE
BEGIN ATOMIC
    SELECT
        e.name, r.run_id, s.stream_key, g.generation, c.chunk_index, c.data, c.data_text, c.data_jsonb,
        c.type, c.text_delta, c.emitted_at, g.committed_at
    FROM tailrace.runs r
    JOIN tailrace.environments e ON e.id = r.environment_id
    JOIN tailrace.streams s ON s.run = r.id
    -- As an array, because the planner takes it for 10 rows and a bare generate_series for 1000.
    CROSS JOIN LATERAL unnest(ARRAY(SELECT generate_series(0, s.generation))) AS every (generation)
    CROSS JOIN LATERAL (
        SELECT coalesce((
            SELECT h.first_index FROM tailrace.segments h
            WHERE h.stream_id = s.id AND h.generation = every.generation AND h.first_index <= p_from
            ORDER BY h.first_index DESC LIMIT 1
        ), 0) AS first_index
        OFFSET 0
    ) head
    CROSS JOIN LATERAL (
        SELECT * FROM tailrace.segments h
        WHERE h.stream_id = s.id AND h.generation = every.generation
          AND h.first_index BETWEEN head.first_index AND p_to
        OFFSET 0  -- keeps the lookup by primary key, whatever the statistics say
    ) g
    CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
    WHERE r.run_id = p_run_id AND s.stream_key = p_stream_key AND c.chunk_index BETWEEN p_from AND p_to
    ORDER BY e.name, g.generation, c.chunk_index;
END;

COMMENT ON FUNCTION tailrace.chunks_range(text, text, bigint, bigint) IS
    'Rows of view chunks of one stream with chunk_index from p_from to p_to, in order, of every generation.';


-- The text of one stream: one row for each generation that has chunks. See the comment on view stream_text.
CREATE FUNCTION tailrace.text_of_stream(p_stream_id bigint) RETURNS TABLE (generation int, text text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1
BEGIN ATOMIC
    WITH readable AS MATERIALIZED (
        SELECT
            g.generation, c.chunk_index,
            CASE WHEN g.odd THEN tailrace.mended(c.data_text)::json ELSE c.data END AS data
        FROM tailrace.segments g
        CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
        WHERE g.stream_id = p_stream_id
    ), part AS MATERIALIZED (
        SELECT
            d.generation, d.chunk_index, d.data ->> 'type' AS type, tailrace.text_delta_of(d.data) AS delta,
            coalesce(d.data ->> 'id', d.data #>> '{choices,0,index}') AS block_id
        FROM readable d
    ), message AS (
        -- Where the last message begins, if this is a stream of messages in parts at all.
        SELECT
            p.generation,
            CASE WHEN bool_or(p.type IN ('text-start', 'text-delta'))
                THEN max(p.chunk_index) FILTER (WHERE p.type = 'start')
            END AS start_index
        FROM part p GROUP BY p.generation
    ), taken_back AS (
        -- From the beginning of a step to its reset.
        SELECT
            step.generation, step.first_index, step.chunk_index AS last_index
        FROM (
            SELECT
                p.generation, p.chunk_index, p.type,
                max(p.chunk_index) FILTER (WHERE p.type <> 'reset-step')
                    OVER (PARTITION BY p.generation ORDER BY p.chunk_index) AS first_index
            FROM part p WHERE p.type IN ('start', 'start-step', 'reset-step')
        ) step
        WHERE step.type = 'reset-step'
    ), block AS (
        -- A block begins at each text-start; steps use the same ids again.
        SELECT b.generation, b.block_id, b.use_of_id, min(b.chunk_index) AS began_at,
               string_agg(b.delta, '' ORDER BY b.chunk_index) AS text
        FROM (
            SELECT
                p.generation, p.chunk_index, p.delta, p.block_id,
                count(*) FILTER (WHERE p.type = 'text-start')
                    OVER (PARTITION BY p.generation, p.block_id ORDER BY p.chunk_index) AS use_of_id
            FROM part p JOIN message m ON m.generation = p.generation
            WHERE (p.delta <> '' OR p.type = 'text-start')
              AND (m.start_index IS NULL OR p.chunk_index > m.start_index)
              AND NOT EXISTS (
                  SELECT FROM taken_back t
                  WHERE t.generation = p.generation
                    AND p.chunk_index BETWEEN coalesce(t.first_index, 0) AND t.last_index
              )
        ) b
        GROUP BY b.generation, b.block_id, b.use_of_id
    )
    SELECT m.generation, string_agg(b.text, E'\n\n' ORDER BY b.began_at)
    FROM message m LEFT JOIN block b ON b.generation = m.generation
    GROUP BY m.generation;
END;


CREATE VIEW tailrace.stream_text AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, coalesce(t.generation, s.generation) AS generation, t.text
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
-- A text of 1 GB is an error in Postgres, and the text is never longer than the chunks.
LEFT JOIN LATERAL tailrace.text_of_stream(CASE WHEN s.byte_count <= 536870912 THEN s.id END) t ON true;

COMMENT ON VIEW tailrace.stream_text IS
    'The text of each stream, put together from text_delta; one row for each generation. Null: no chunk with text, or '
    'more than 512 MiB of chunks. A stream of AI SDK messages (it has text-start or text-delta): the text of the last '
    'message only, because a second "start" is nearly always a retry of the whole answer; without the text of a step '
    'that "reset-step" took back; blocks (text-start to text-end of one id) in the order in which they began, joined '
    'by a blank line. Chat Completions with several choices: one block for each. Any other stream: its deltas one '
    'after the other. Strings that hold JSON are taken as they are. \u0000 and halves of surrogate pairs appear as '
    'U+FFFD.';


-- What was lost upstream, and is not in the archive.
CREATE VIEW tailrace.gaps AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, h.generation, h.first_index, h.last_index,
    h.last_index - h.first_index + 1 AS lost, h.reason, h.detected_at
FROM tailrace.holes h
JOIN tailrace.streams s ON s.id = h.stream_id
JOIN tailrace.runs r ON r.id = s.run
JOIN tailrace.environments e ON e.id = r.environment_id
WHERE h.reason IN ('trimmed', 'expired', 'recreated');

COMMENT ON VIEW tailrace.gaps IS
    'Chunks that upstream dropped before they were read. last_index and lost are null when their number is unknown: '
    'then the loss lies before first_index.';


-- What could not be decoded or stored, raw.
CREATE VIEW tailrace.quarantined AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, q.generation, q.chunk_index, q.reason, q.raw, q.detected_at
FROM tailrace.quarantine q
JOIN tailrace.streams s ON s.id = q.stream_id
JOIN tailrace.runs r ON r.id = s.run
JOIN tailrace.environments e ON e.id = r.environment_id;

COMMENT ON VIEW tailrace.quarantined IS 'Records that could not be chunks (or repeat one), as they came.';
