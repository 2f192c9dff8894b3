-- What keeping, finding and backfilling need beside the archive itself. Nothing here rewrites a table.

-- All at once, in the order in which readers and the Writer lock them: taken one by one, they would meet half-way.
LOCK TABLE tailrace.runs, tailrace.streams, tailrace.segments IN ACCESS EXCLUSIVE MODE;

-- A compacted segment keeps the time and the change of each chunk: `committed` and `change_ids` are as long as
-- emitted_ms, or null when committed_at and change_id hold for all of the segment.
ALTER TABLE tailrace.segments
    ADD COLUMN committed timestamptz[],
    ADD COLUMN change_id bigint,
    ADD COLUMN change_ids bigint[];

-- Set apart from ADD COLUMN, which would write every row of the archive anew. Rows from before have null: change 0.
ALTER TABLE tailrace.segments ALTER COLUMN change_id SET DEFAULT (pg_current_xact_id()::text)::bigint;

COMMENT ON COLUMN tailrace.segments.committed IS 'Compacted: when each chunk was committed; null: all at committed_at.';
COMMENT ON COLUMN tailrace.segments.change_id IS 'The transaction that wrote it (the last one, when compacted).';
COMMENT ON COLUMN tailrace.segments.change_ids IS 'Compacted: the transaction of each chunk; null: all change_id.';

-- What was done with a sealed stream since. All four are null again when it reopens (check_stream_move).
ALTER TABLE tailrace.streams
    ADD COLUMN compacted_at timestamptz,
    ADD COLUMN indexed_at timestamptz,
    ADD COLUMN keep_error text;

COMMENT ON COLUMN tailrace.streams.digest IS 'Of a sealed stream''s contents: tailrace.stream_digest(id) as it must be.';
COMMENT ON COLUMN tailrace.streams.compacted_at IS 'When its segments were made large; null: not yet, or not sealed.';
COMMENT ON COLUMN tailrace.streams.indexed_at IS 'When its text was made searchable; null: not yet, or not sealed.';
COMMENT ON COLUMN tailrace.streams.keep_error IS 'Why it was not compacted or made searchable; not tried again by itself.';

ALTER TABLE tailrace.runs ADD COLUMN pruned_at timestamptz;

COMMENT ON COLUMN tailrace.runs.pruned_at IS 'When retention dropped the streams of this run; null: it did not.';


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


-- The words of sealed streams' texts, in pieces: a tsvector holds 1 MB and 16 383 positions.
CREATE TABLE tailrace.search (
    stream_id  bigint NOT NULL REFERENCES tailrace.streams (id) ON DELETE CASCADE,
    generation int NOT NULL,
    piece      int NOT NULL,
    words      tsvector NOT NULL,
    CONSTRAINT search_pkey PRIMARY KEY (stream_id, generation, piece)
);

CREATE INDEX search_words_idx ON tailrace.search USING gin (words);


-- Runs that were deleted for privacy: only a hash is left, so that they do not come back.
CREATE TABLE tailrace.forgotten (
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    run_hash       bytea NOT NULL,
    forgotten_at   timestamptz NOT NULL DEFAULT now(),
    exports        text[] NOT NULL DEFAULT '{}',
    CONSTRAINT forgotten_pkey PRIMARY KEY (environment_id, run_hash)
);

COMMENT ON COLUMN tailrace.forgotten.exports IS 'Files of exports that held the run when it was forgotten.';


-- Which streams an export has written, and where: a row follows its file, so an export resumes and writes nothing twice.
-- No foreign key: the file stays when retention drops the stream.
CREATE TABLE tailrace.exported (
    target      text NOT NULL,
    stream_id   bigint NOT NULL,
    run         bigint NOT NULL,
    path        text NOT NULL,
    chunk_count bigint NOT NULL,
    digest      bytea NOT NULL,
    exported_at timestamptz NOT NULL DEFAULT now(),
    verified_at timestamptz,
    CONSTRAINT exported_pkey PRIMARY KEY (target, stream_id)
);

CREATE INDEX exported_run_idx ON tailrace.exported (run);


-- Walks through upstream's list of runs. One that was killed goes on from its cursor.
CREATE TABLE tailrace.backfills (
    id             bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    filters        json NOT NULL,
    since          timestamptz NOT NULL,
    until          timestamptz NOT NULL,
    state          text NOT NULL DEFAULT 'running',
    cursor         text,
    pages          bigint NOT NULL DEFAULT 0,
    seen           bigint NOT NULL DEFAULT 0,
    requested      bigint NOT NULL DEFAULT 0,
    token          bigint NOT NULL DEFAULT 0,
    leased_until   timestamptz,
    next_page_at   timestamptz NOT NULL DEFAULT now(),
    attempt        int NOT NULL DEFAULT 0,
    last_error     text,
    started_at     timestamptz NOT NULL DEFAULT now(),
    finished_at    timestamptz,
    CONSTRAINT backfills_state_check CHECK (state IN ('running', 'done', 'failed', 'cancelled'))
);

CREATE INDEX backfills_next_page_idx ON tailrace.backfills (next_page_at) WHERE state = 'running';

COMMENT ON COLUMN tailrace.backfills.cursor IS 'Upstream''s cursor of the next page; null: the first page.';
COMMENT ON COLUMN tailrace.backfills.token IS 'Grows with every takeover; progress with another token is not noted.';


-- How far new runs of an environment have been found (TAILRACE_DISCOVER).
CREATE TABLE tailrace.discoveries (
    environment_id int NOT NULL REFERENCES tailrace.environments (id),
    rule           text NOT NULL,
    covered_to     timestamptz NOT NULL,
    next_look_at   timestamptz NOT NULL DEFAULT now(),
    next_scan_at   timestamptz NOT NULL DEFAULT now(),
    found          bigint NOT NULL DEFAULT 0,
    last_error     text,
    CONSTRAINT discoveries_pkey PRIMARY KEY (environment_id, rule)
);

COMMENT ON COLUMN tailrace.discoveries.covered_to IS 'Runs created before this have been listed, late entries included.';


-- Leaving `sealed` makes everything that was concluded from it void. Otherwise as in 0001.
CREATE OR REPLACE FUNCTION tailrace.check_stream_move() RETURNS trigger
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
    IF OLD.state = 'sealed' THEN
        NEW.digest := NULL;
        NEW.compacted_at := NULL;
        NEW.indexed_at := NULL;
        NEW.keep_error := NULL;
        DELETE FROM tailrace.facts f WHERE f.stream_id = OLD.id;
    END IF;
    RETURN NEW;
END
$$;


-- What stands in `forgotten` for a run.
CREATE FUNCTION tailrace.run_hash(p_run_id text) RETURNS bytea
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE
RETURN sha256(convert_to(p_run_id, 'UTF8'));

-- A forgotten run does not come back, whoever asks for it: not by a late message, backfill or discovery.
CREATE FUNCTION tailrace.check_not_forgotten() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (
        SELECT FROM tailrace.forgotten f
        WHERE f.environment_id = NEW.environment_id AND f.run_hash = tailrace.run_hash(NEW.run_id)
    ) THEN
        RAISE EXCEPTION 'this run was forgotten and is not archived again'
            USING ERRCODE = 'check_violation', SCHEMA = 'tailrace', TABLE = 'runs', CONSTRAINT = 'runs_forgotten',
                  HINT = 'tailrace forget --allow-again lifts it.';
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER runs_forgotten BEFORE INSERT ON tailrace.runs
FOR EACH ROW EXECUTE FUNCTION tailrace.check_not_forgotten();
