-- The text of streams: put together, and made searchable.

-- The text of one stream: one row for each generation that has chunks. See the comment on view stream_text.
CREATE FUNCTION tailrace.text_of_stream(p_stream_id bigint) RETURNS TABLE (generation int, text text)
LANGUAGE sql STABLE STRICT PARALLEL SAFE SECURITY DEFINER COST 100000 ROWS 1
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
    'The text of each stream, put together from text_delta; one row for each generation. Null: no chunk with text, or '
    'more than 512 MiB of chunks. A stream of AI SDK messages (it has text-start or text-delta): the text of the last '
    'message only, because a second "start" is nearly always a retry of the whole answer; without the text of a step '
    'that "reset-step" took back; blocks (text-start to text-end of one id) in the order in which they began, joined '
    'by a blank line. Chat Completions with several choices: one block for each. Any other stream: its deltas one '
    'after the other. Strings that hold JSON are taken as they are. \u0000 and halves of surrogate pairs appear as '
    'U+FFFD.';
COMMENT ON COLUMN tailrace.stream_text.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.stream_text.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.stream_text.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.stream_text.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.stream_text.text IS
    'The text of the last message; null when there is none, or above 512 MiB of chunks.';
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
