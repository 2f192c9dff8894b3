-- The parts of AI SDK messages, as the AI SDK itself makes them of their chunks.

-- The JSON that the beginning of a JSON text says already: open strings, arrays and objects are closed, what is not
-- whole yet is left out. Null where it says nothing yet or is no JSON; above 16 MiB and 500 levels too. It is what
-- parsePartialJson of the AI SDK returns (npm ai 7.0.173, src/util/fix-json.ts).
CREATE FUNCTION tailrace.partial_json(p_text text) RETURNS json
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    token  text;
    -- What may come: value, first (a value or the end of an array), key, first-key, colon, next (a comma or an end).
    wanted text := 'value';
    open   text := '';
    place  int := 0;
    whole  int := 0;
    ending text := '';
    ends   text := '';
BEGIN
    IF octet_length(p_text) > 16777216 THEN
        RETURN NULL;
    END IF;
    FOR token IN
        SELECT m[1] FROM regexp_matches(
            p_text,
            '([ \t\n\r]+|"(?:[^"\\\u0001-\u001f]|\\["\\/bfnrt]|\\u[0-9a-fA-F]{4})*"?|[-+.0-9a-zA-Z]+|.)', 'g'
        ) m
    LOOP
        place := place + length(token);
        CONTINUE WHEN token ~ '^[ \t\n\r]';
        IF wanted IN ('value', 'first') AND token IN ('{', '[') THEN
            open := token || open;
            wanted := CASE token WHEN '{' THEN 'first-key' ELSE 'first' END;
            whole := place;
            ends := CASE token WHEN '{' THEN '}' ELSE ']' END || ends;
            ending := '';
            IF length(open) > 500 THEN
                RETURN NULL;
            END IF;
        ELSIF token IN ('}', ']') AND wanted IN ('next', 'first', 'first-key') AND left(ends, 1) = token THEN
            open := substr(open, 2);
            ends := substr(ends, 2);
            wanted := 'next';
            whole := place;
            ending := '';
        ELSIF token = ',' AND wanted = 'next' AND open <> '' THEN
            wanted := CASE left(open, 1) WHEN '{' THEN 'key' ELSE 'value' END;
        ELSIF token = ':' AND wanted = 'colon' THEN
            wanted := 'value';
        ELSIF left(token, 1) = '"' AND wanted IN ('key', 'first-key') THEN
            EXIT WHEN length(token) < 2 OR right(token, 1) <> '"' OR token ~ '[^\\](\\\\)*\\"$';
            wanted := 'colon';
        ELSIF left(token, 1) = '"' AND wanted IN ('value', 'first') THEN
            wanted := 'next';
            whole := place;
            IF length(token) < 2 OR right(token, 1) <> '"' OR token ~ '[^\\](\\\\)*\\"$' THEN
                -- The text ends in it, perhaps within an escape.
                IF substr(p_text, place + 1) !~ '^(\\(u[0-9a-fA-F]{0,3})?)?$' THEN
                    RETURN NULL;
                END IF;
                ending := '"';
                EXIT;
            END IF;
            ending := '';
        ELSIF wanted IN ('value', 'first') AND token ~ '^-?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?$' THEN
            wanted := 'next';
            whole := place;
            ending := '';
        ELSIF wanted IN ('value', 'first') AND token IN ('true', 'false', 'null') THEN
            wanted := 'next';
            whole := place;
            ending := '';
        ELSIF wanted IN ('value', 'first') AND place = length(p_text) THEN
            -- The beginning of a number or of a word.
            IF token ~ '^-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?)?$' THEN
                whole := place - length(substring(token FROM '[^0-9]*$'));
                ending := '';
            ELSIF position(token IN 'true') = 1 THEN
                whole := place;
                ending := substr('true', length(token) + 1);
            ELSIF position(token IN 'false') = 1 THEN
                whole := place;
                ending := substr('false', length(token) + 1);
            ELSIF position(token IN 'null') = 1 THEN
                whole := place;
                ending := substr('null', length(token) + 1);
            ELSIF token ~ '^-?[0-9]' THEN
                RETURN NULL;
            END IF;
        ELSE
            -- No JSON: what was there before counts, save in an array, where the AI SDK gives all of it up.
            EXIT WHEN CASE WHEN wanted IN ('value', 'first') THEN token !~ '^-?[0-9]'
                          ELSE wanted <> 'next' OR left(open, 1) <> '[' END;
            RETURN NULL;
        END IF;
    END LOOP;
    IF whole = 0 THEN
        RETURN NULL;
    END IF;
    RETURN tailrace.mended(left(p_text, whole) || ending || ends)::json;
END
$$;

COMMENT ON FUNCTION tailrace.partial_json(text) IS
    'The JSON that the beginning of a JSON text says already, as parsePartialJson of the AI SDK has it.';


-- The parts of the AI SDK messages (UI message stream) of one stream, of these kinds only (null: all). Chunks that
-- can't play a part are left out by their text, unread: what counts has its kind in its type, or begins or resets a
-- message or a step. A backslash may hide any word. Nothing of a stream above 512 MiB, as in view message_parts: a text
-- of 1 GB is an error.
--
-- The rules are those of npm ai 7.0.173 (src/ui/process-ui-message-stream.ts); tests/data/messages/ holds what it
-- makes of many streams. What it keeps as it goes (which parts can still be added to) are counts over the chunks
-- before each here:
--
--   place    start-steps and reset-steps so far: grows at each, so the parts of one place are those of one step
--   resets   reset-steps so far: each forgets the texts, reasonings and tool inputs that were open
--   removed  whether a reset-step takes back the parts of this place
CREATE FUNCTION tailrace.parts_of_stream(p_stream_id bigint, p_kinds text[]) RETURNS TABLE (
    generation int, message int, superseded boolean, step int, first_index bigint, last_index bigint, kind text,
    part_id text, text text, tool_call_id text, tool_name text, state text, input json, output json, error_text text,
    data json, first_at timestamptz, last_at timestamptz, raw_input text, refused boolean
)
LANGUAGE sql STABLE PARALLEL SAFE SECURITY DEFINER COST 100000 ROWS 20
BEGIN ATOMIC
    WITH word AS (
        SELECT '%' || replace(replace(replace(w, '\', '\\'), '%', '\%'), '_', '\_') || '%' AS pattern
        FROM unnest(p_kinds || '{start,reset-step,"\\"}'::text[]) w
    ), chunk AS MATERIALIZED (
        -- Only chunks that say their type. OFFSET 0: read once. A type that is no string is none of those below either.
        SELECT t.*
        FROM (
            SELECT d.*, d.data ->> 'type' AS type
            FROM (
                SELECT
                    g.generation, c.chunk_index, c.emitted_at, g.odd,
                    CASE WHEN g.odd THEN tailrace.with_halves(c.data_text)::json ELSE c.data END AS data
                FROM tailrace.segments g
                CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
                WHERE g.stream_id = p_stream_id
                  AND (p_kinds IS NULL OR c.data_text LIKE ANY (ARRAY(SELECT w.pattern FROM word w)))
                  AND (SELECT s.byte_count <= 536870912 FROM tailrace.streams s WHERE s.id = p_stream_id)
                OFFSET 0
            ) d
            OFFSET 0
        ) t
        WHERE t.type IS NOT NULL
    ), start AS (
        -- Which starts begin a message: see the comment on view message_parts.
        SELECT
            c.generation, c.chunk_index,
            row_number() OVER upto > 1 OR coalesce(c.data ->> 'messageId', '') <> '' AS begins,
            row_number() OVER upto = 1 AND c.data ->> 'messageId' IS NULL AS is_plain_first
        FROM chunk c WHERE c.type = 'start'
        WINDOW upto AS (PARTITION BY c.generation ORDER BY c.chunk_index)
    ), counted AS (
        SELECT
            s.generation, bool_or(s.is_plain_first)::int AS first,
            (bool_or(s.is_plain_first)::int + count(*) FILTER (WHERE s.begins))::int AS last
        FROM start s GROUP BY s.generation
    ), placed AS (
        SELECT
            c.*,
            (coalesce(n.first, 0) + count(*) FILTER (WHERE s.begins) OVER upto)::int AS message,
            coalesce(n.last, 0) AS last_message,
            (count(*) FILTER (WHERE c.type = 'start-step') OVER upto)::int AS step,
            count(*) FILTER (WHERE c.type = 'reset-step') OVER upto AS resets,
            CASE
                WHEN c.type IN ('text-start', 'text-delta', 'text-end') THEN 'text'
                WHEN c.type IN ('reasoning-start', 'reasoning-delta', 'reasoning-end') THEN 'reasoning'
                WHEN c.type IN (
                    'tool-input-start', 'tool-input-delta', 'tool-input-available', 'tool-input-error',
                    'tool-output-available', 'tool-output-error', 'tool-output-denied', 'tool-approval-request',
                    'tool-approval-response', 'tool-call', 'tool-result', 'tool-error'
                ) THEN 'tool'
                WHEN c.type IN ('source-url', 'source-document', 'file', 'reasoning-file', 'custom', 'steering-message')
                    THEN c.type
                WHEN c.type LIKE 'data-%' THEN CASE WHEN c.data ->> 'transient' = 'true' THEN NULL ELSE c.type END
            END AS kind
        FROM chunk c
        LEFT JOIN start s ON s.generation = c.generation AND s.chunk_index = c.chunk_index
        LEFT JOIN counted n ON n.generation = c.generation
        WINDOW upto AS (PARTITION BY c.generation ORDER BY c.chunk_index)
    ), reset AS (
        SELECT DISTINCT p.generation, p.message, p.step, p.resets - 1 AS resets FROM placed p WHERE p.type = 'reset-step'
    ), part AS (
        SELECT
            p.*, p.step + p.resets AS place, r.resets IS NOT NULL AS removed,
            CASE WHEN p.kind IN ('text', 'reasoning') OR p.kind LIKE 'data-%' THEN p.data ->> 'id' END AS block_id,
            CASE WHEN p.kind IN ('text', 'reasoning') THEN coalesce(p.data -> 'delta', p.data -> 'text') END AS delta,
            CASE WHEN p.kind = 'tool' THEN coalesce(p.data ->> 'toolCallId', p.data ->> 'id') END AS call_id,
            CASE WHEN p.type IN ('tool-approval-request', 'tool-approval-response')
                THEN p.data ->> 'approvalId'
            END AS approval_id
        FROM placed p
        LEFT JOIN reset r
            ON r.generation = p.generation AND r.message = p.message AND r.step = p.step AND r.resets = p.resets
        WHERE p.kind = ANY (p_kinds) OR (p_kinds IS NULL AND p.kind IS NOT NULL)
    ), tool AS (
        -- typing: which of the inputs that were typed (a start and its deltas) this belongs to; 0: before any start.
        SELECT
            p.*, count(*) FILTER (WHERE p.type = 'tool-input-start') OVER open AS typing,
            CASE WHEN p.type = 'tool-input-delta' THEN CASE
                WHEN p.odd THEN coalesce(p.data ->> 'inputTextDelta', p.data ->> 'delta')
                ELSE replace(
                    coalesce(p.data ->> 'inputTextDelta', p.data ->> 'delta'), U&'\FDD0', U&'\FDD0' || '0'
                )
            END END AS typed,
            max(p.chunk_index) FILTER (WHERE p.type = 'tool-approval-request') OVER asked AS asked_at
        FROM part p
        WHERE p.kind = 'tool'
        WINDOW
            open AS (PARTITION BY p.generation, p.message, p.resets, p.call_id ORDER BY p.chunk_index),
            asked AS (PARTITION BY p.generation, p.message, p.approval_id ORDER BY p.chunk_index)
    ), call AS (
        -- What is typed before any start is refused.
        SELECT
            t.*, CASE WHEN t.typing = 0 THEN t.place ELSE -1 END AS typed_at,
            t.call_id IS NOT NULL AND (
                t.type IN ('tool-input-start', 'tool-input-available', 'tool-input-error', 'tool-call')
                OR (t.type = 'tool-input-delta' AND t.typing > 0)
            ) AS is_input
        FROM tool t
    ), input AS (
        SELECT
            c.generation, c.message, c.resets, c.call_id, c.typing, c.typed_at,
            string_agg(c.typed, '' ORDER BY c.chunk_index) AS typed,
            min(c.data ->> 'toolName') FILTER (WHERE c.type = 'tool-input-start') AS tool_name,
            bool_or(c.type = 'tool-input-start' AND c.data ->> 'inputEncoding' = 'text') AS is_text
        FROM call c
        WHERE c.type IN ('tool-input-start', 'tool-input-delta')
        GROUP BY c.generation, c.message, c.resets, c.call_id, c.typing, c.typed_at
    ), aimed AS (
        -- Inputs make or change the part of this step; all else goes to it, or else to the last one that there is.
        SELECT
            c.*,
            sum(length(c.typed)) OVER (
                PARTITION BY c.generation, c.message, c.resets, c.call_id, c.typing, c.typed_at ORDER BY c.chunk_index
            ) AS typed_so_far,
            CASE
                WHEN c.call_id IS NULL OR (c.type = 'tool-input-delta' AND NOT c.is_input) THEN NULL
                WHEN count(*) FILTER (WHERE c.is_input) OVER here > 0 THEN c.place
                ELSE max(c.place) FILTER (WHERE c.is_input AND NOT c.removed) OVER ever
            END AS of_place
        FROM call c
        WINDOW
            here AS (PARTITION BY c.generation, c.message, c.call_id, c.place ORDER BY c.chunk_index),
            ever AS (PARTITION BY c.generation, c.message, c.call_id ORDER BY c.chunk_index)
    ), request AS (
        SELECT
            a.generation, a.chunk_index, a.call_id, a.of_place,
            lead(a.chunk_index) OVER (
                PARTITION BY a.generation, a.message, a.call_id, a.of_place ORDER BY a.chunk_index
            ) AS next_at
        FROM aimed a
        WHERE a.type = 'tool-approval-request' AND a.of_place IS NOT NULL
    ), answered AS (
        -- The answer to a request goes where the request went, unless that was taken back or asked anew.
        SELECT
            a.*,
            CASE WHEN a.type = 'tool-approval-response' THEN q.call_id ELSE a.call_id END AS of_call,
            CASE WHEN a.type = 'tool-approval-response'
                THEN CASE WHEN q.of_place = a.place OR NOT EXISTS (
                         SELECT FROM reset r
                         WHERE r.generation = a.generation AND r.message = a.message
                           AND r.step + r.resets = q.of_place
                     ) THEN q.of_place END
                ELSE a.of_place
            END AS at_place
        FROM aimed a
        LEFT JOIN request q ON a.type = 'tool-approval-response'
            AND q.generation = a.generation AND q.chunk_index = a.asked_at
            AND (q.next_at IS NULL OR q.next_at > a.chunk_index)
    ), block AS (
        -- Text and reasoning: from start to end, in one piece between resets; deltas without a start are parts of
        -- their own. Data with an id: the part that there is. Everything else stands alone.
        SELECT
            p.generation, p.message, p.last_message, p.step, p.chunk_index, p.emitted_at, p.odd, p.delta, p.type, p.kind,
            p.removed, p.block_id, NULL::text AS call_id,
            CASE
                WHEN p.kind IN ('text', 'reasoning') THEN
                    count(*) FILTER (WHERE p.type IN ('text-start', 'reasoning-start')) OVER same
                    + count(*) FILTER (WHERE p.type IN ('text-end', 'reasoning-end')) OVER same
                    - (p.type IN ('text-end', 'reasoning-end'))::int
                WHEN p.kind NOT LIKE 'data-%' OR p.block_id IS NULL THEN p.chunk_index
                WHEN count(*) FILTER (WHERE NOT p.removed) OVER same > 0 THEN -1
                ELSE p.place
            END AS use_of_id,
            CASE WHEN p.kind IN ('text', 'reasoning') THEN p.resets ELSE 0 END AS resets,
            false AS refused, false AS is_input
        FROM part p
        WHERE p.kind <> 'tool'
        WINDOW same AS (
            PARTITION BY
                p.generation, p.message, p.kind, p.block_id,
                CASE WHEN p.kind IN ('text', 'reasoning') THEN p.resets ELSE 0 END
            ORDER BY p.chunk_index
        )
        UNION ALL
        SELECT
            a.generation, a.message, a.last_message, a.step, a.chunk_index, a.emitted_at, a.odd, NULL, a.type, a.kind,
            a.removed, NULL, a.of_call,
            CASE WHEN a.of_call IS NULL THEN a.chunk_index ELSE coalesce(a.at_place, a.place) END,
            0, a.at_place IS NULL, a.is_input OR a.type = 'tool-input-delta'
        FROM answered a
    ), made AS (
        SELECT
            b.generation, b.message, b.kind, b.block_id, b.call_id,
            b.message < max(b.last_message)
                OR coalesce(min(b.chunk_index) FILTER (WHERE b.removed) = min(b.chunk_index), false) AS superseded,
            min(b.step) AS step, min(b.chunk_index) AS first_index, max(b.chunk_index) AS last_index,
            min(b.emitted_at) AS first_at, max(b.emitted_at) AS last_at,
            CASE
                WHEN b.kind IN ('text', 'reasoning') THEN NOT bool_or(b.type IN ('text-start', 'reasoning-start'))
                ELSE b.refused
            END AS refused,
            CASE WHEN b.kind IN ('text', 'reasoning') THEN coalesce(string_agg(
                CASE WHEN json_typeof(b.delta) = 'string' THEN CASE
                    WHEN b.odd THEN b.delta #>> '{}'
                    ELSE replace(b.delta #>> '{}', U&'\FDD0', U&'\FDD0' || '0')
                END END, '' ORDER BY b.chunk_index
            ), '') END AS text,
            max(b.chunk_index) FILTER (WHERE b.is_input) AS input_at,
            -- Each of these writes output and error anew, or data.
            max(b.chunk_index) FILTER (WHERE b.kind NOT IN ('text', 'reasoning') AND b.type NOT IN (
                'tool-approval-request', 'tool-approval-response', 'tool-output-denied')) AS changed_at
        FROM block b
        GROUP BY b.generation, b.message, b.kind, b.block_id, b.call_id, b.use_of_id, b.resets, b.refused
    )
    SELECT
        m.generation, m.message, m.superseded, m.step, m.first_index, m.last_index, m.kind, m.block_id,
        tailrace.rejoined(m.text), m.call_id,
        CASE i.type WHEN 'tool-input-delta' THEN y.tool_name ELSE coalesce(i.data, c.data) ->> 'toolName' END,
        CASE WHEN m.kind IN ('text', 'reasoning', 'tool') THEN l.type END,
        CASE
            WHEN i.type = 'tool-input-delta' THEN CASE WHEN y.is_text
                THEN to_json(tailrace.rejoined(left(y.typed, i.typed_so_far::int)))
                ELSE tailrace.partial_json(tailrace.rejoined(left(y.typed, i.typed_so_far::int)))
            END
            WHEN i.odd THEN tailrace.rejoined((i.data -> 'input')::text)::json
            ELSE i.data -> 'input'
        END,
        CASE WHEN c.type IN ('tool-output-available', 'tool-result') THEN CASE
            WHEN c.odd THEN tailrace.rejoined((c.data -> 'output')::text)::json ELSE c.data -> 'output'
        END END,
        CASE WHEN c.type IN ('tool-output-error', 'tool-input-error', 'tool-error') THEN CASE
            WHEN c.odd THEN tailrace.rejoined(coalesce(c.data ->> 'errorText', c.data ->> 'error'))
            ELSE coalesce(c.data ->> 'errorText', c.data ->> 'error')
        END END,
        CASE WHEN m.kind NOT IN ('text', 'reasoning', 'tool') THEN CASE
            WHEN c.odd THEN tailrace.rejoined(c.data::text)::json ELSE c.data
        END END,
        m.first_at, m.last_at,
        CASE WHEN i.type = 'tool-input-delta' THEN tailrace.rejoined(left(y.typed, i.typed_so_far::int)) END,
        m.refused
    FROM made m
    LEFT JOIN chunk l ON l.generation = m.generation AND l.chunk_index = m.last_index
    LEFT JOIN chunk c ON c.generation = m.generation AND c.chunk_index = m.changed_at
    LEFT JOIN aimed i ON i.generation = m.generation AND i.chunk_index = m.input_at
    LEFT JOIN input y ON i.type = 'tool-input-delta' AND y.generation = i.generation AND y.message = i.message
        AND y.resets = i.resets AND y.call_id = i.call_id AND y.typing = i.typing AND y.typed_at = i.typed_at;
END;

REVOKE EXECUTE ON FUNCTION tailrace.parts_of_stream(bigint, text[]) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.parts_of_stream(bigint, text[]) IS
    'The rows of view message_parts of one stream, only of these kinds (null: all).';


-- All parts of one stream. See the comment on view message_parts.
CREATE FUNCTION tailrace.parts_of_stream(p_stream_id bigint) RETURNS TABLE (
    generation int, message int, superseded boolean, step int, first_index bigint, last_index bigint, kind text,
    part_id text, text text, tool_call_id text, tool_name text, state text, input json, output json, error_text text,
    data json, first_at timestamptz, last_at timestamptz, raw_input text, refused boolean
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
    p.data, p.first_at, p.last_at, s.id AS stream_id, p.raw_input, p.refused
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
-- As in stream_text: no text of a part may reach Postgres' limit of 1 GB.
CROSS JOIN LATERAL tailrace.parts_of_stream(CASE WHEN s.byte_count <= 536870912 THEN s.id END) p;

COMMENT ON VIEW tailrace.message_parts IS
    'The parts of AI SDK UI messages, as readUIMessageStream of the AI SDK (npm ai 7) makes them: one row for each text, '
    'reasoning, tool call, source, file or data part, in the order of first_index; its step-start parts are the numbers '
    'in step. A "start" begins a message, unless it is the first and names none (messageId). A later one that names none '
    'or the same begins one too, where the AI SDK would go on: a task that is tried again '
    'writes that. superseded: of a message that a later one replaced, or of a step that was reset. refused: chunks that '
    'the AI SDK fails on (a delta or an end without a start, an output without its call), as a part of their own. state: '
    'the type of the part''s last chunk, for a tool call for example tool-output-available or tool-output-error. input, '
    'output and data are JSON with U+FFFD in the place of \u0000 and of halves of surrogate pairs.';
COMMENT ON COLUMN tailrace.message_parts.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.message_parts.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.message_parts.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.message_parts.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.message_parts.message IS 'Counts the messages.';
COMMENT ON COLUMN tailrace.message_parts.superseded IS
    'Of a message that a later one replaced, or of a step that was reset.';
COMMENT ON COLUMN tailrace.message_parts.step IS 'Counts the start-step chunks before it.';
COMMENT ON COLUMN tailrace.message_parts.first_index IS 'Index of its first chunk.';
COMMENT ON COLUMN tailrace.message_parts.last_index IS 'Of its last.';
COMMENT ON COLUMN tailrace.message_parts.kind IS
    'text, reasoning, tool, source-url, source-document, file, reasoning-file, custom, steering-message, data-...';
COMMENT ON COLUMN tailrace.message_parts.part_id IS 'The id of a text, reasoning or data part.';
COMMENT ON COLUMN tailrace.message_parts.text IS 'Of a text or reasoning part.';
COMMENT ON COLUMN tailrace.message_parts.tool_call_id IS 'Of a tool call.';
COMMENT ON COLUMN tailrace.message_parts.tool_name IS 'Of a tool call.';
COMMENT ON COLUMN tailrace.message_parts.state IS
    'Type of its last chunk: tool-output-available, tool-output-error, text-end, ...';
COMMENT ON COLUMN tailrace.message_parts.input IS 'Of a tool call; as far as it came, where it never came whole.';
COMMENT ON COLUMN tailrace.message_parts.output IS 'Of a tool call.';
COMMENT ON COLUMN tailrace.message_parts.error_text IS 'Of a failed tool call.';
COMMENT ON COLUMN tailrace.message_parts.data IS
    'The chunk, for every other kind; the last one of data with the same id.';
COMMENT ON COLUMN tailrace.message_parts.first_at IS 'Upstream''s time of its first chunk.';
COMMENT ON COLUMN tailrace.message_parts.last_at IS 'Of its last.';
COMMENT ON COLUMN tailrace.message_parts.stream_id IS
    'Ours; grows with the time at which the stream was found. stream_id >= tailrace.stream_id_at(''2026-11-01'') '
    'reads no older partition.';
COMMENT ON COLUMN tailrace.message_parts.raw_input IS 'The text of an input that never came whole.';
COMMENT ON COLUMN tailrace.message_parts.refused IS 'The AI SDK fails on these chunks.';
