-- The archive's tables. Everything lives in schema tailrace, and every name is written with it.

-- Ids that grow with time: milliseconds of the database's clock, then 20 bits of a sequence. 2^20 ids in one
-- millisecond would be needed for two equal ones.
CREATE SEQUENCE tailrace.id_bits AS bigint MINVALUE 0 MAXVALUE 1048575 CYCLE;

CREATE FUNCTION tailrace.next_id() RETURNS bigint
LANGUAGE sql VOLATILE PARALLEL UNSAFE
RETURN (floor(extract(epoch FROM clock_timestamp()) * 1000)::bigint << 20) | nextval('tailrace.id_bits');

COMMENT ON FUNCTION tailrace.next_id() IS
    'A new id: milliseconds since 1970 << 20 | 20 bits of a sequence. Ids are ordered by time.';


-- One Trigger.dev environment. Its key is never stored.
CREATE TABLE tailrace.environments (
    id            int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name          text NOT NULL,
    project       text,
    api_url       text NOT NULL,
    halted_at     timestamptz,
    halted_reason text,
    created_at    timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT environments_name_key UNIQUE (name)
);

COMMENT ON COLUMN tailrace.environments.halted_at IS
    'Since when nothing of this environment is read because upstream refused the key; null: it is read.';

INSERT INTO tailrace.environments (name, api_url) VALUES ('default', 'https://api.trigger.dev');


-- One worker process. A stream is leased while the row of its worker has not expired by the database's clock.
CREATE TABLE tailrace.workers (
    id         uuid PRIMARY KEY,
    host       text NOT NULL,
    pid        int NOT NULL,
    pool       text NOT NULL,
    slots      int NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 50);


-- One run upstream, from the moment somebody asked for it.
CREATE TABLE tailrace.runs (
    id              bigint PRIMARY KEY DEFAULT tailrace.next_id(),
    environment_id  int NOT NULL REFERENCES tailrace.environments (id),
    run_id          text NOT NULL,
    state           text NOT NULL DEFAULT 'requested',
    status          text,
    task_identifier text,
    tags            text[] NOT NULL DEFAULT '{}',
    created_at      timestamptz,
    started_at      timestamptz,
    finished_at     timestamptz,
    attributes      json,
    selection       text[],
    options         json NOT NULL DEFAULT '{}',
    priority        smallint NOT NULL DEFAULT 0,
    requested_at    timestamptz NOT NULL DEFAULT now(),
    terminal_at     timestamptz,
    keys_read_at    timestamptz,
    next_watch_at   timestamptz NOT NULL DEFAULT now(),
    watch_attempt   int NOT NULL DEFAULT 0,
    last_error      text,
    sealed_at       timestamptz,
    -- run_id first: queries name the run and seldom the environment.
    CONSTRAINT runs_run_id_environment_id_key UNIQUE (run_id, environment_id),
    CONSTRAINT runs_run_id_check CHECK (run_id <> ''),
    CONSTRAINT runs_state_check CHECK (state IN ('requested', 'watched', 'sealed', 'failed', 'cancelled')),
    CONSTRAINT runs_priority_check CHECK (priority IN (0, 1))
) WITH (fillfactor = 80, autovacuum_vacuum_scale_factor = 0.05);

COMMENT ON COLUMN tailrace.runs.status IS 'Upstream''s status by the API''s name; null: not known yet.';
COMMENT ON COLUMN tailrace.runs.created_at IS 'Upstream''s time, as are started_at and finished_at.';
COMMENT ON COLUMN tailrace.runs.selection IS 'The stream keys that were asked for; null: all of them.';
COMMENT ON COLUMN tailrace.runs.options IS 'Batch limits of this request.';
COMMENT ON COLUMN tailrace.runs.priority IS '0 live, 1 backfill: live goes first.';
COMMENT ON COLUMN tailrace.runs.terminal_at IS 'When a terminal status was first seen.';

-- Runs due to be watched. Small whatever the archive holds.
CREATE INDEX runs_watch_idx ON tailrace.runs (next_watch_at) WHERE state IN ('requested', 'watched');
CREATE INDEX runs_environment_id_idx ON tailrace.runs (environment_id);


-- One stream of a run: its checkpoint, lease and accounts. A flush changes rev, last_chunk_index, cursor, the
-- counts, generation, lag, attempt, last_error, wire and the times of chunks: none of them may stand in an index, so
-- that the new row version fits into the same page (HOT).
CREATE TABLE tailrace.streams (
    id               bigint PRIMARY KEY DEFAULT tailrace.next_id(),
    run              bigint NOT NULL REFERENCES tailrace.runs (id) ON DELETE CASCADE,
    stream_key       text NOT NULL,
    wire             text,
    generation       int NOT NULL DEFAULT 0,
    last_chunk_index bigint NOT NULL DEFAULT -1,
    cursor           json,
    rev              bigint NOT NULL DEFAULT 0,
    state            text NOT NULL DEFAULT 'pending',
    verdict          text NOT NULL DEFAULT 'open',
    chunk_count      bigint NOT NULL DEFAULT 0,
    byte_count       bigint NOT NULL DEFAULT 0,
    hole_count       bigint NOT NULL DEFAULT 0,
    lost_count       bigint NOT NULL DEFAULT 0,
    quarantine_count bigint NOT NULL DEFAULT 0,
    lag              bigint,
    worker_id        uuid,
    token            bigint NOT NULL DEFAULT 0,
    hinted_until     timestamptz,
    attempt          int NOT NULL DEFAULT 0,
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    last_error       text,
    swept_at         timestamptz,
    swept_index      bigint,
    first_chunk_at   timestamptz,
    last_chunk_at    timestamptz,
    sealed_at        timestamptz,
    digest           bytea,
    recent           bytea,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT streams_run_stream_key_key UNIQUE (run, stream_key),
    CONSTRAINT streams_wire_check CHECK (wire IN ('v1', 'v2')),
    CONSTRAINT streams_state_check
        CHECK (state IN ('pending', 'active', 'parked', 'sealed', 'failed', 'cancelled')),
    CONSTRAINT streams_verdict_check
        CHECK (verdict IN ('open', 'complete', 'complete_with_gaps', 'possibly_truncated', 'failed')),
    CONSTRAINT streams_checkpoint_check CHECK (generation >= 0 AND last_chunk_index >= -1),
    CONSTRAINT streams_lease_check CHECK (worker_id IS NULL OR state IN ('pending', 'active', 'parked'))
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 1
);

COMMENT ON COLUMN tailrace.streams.last_chunk_index IS
    'The checkpoint: every index of this generation up to here is a chunk or in a hole. -1: nothing yet.';
COMMENT ON COLUMN tailrace.streams.cursor IS 'Opaque resume position.';
COMMENT ON COLUMN tailrace.streams.rev IS
    'Grows by one with every commit: tells whether a commit without an answer took effect.';
COMMENT ON COLUMN tailrace.streams.chunk_count IS 'Chunks stored, over all generations.';
COMMENT ON COLUMN tailrace.streams.byte_count IS 'Sum of octet_length of the chunks'' texts, over all generations.';
COMMENT ON COLUMN tailrace.streams.hole_count IS 'Rows in holes, over all generations.';
COMMENT ON COLUMN tailrace.streams.lost_count IS 'Rows in holes whose reason is a loss.';
COMMENT ON COLUMN tailrace.streams.quarantine_count IS 'Rows in quarantine.';
COMMENT ON COLUMN tailrace.streams.lag IS 'How far the checkpoint was behind upstream''s tail when last heard (v2).';
COMMENT ON COLUMN tailrace.streams.worker_id IS
    'Holder of the lease. No foreign key: it holds while that row of workers lives.';
COMMENT ON COLUMN tailrace.streams.token IS 'Grows with every takeover; a write with another token changes nothing.';
COMMENT ON COLUMN tailrace.streams.recent IS 'The last 5000 body ids with their checksums, packed (v2).';

-- Streams due to be read. Sealed ones are not in it, so a million of them costs nothing.
CREATE INDEX streams_attempt_idx ON tailrace.streams (next_attempt_at) WHERE state IN ('pending', 'active', 'parked');

-- A stream changes its state only by the moves that worker/tailrace/model.py (MOVES) names. Keep both alike.
CREATE FUNCTION tailrace.check_stream_move() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF (OLD.state, NEW.state) NOT IN (
        ('pending', 'active'), ('pending', 'failed'), ('pending', 'cancelled'),
        ('active', 'parked'), ('active', 'sealed'), ('active', 'failed'), ('active', 'cancelled'),
        ('parked', 'active'), ('parked', 'failed'), ('parked', 'cancelled'),
        ('sealed', 'active'),
        ('failed', 'active'),
        ('cancelled', 'active')
    ) THEN
        RAISE EXCEPTION 'a stream cannot move from % to %', OLD.state, NEW.state
            USING ERRCODE = 'check_violation', SCHEMA = 'tailrace', TABLE = 'streams', CONSTRAINT = 'streams_moves',
                  DETAIL = format('Stream %s.', OLD.id);
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER streams_moves BEFORE UPDATE OF state ON tailrace.streams
FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION tailrace.check_stream_move();


-- The chunks. One row is one batch: `data` holds the chunks' JSON texts as they were sent, `emitted_ms` upstream's
-- time of each. Partitioned by days of stream_id (partitions.sql); no foreign key, so that old partitions can be
-- dropped.
CREATE TABLE tailrace.segments (
    stream_id     bigint NOT NULL,
    generation    int NOT NULL,
    first_index   bigint NOT NULL,
    last_index    bigint NOT NULL,
    chunk_count   int NOT NULL,
    data          json NOT NULL,
    emitted_ms    bigint[] NOT NULL,
    index_offsets int[],
    odd           boolean NOT NULL DEFAULT false,
    marks         bytea,
    committed_at  timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT segments_pkey PRIMARY KEY (stream_id, generation, first_index),
    CONSTRAINT segments_range_check CHECK (generation >= 0 AND first_index >= 0 AND last_index >= first_index),
    CONSTRAINT segments_count_check CHECK (
        chunk_count BETWEEN 1 AND 2000 AND cardinality(emitted_ms) = chunk_count
        AND array_position(emitted_ms, NULL) IS NULL
    ),
    -- The last line of defence against a text that is more than one chunk.
    CONSTRAINT segments_data_check CHECK (json_array_length(data) = chunk_count),
    CONSTRAINT segments_offsets_check CHECK (
        CASE WHEN index_offsets IS NULL
            THEN last_index - first_index = chunk_count - 1
            ELSE cardinality(index_offsets) = chunk_count
                 AND index_offsets[1] = 0 AND index_offsets[chunk_count] = last_index - first_index
        END
    )
) PARTITION BY RANGE (stream_id);

COMMENT ON COLUMN tailrace.segments.data IS 'A JSON array; its elements are the chunks, byte for byte.';
COMMENT ON COLUMN tailrace.segments.index_offsets IS
    'Each chunk''s index less first_index, ascending; null: the indices have no holes.';

COMMENT ON COLUMN tailrace.segments.odd IS
    'Some chunk holds what ->> or jsonb may refuse (function is_odd says what); the views then read with care.';

-- lz4 unpacks several times faster than pglz. Servers built without it keep their default.
DO $$
BEGIN
    ALTER TABLE tailrace.segments ALTER COLUMN data SET COMPRESSION lz4, ALTER COLUMN emitted_ms SET COMPRESSION lz4;
EXCEPTION WHEN feature_not_supported OR invalid_parameter_value THEN
    NULL;
END
$$;


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
        reason IN ('trimmed', 'expired', 'recreated', 'command', 'control', 'repeat', 'quarantined')
    ),
    CONSTRAINT holes_range_check CHECK (
        generation >= 0 AND first_index >= 0
        -- Only of a loss can it be unknown how much it was.
        AND CASE WHEN last_index IS NULL
                THEN reason IN ('trimmed', 'expired', 'recreated')
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
