-- What is not a chunk: indices without one, and records that can't be one.

-- Indices without a chunk, and why.
CREATE TABLE tailrace.holes (
    stream_id   bigint NOT NULL,
    generation  int NOT NULL,
    first_index bigint NOT NULL,
    last_index  bigint,
    reason      text NOT NULL,
    detected_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT holes_pkey PRIMARY KEY (stream_id, generation, first_index, reason),
    CONSTRAINT holes_reason_check CHECK (
        reason IN ('trimmed', 'expired', 'recreated', 'missing', 'command', 'control', 'repeat', 'quarantined')
    ),
    CONSTRAINT holes_range_check CHECK (
        generation >= 0 AND first_index >= 0
        -- Only of a loss can it be unknown how much it was.
        AND CASE WHEN last_index IS NULL
                THEN reason IN ('trimmed', 'expired', 'recreated', 'missing')
                ELSE last_index >= first_index
            END
    )
);

COMMENT ON COLUMN tailrace.holes.last_index IS
    'Null: how many were lost is unknown. Such a hole lies before first_index and takes no index for itself.';


-- What can't be a chunk, as it came.
CREATE TABLE tailrace.quarantine (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    stream_id   bigint NOT NULL,
    generation  int NOT NULL,
    chunk_index bigint NOT NULL,
    reason      text NOT NULL,
    raw         bytea NOT NULL,
    detected_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX quarantine_stream_id_generation_chunk_index_idx
    ON tailrace.quarantine (stream_id, generation, chunk_index);


-- What was lost upstream, and is not in the archive.
CREATE VIEW tailrace.gaps AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, h.generation, h.first_index, h.last_index,
    h.last_index - h.first_index + 1 AS lost, h.reason, h.detected_at, s.id AS stream_id
FROM tailrace.holes h
JOIN tailrace.streams s ON s.id = h.stream_id
JOIN tailrace.runs r ON r.id = s.run
JOIN tailrace.environments e ON e.id = r.environment_id
WHERE h.reason IN ('trimmed', 'expired', 'recreated', 'missing');

COMMENT ON VIEW tailrace.gaps IS
    'Chunks that upstream dropped before they were read. last_index and lost are null when their number is unknown: '
    'then the loss lies before first_index.';
COMMENT ON COLUMN tailrace.gaps.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.gaps.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.gaps.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.gaps.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.gaps.first_index IS 'First lost index.';
COMMENT ON COLUMN tailrace.gaps.last_index IS 'Last one; null: how many is unknown, the loss lies before first_index.';
COMMENT ON COLUMN tailrace.gaps.lost IS 'How many; null: unknown.';
COMMENT ON COLUMN tailrace.gaps.reason IS
    'trimmed, expired, recreated, or missing (upstream gave out what stands before and after, for at least ten '
    'minutes).';
COMMENT ON COLUMN tailrace.gaps.detected_at IS 'When it was noticed.';
COMMENT ON COLUMN tailrace.gaps.stream_id IS
    'Ours; grows with the time at which the stream was found. stream_id >= tailrace.stream_id_at(''2026-11-01'') '
    'reads no older partition.';


-- What could not be decoded or stored, raw.
CREATE VIEW tailrace.quarantined AS
SELECT
    e.name AS environment, r.run_id, s.stream_key, q.generation, q.chunk_index, q.reason, q.raw, q.detected_at,
    s.id AS stream_id
FROM tailrace.quarantine q
JOIN tailrace.streams s ON s.id = q.stream_id
JOIN tailrace.runs r ON r.id = s.run
JOIN tailrace.environments e ON e.id = r.environment_id;

COMMENT ON VIEW tailrace.quarantined IS 'Records that could not be chunks (or repeat one), as they came.';
COMMENT ON COLUMN tailrace.quarantined.environment IS 'Name of the environment of Trigger.dev.';
COMMENT ON COLUMN tailrace.quarantined.run_id IS 'The run''s id upstream.';
COMMENT ON COLUMN tailrace.quarantined.stream_key IS 'The stream''s key.';
COMMENT ON COLUMN tailrace.quarantined.generation IS 'Grows when upstream began the stream anew; nearly always 0.';
COMMENT ON COLUMN tailrace.quarantined.chunk_index IS 'Its index.';
COMMENT ON COLUMN tailrace.quarantined.reason IS 'Why.';
COMMENT ON COLUMN tailrace.quarantined.raw IS 'The bytes.';
COMMENT ON COLUMN tailrace.quarantined.detected_at IS 'When it came.';
COMMENT ON COLUMN tailrace.quarantined.stream_id IS
    'Ours; grows with the time at which the stream was found. stream_id >= tailrace.stream_id_at(''2026-11-01'') '
    'reads no older partition.';
