-- The text of streams: put together, and made searchable.

-- The text of one stream: one row for each generation that has chunks. See the comment on view stream_text. Messages,
-- steps and blocks are those of view message_parts (messages.sql).
CREATE FUNCTION tailrace.text_of_stream(p_stream_id bigint) RETURNS TABLE (generation int, text text)
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER COST 100000 ROWS 1
BEGIN ATOMIC
    WITH part AS MATERIALIZED (
        -- OFFSET 0: each is read once. The deltas of the two commonest shapes are read here, as text_delta_of has them.
        SELECT
            t.generation, t.chunk_index, t.odd, t.type,
            CASE
                WHEN t.type = 'text-delta' AND json_typeof(t.data -> 'delta') = 'string' THEN t.data ->> 'delta'
                WHEN json_typeof(t.choices #> '{0,delta,content}') = 'string'
                     AND t.data ->> 'object' = 'chat.completion.chunk' THEN t.choices #>> '{0,delta,content}'
                ELSE tailrace.text_delta_of(t.data)
            END AS delta,
            CASE
                WHEN t.type IS NULL THEN concat_ws('/', t.data ->> 'id', t.choices #>> '{0,index}')
                WHEN t.type = 'start' THEN t.data ->> 'messageId'
                WHEN t.type LIKE 'text-%' THEN t.data ->> 'id'
                WHEN t.type LIKE 'TEXT_MESSAGE_C%' THEN t.data ->> 'messageId'
            END AS id
        FROM (
            SELECT d.*, d.data ->> 'type' AS type, d.data -> 'choices' AS choices
            FROM (
                SELECT
                    g.generation, c.chunk_index, g.odd,
                    CASE WHEN g.odd THEN tailrace.with_halves(c.data_text)::json ELSE c.data END AS data
                FROM tailrace.segments g
                CROSS JOIN LATERAL tailrace.unpack(g.first_index, g.data, g.emitted_ms, g.index_offsets, g.odd) c
                WHERE g.stream_id = p_stream_id
                OFFSET 0
            ) d
            OFFSET 0
        ) t
    ), start AS (
        SELECT
            p.generation, p.chunk_index,
            row_number() OVER (PARTITION BY p.generation ORDER BY p.chunk_index) > 1 OR coalesce(p.id, '') <> '' AS begins
        FROM part p WHERE p.type = 'start'
    ), message AS (
        -- Where the last message begins, if this is a stream of messages in parts at all.
        SELECT
            p.generation,
            CASE WHEN bool_or(p.type IN ('text-start', 'text-delta')) THEN (
                SELECT max(s.chunk_index) FROM start s WHERE s.begins AND s.generation = p.generation
            ) END AS start_index,
            array_agg(p.chunk_index ORDER BY p.chunk_index) FILTER (WHERE p.type = 'reset-step') AS resets
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
            FROM part p
            WHERE p.type IN ('start-step', 'reset-step') OR (p.type = 'start' AND EXISTS (
                SELECT FROM start s WHERE s.begins AND s.generation = p.generation AND s.chunk_index = p.chunk_index
            ))
        ) step
        WHERE step.type = 'reset-step'
    ), kept AS (
        SELECT
            p.generation, p.chunk_index, p.odd, p.type, p.delta, p.id AS block_id,
            CASE WHEN m.resets IS NOT NULL THEN width_bucket(p.chunk_index, m.resets) ELSE 0 END AS resets
        FROM part p JOIN message m ON m.generation = p.generation
        WHERE (p.delta <> '' OR p.type IN ('text-start', 'text-end'))
          AND (m.start_index IS NULL OR p.chunk_index > m.start_index)
    ), block AS (
        -- From start to end; a delta that nothing is open for begins one of its own.
        SELECT
            b.generation, min(b.chunk_index) AS began_at,
            tailrace.rejoined(string_agg(
                CASE WHEN b.odd THEN b.delta ELSE replace(b.delta, U&'\FDD0', U&'\FDD0' || '0') END,
                '' ORDER BY b.chunk_index
            )) AS text
        FROM (
            SELECT
                k.generation, k.chunk_index, k.odd, k.delta, k.block_id, k.resets,
                count(*) FILTER (WHERE k.type = 'text-start') OVER same
                    + count(*) FILTER (WHERE k.type = 'text-end') OVER same - (k.type IS NOT DISTINCT FROM 'text-end')::int
                    AS use_of_id
            FROM kept k
            WINDOW same AS (PARTITION BY k.generation, k.block_id, k.resets ORDER BY k.chunk_index)
        ) b
        GROUP BY b.generation, b.block_id, b.resets, b.use_of_id
    )
    SELECT m.generation, string_agg(b.text, E'\n\n' ORDER BY b.began_at)
    FROM message m
    LEFT JOIN block b ON b.generation = m.generation AND NOT EXISTS (
        SELECT FROM taken_back t
        WHERE t.generation = b.generation AND b.began_at BETWEEN coalesce(t.first_index, 0) AND t.last_index
    )
    GROUP BY m.generation;
END;

REVOKE EXECUTE ON FUNCTION tailrace.text_of_stream(bigint) FROM PUBLIC;


CREATE VIEW tailrace.stream_text AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, coalesce(t.generation, s.generation) AS generation, t.text,
    s.id AS stream_id
FROM tailrace.runs r
JOIN tailrace.environments e ON e.id = r.environment_id
JOIN tailrace.streams s ON s.run = r.id
-- A text of 1 GB is an error in Postgres, and the text is never longer than the chunks.
LEFT JOIN LATERAL tailrace.text_of_stream(CASE WHEN s.byte_count <= 536870912 THEN s.id END) t ON true;

COMMENT ON VIEW tailrace.stream_text IS
    'The text of each stream, put together from text_delta; one row for each generation. The answer of a stream is the '
    'text of its newest generation: of AI SDK messages (it has text-start or text-delta) that of the last message, '
    'without the steps that "reset-step" took back, whether it finished, was aborted or failed; of any other stream all '
    'of it. Null: no chunk with text, or more than 512 MiB of chunks. Messages and blocks are those of view '
    'message_parts; blocks come in the order in which they began, joined by a blank line. Completions are a block for '
    'each id and choice. Strings that hold JSON are taken as they are. A character that was cut between two deltas is '
    'whole; \u0000 and halves of surrogate pairs that never meet appear as U+FFFD.';
COMMENT ON COLUMN tailrace.stream_text.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.stream_text.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.stream_text.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.stream_text.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.stream_text.text IS 'The text; null when there is none, or above 512 MiB of chunks.';
COMMENT ON COLUMN tailrace.stream_text.stream_id IS
    'Ours; grows with the time at which the stream was found. stream_id >= tailrace.stream_id_at(''2026-11-01'') '
    'reads no older partition.';


-- The words of sealed streams' texts, in pieces: a tsvector holds 1 MB and 16 383 positions.
CREATE TABLE tailrace.search (
    stream_id  bigint NOT NULL REFERENCES tailrace.streams (id) ON DELETE CASCADE,
    generation int NOT NULL,
    piece      int NOT NULL,
    words      tsvector NOT NULL,
    CONSTRAINT search_pkey PRIMARY KEY (stream_id, generation, piece)
);

CREATE INDEX search_words_idx ON tailrace.search USING gin (words);


-- Make the text of a sealed stream searchable. Returns the number of pieces; null when it is not sealed. Pieces of
-- 30 000 characters hold fewer words than a tsvector has positions (16 383); each begins 500 characters before the end
-- of the one before, so that a phrase across the cut is found too.
CREATE FUNCTION tailrace.index_text(p_stream_id bigint) RETURNS int
LANGUAGE plpgsql AS $$
DECLARE
    whole  record;
    block  text;
    made   int := 0;
    piece  int;
    size   bigint;
BEGIN
    SELECT s.byte_count INTO size FROM tailrace.streams s
    WHERE s.id = p_stream_id AND s.state = 'sealed' FOR NO KEY UPDATE SKIP LOCKED;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    DELETE FROM tailrace.search x WHERE x.stream_id = p_stream_id;
    IF size <= 536870912 THEN
        FOR whole IN SELECT t.generation, t.text FROM tailrace.text_of_stream(p_stream_id) t WHERE t.text <> '' LOOP
            piece := 0;
            -- Through blocks of 100 pieces: each substr walks through all characters before it.
            FOR b IN 0 .. (length(whole.text) - 1) / 2950000 LOOP
                block := substr(whole.text, 1 + b * 2950000, 2950500);
                FOR p IN 0 .. greatest(0, (length(block) - 501)) / 29500 LOOP
                    INSERT INTO tailrace.search (stream_id, generation, piece, words)
                    VALUES (p_stream_id, whole.generation, piece,
                            to_tsvector('pg_catalog.simple', substr(block, 1 + p * 29500, 30000)));
                    piece := piece + 1;
                END LOOP;
            END LOOP;
            made := made + piece;
        END LOOP;
    END IF;
    UPDATE tailrace.streams s SET indexed_at = now() WHERE s.id = p_stream_id;
    RETURN made;
END
$$;


-- Streams whose text holds these words one after the other. Only sealed streams are in it, some minutes after sealing.
CREATE FUNCTION tailrace.search_text(p_phrase text) RETURNS TABLE (
    environment text, run_id text, stream_key text, generation int, piece int, stream_id bigint
)
LANGUAGE sql STABLE SECURITY DEFINER ROWS 100
BEGIN ATOMIC
    SELECT e.name, r.run_id, s.stream_key, x.generation, x.piece, x.stream_id
    FROM tailrace.search x
    JOIN tailrace.streams s ON s.id = x.stream_id
    JOIN tailrace.runs r ON r.id = s.run
    JOIN tailrace.environments e ON e.id = r.environment_id
    WHERE x.words @@ phraseto_tsquery('pg_catalog.simple', p_phrase);
END;

REVOKE EXECUTE ON FUNCTION tailrace.search_text(text) FROM PUBLIC;

COMMENT ON FUNCTION tailrace.search_text(text) IS
    'Sealed streams whose text (view stream_text) holds these words one after the other; case and punctuation do not '
    'matter. piece counts stretches of 29 500 characters. Languages written without blanks are not cut into words.';
