-- What a chunk's JSON text may hold, and how it is read without an error.
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
-- whenever is_odd is true of one of its chunks (worker/tailrace/wire/chunk_json.py; verify_accounts checks it), and may
-- set it without need. The rest is in the columns themselves: a key that is absent, null or of another type than was
-- hoped for, and times outside the years 1 to 9999, are null. `data` and `data_text` are always the chunk as it was sent.

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


-- A character outside the first 65 536 is two halves in JavaScript, and text that is cut by JavaScript's count can be
-- cut between them: `…\ud83d` ends one delta, `\ude80…` begins the next. No text of Postgres holds a half, so until
-- deltas are put together a half is written as U+FDD0, which is no character, and its four digits; a U+FDD0 that was
-- there before as U+FDD0 and 0. `rejoined` reads that. streams/text.py does the same to the letter, tested by one
-- table (tests/data/text/halves.json).

-- As mended, but halves of surrogate pairs stay what they are, for `rejoined`. Null above 16 MiB.
CREATE FUNCTION tailrace.with_halves(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN octet_length(p_text) <= 16777216 THEN
    regexp_replace(
        regexp_replace(
            regexp_replace(
                replace(
                    replace(replace(p_text, '\\', '\u005c'), '\u0000', '\ufffd'), U&'\FDD0', U&'\FDD0' || '0'
                ),
                '\\u[fF][dD][dD]0', U&'\FDD0' || '0', 'g'
            ),
            '\\u([dD][89abAB][0-9a-fA-F]{2})(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})', U&'\FDD0' || '\1', 'g'
        ),
        '(?<!\\u[dD][89abAB][0-9a-fA-F]{2})\\u([dD][c-fC-F][0-9a-fA-F]{2})', U&'\FDD0' || '\1', 'g'
    )
END;

COMMENT ON FUNCTION tailrace.with_halves(text) IS
    'A JSON text in which halves of surrogate pairs are kept for function rejoined; U+FFFD in the place of \u0000. '
    'Null above 16 MiB.';


-- A first half that a second one follows at once is the character that they are; any other half is U+FFFD. Without a
-- regular expression: those need four bytes for each character, and a text may have 600 million.
CREATE FUNCTION tailrace.rejoined(p_text text) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN CASE WHEN position(U&'\FDD0' IN p_text) = 0 THEN p_text ELSE (
    SELECT string_agg(
        CASE
            WHEN h.n = 1 THEN h.piece
            WHEN h.piece ~ '^[dD][89abAB]' THEN CASE
                WHEN h.rest = '' AND h.next ~ '^[dD][c-fC-F]' THEN ''
                ELSE U&'\FFFD' || h.rest
            END
            WHEN h.piece ~ '^[dD]' THEN CASE
                WHEN h.before ~ '^[dD][89abAB]..$' THEN chr(
                    65536 + (('x' || right(h.before, 3))::bit(12)::int & 1023) * 1024
                    + (('x' || substr(h.piece, 2, 3))::bit(12)::int & 1023)
                )
                ELSE U&'\FFFD'
            END || h.rest
            ELSE U&'\FDD0' || substr(h.piece, 2)
        END, '' ORDER BY h.n
    )
    FROM (
        SELECT
            s.n, s.piece, substr(s.piece, 5) AS rest,
            CASE WHEN s.n > 2 AND length(s.before) = 4 THEN s.before END AS before, left(s.next, 4) AS next
        FROM (
            SELECT p.n, p.piece, lag(p.piece) OVER (ORDER BY p.n) AS before, lead(p.piece) OVER (ORDER BY p.n) AS next
            FROM string_to_table(p_text, U&'\FDD0') WITH ORDINALITY AS p (piece, n)
        ) s
    ) h
) END;

COMMENT ON FUNCTION tailrace.rejoined(text) IS
    'A text that was put together from deltas of with_halves: halves of surrogate pairs that met are the character that '
    'they are, all others U+FFFD.';


-- The chunk's `type`, when it is an object that says one as a string. Not for odd text.
CREATE FUNCTION tailrace.type_of(p_data json) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN json_typeof(p_data -> 'type') = 'string' THEN p_data ->> 'type' END;


-- What text_delta_of says of the rarer shapes.
CREATE FUNCTION tailrace.text_of_shape(p_data json) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    v_message json := p_data;
    v_content json;
    v_type    text;
BEGIN
    IF json_typeof(p_data) = 'array' THEN
        v_message := CASE
            WHEN p_data ->> 0 = 'messages' THEN p_data #> '{1,0}'
            WHEN json_typeof(p_data -> 1) = 'object' THEN p_data -> 0
        END;
        IF v_message IS NULL OR json_typeof(v_message) <> 'object' THEN
            RETURN NULL;
        END IF;
    END IF;
    v_type := v_message ->> 'type';
    IF v_type = 'constructor' THEN
        v_type := v_message #>> '{id,-1}';
        v_message := v_message -> 'kwargs';
    END IF;
    v_content := CASE
        WHEN v_type = 'AIMessageChunk' THEN v_message -> 'content'
        WHEN json_typeof(p_data) = 'array' THEN NULL
        WHEN v_type IN ('TEXT_MESSAGE_CONTENT', 'TEXT_MESSAGE_CHUNK') THEN p_data -> 'delta'
        WHEN v_type = 'content-delta' THEN p_data #> '{delta,message,content,text}'
        WHEN v_type IS NOT NULL THEN NULL
        WHEN p_data ->> 'object' = 'chat.completion.chunk' THEN p_data #> '{choices,0,delta,content}'
        WHEN p_data ->> 'object' = 'text_completion' THEN p_data #> '{choices,0,text}'
        WHEN p_data ->> 'event_type' = 'text-generation' THEN p_data -> 'text'
        WHEN p_data -> 'candidates' IS NOT NULL THEN p_data #> '{candidates,0,content,parts}'
        WHEN p_data -> 'contentBlockDelta' IS NOT NULL THEN p_data #> '{contentBlockDelta,delta,text}'
        WHEN p_data -> 'done' IS NOT NULL THEN coalesce(p_data #> '{message,content}', p_data -> 'response')
        WHEN (
            SELECT bool_and(k IN ('text', 'delta', 'content', 'role', 'id', 'index'))
                   AND count(DISTINCT k) FILTER (WHERE k IN ('text', 'delta', 'content')) = 1
            FROM json_object_keys(p_data) k
        ) THEN coalesce(p_data -> 'text', p_data -> 'delta', p_data -> 'content')
    END;
    RETURN CASE json_typeof(v_content)
        WHEN 'string' THEN v_content #>> '{}'
        -- Parts: those of text, without what is thought.
        WHEN 'array' THEN (
            SELECT string_agg(e ->> 'text', '' ORDER BY n)
            FROM json_array_elements(v_content) WITH ORDINALITY AS p (e, n)
            WHERE json_typeof(e) = 'object' AND json_typeof(e -> 'text') = 'string'
              AND coalesce(e ->> 'type', 'text') = 'text' AND e ->> 'thought' IS DISTINCT FROM 'true'
        )
    END;
END
$$;


-- The text that the chunk adds to an answer, null when it adds none: reasoning and the arguments of tools are none. Not
-- for odd text. The shapes are those that the usual AI libraries send; docs/shapes.md has the table,
-- tests/data/text/shapes.json a sample of each, by which streams/text.py is tested too.
CREATE FUNCTION tailrace.text_delta_of(p_data json) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE json_typeof(p_data)
    WHEN 'string' THEN p_data #>> '{}'
    WHEN 'array' THEN tailrace.text_of_shape(p_data)
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
        WHEN 'TEXT_MESSAGE_CONTENT' THEN tailrace.text_of_shape(p_data)
        WHEN 'TEXT_MESSAGE_CHUNK' THEN tailrace.text_of_shape(p_data)
        WHEN 'content-delta' THEN tailrace.text_of_shape(p_data)
        WHEN 'constructor' THEN tailrace.text_of_shape(p_data)
        WHEN 'AIMessageChunk' THEN tailrace.text_of_shape(p_data)
        -- All others have one of these keys; a backslash may hide any of them.
        ELSE CASE
            WHEN p_data::text LIKE '%"content"%' OR p_data::text LIKE '%"text"%' OR p_data::text LIKE '%"delta"%'
                 OR p_data::text LIKE '%"response"%' OR p_data::text LIKE '%\\%'
            THEN CASE
                WHEN p_data ->> 'object' = 'chat.completion.chunk'
                     AND json_typeof(p_data #> '{choices,0,delta,content}') = 'string'
                    THEN p_data #>> '{choices,0,delta,content}'
                WHEN p_data ->> 'type' IS NULL THEN tailrace.text_of_shape(p_data)
            END
        END
    END
END;
