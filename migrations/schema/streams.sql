-- Streams: how far each is archived, who reads it, and what is known of it.

-- One stream of a run: its checkpoint, lease and accounts. Most commits only add segments and lock the row; the row
-- follows seldom, and what it says is true of the moment when it last did (checkpoints.sql has what is true now). A commit
-- that it follows changes rev, last_chunk_index, cursor, the counts, generation, lag, attempt, last_error, stuck_at, wire
-- and the times of chunks: none of them may stand in an index, so that the new row version fits into the same page (HOT).
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
    settled_by       uuid,
    token            bigint NOT NULL DEFAULT 0,
    hinted_until     timestamptz,
    hinted_by        uuid,
    attempt          int NOT NULL DEFAULT 0,
    troubled_at      timestamptz,
    stuck_at         timestamptz,
    next_attempt_at  timestamptz NOT NULL DEFAULT now(),
    last_error       text,
    swept_at         timestamptz,
    swept_index      bigint,
    first_chunk_at   timestamptz,
    last_chunk_at    timestamptz,
    sealed_at        timestamptz,
    digest           bytea,
    compacted_at     timestamptz,
    indexed_at       timestamptz,
    keep_error       text,
    not_before       timestamptz,
    known_verdict    text,
    known_rows       bigint,
    doubt            text,
    known_doubt      text,
    created_at       timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT streams_run_stream_key_key UNIQUE (run, stream_key),
    CONSTRAINT streams_wire_check CHECK (wire IN ('v1', 'v2')),
    CONSTRAINT streams_state_check
        CHECK (state IN ('pending', 'active', 'parked', 'sealed', 'failed', 'cancelled')),
    CONSTRAINT streams_verdict_check
        CHECK (verdict IN ('open', 'complete', 'complete_with_gaps', 'possibly_truncated', 'failed')),
    CONSTRAINT streams_known_verdict_check
        CHECK (known_verdict IN ('open', 'complete', 'complete_with_gaps', 'possibly_truncated', 'failed')),
    CONSTRAINT streams_doubt_check
        CHECK (doubt IN ('old', 'undated', 'backlog', 'not_there', 'unconfirmed', 'unserved')),
    CONSTRAINT streams_checkpoint_check CHECK (generation >= 0 AND last_chunk_index >= -1),
    CONSTRAINT streams_lease_check CHECK (worker_id IS NULL OR state IN ('pending', 'active', 'parked'))
) WITH (
    fillfactor = 50,
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 500,
    autovacuum_vacuum_cost_delay = 1
);

COMMENT ON COLUMN tailrace.streams.last_chunk_index IS
    'Every index of this generation up to here is a chunk or in a hole. -1: nothing yet. While the stream is read, its '
    'checkpoint can be later: see streams_now.';
COMMENT ON COLUMN tailrace.streams.cursor IS 'Opaque resume position.';
COMMENT ON COLUMN tailrace.streams.rev IS
    'Grows by one with every commit that the row follows: tells whether such a commit without an answer took effect.';
COMMENT ON COLUMN tailrace.streams.chunk_count IS 'Chunks stored, over all generations.';
COMMENT ON COLUMN tailrace.streams.byte_count IS 'Sum of octet_length of the chunks'' texts, over all generations.';
COMMENT ON COLUMN tailrace.streams.hole_count IS 'Rows in holes, over all generations.';
COMMENT ON COLUMN tailrace.streams.lost_count IS 'Rows in holes whose reason is a loss.';
COMMENT ON COLUMN tailrace.streams.quarantine_count IS 'Rows in quarantine.';
COMMENT ON COLUMN tailrace.streams.lag IS 'How far the checkpoint was behind upstream''s tail when last heard (v2).';
COMMENT ON COLUMN tailrace.streams.worker_id IS
    'Holder of the lease. No foreign key: it holds while that row of workers lives.';
COMMENT ON COLUMN tailrace.streams.settled_by IS
    'Whose commit it was that ended the last lease; null: none, while there is one or when it ended otherwise. Then the '
    'row can be behind what is stored.';
COMMENT ON COLUMN tailrace.streams.troubled_at IS
    'Since when it can''t be read, while attempt > 0.';
COMMENT ON COLUMN tailrace.streams.stuck_at IS
    'Since when its reader gets nothing although there is more; null: it is not so. last_error says what shows it.';
COMMENT ON COLUMN tailrace.streams.token IS 'Grows with every takeover; a write with another token changes nothing.';
COMMENT ON COLUMN tailrace.streams.hinted_until IS
    'Until then nobody else chooses the stream, unless the worker of hinted_by dies before.';
-- Of a sealed stream. All four are null again when it reopens (check_stream_move).
COMMENT ON COLUMN tailrace.streams.digest IS
    'Of a sealed stream''s contents: tailrace.stream_digest(id) as it must be.';
COMMENT ON COLUMN tailrace.streams.compacted_at IS 'When its segments were made large; null: not yet, or not sealed.';
COMMENT ON COLUMN tailrace.streams.indexed_at IS 'When its text was made searchable; null: not yet, or not sealed.';
COMMENT ON COLUMN tailrace.streams.keep_error IS
    'Why it was not compacted or made searchable; not tried again by itself.';

COMMENT ON COLUMN tailrace.streams.not_before IS
    'Nothing of the stream can have been written before this moment; null: nobody knows.';

COMMENT ON COLUMN tailrace.streams.known_verdict IS
    'Of a stream that was sealed before and is read again: what its verdict was; else null.';
COMMENT ON COLUMN tailrace.streams.known_rows IS 'And how many chunks, holes and quarantined records it had.';
COMMENT ON COLUMN tailrace.streams.doubt IS
    'Why the verdict claims no more (verdicts.sql has the words); null: nothing is in doubt. Follows the verdict: of a '
    'stream that is read again, it is what was.';
COMMENT ON COLUMN tailrace.streams.known_doubt IS 'And what was in doubt then.';

-- Streams by who reads them, those that nobody reads by when they are due. Sealed ones are not in it, so a million of them
-- costs nothing.
CREATE INDEX streams_open_idx ON tailrace.streams (worker_id, next_attempt_at)
    WHERE state IN ('pending', 'active', 'parked');
-- Sealed streams that wait to be compacted or made searchable: nearly none, whatever the archive holds.
CREATE INDEX streams_keep_idx ON tailrace.streams (id)
    WHERE state = 'sealed' AND keep_error IS NULL AND (compacted_at IS NULL OR indexed_at IS NULL);
-- Streams that failed: few, and looked for by whoever asks how the fleet is.
CREATE INDEX streams_failed_idx ON tailrace.streams (id) WHERE state = 'failed';


-- A stream changes its state only by the moves that worker/tailrace/model.py (MOVES) names; a test keeps both alike.
-- Leaving `sealed` makes everything that was concluded from it void, but for its verdict: when reading again brings
-- nothing, upstream may just have forgotten the stream, and what was known of it stays true.
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
    IF NEW.state NOT IN ('active', 'parked') OR OLD.state NOT IN ('active', 'parked') THEN
        NEW.stuck_at := NULL; -- only its reader knows
    END IF;
    IF OLD.state = 'sealed' THEN
        NEW.digest := NULL;
        NEW.compacted_at := NULL;
        NEW.indexed_at := NULL;
        NEW.keep_error := NULL;
        DELETE FROM tailrace.facts f WHERE f.stream_id = OLD.id;
        NEW.known_verdict := OLD.verdict;
        NEW.known_doubt := OLD.doubt;
        NEW.known_rows := OLD.chunk_count + OLD.hole_count + OLD.quarantine_count;
    ELSIF NEW.state IN ('sealed', 'failed') AND OLD.known_verdict IS NOT NULL THEN
        IF NEW.verdict IN ('possibly_truncated', 'failed')
           AND NEW.chunk_count + NEW.hole_count + NEW.quarantine_count = OLD.known_rows THEN
            -- A reader that fails its stream so says that upstream serves it no more, and that is no failure here.
            IF OLD.state = 'active' AND NEW.state = 'failed' AND NEW.verdict = 'possibly_truncated' THEN
                NEW.state := 'sealed';
                NEW.sealed_at := now();
            END IF;
            NEW.verdict := OLD.known_verdict;
            NEW.doubt := OLD.known_doubt;
        END IF;
        IF NEW.state = 'sealed' THEN
            NEW.known_verdict := NULL;
            NEW.known_doubt := NULL;
            NEW.known_rows := NULL;
        END IF;
    END IF;
    RETURN NEW;
END
$$;

CREATE TRIGGER streams_moves BEFORE UPDATE OF state ON tailrace.streams
FOR EACH ROW WHEN (OLD.state IS DISTINCT FROM NEW.state)
EXECUTE FUNCTION tailrace.check_stream_move();


-- How many more streams the fleet may read at once, p_most being the limit. Living leases count and, if p_hints, living
-- hints too.
--
-- It holds a lock until the caller's transaction ends: whoever takes leases or hints under a limit calls this in the
-- same single statement, and so no two take the same place. In autocommit only: nothing may hold it over a round trip.
CREATE FUNCTION tailrace.connections_left(p_most int, p_hints boolean) RETURNS int
LANGUAGE plpgsql VOLATILE AS $$
DECLARE
    v_taken bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(7237125, 1);
    -- A new snapshot: what the last holder of the lock did is seen.
    SELECT count(*) INTO v_taken
    FROM tailrace.streams s
    WHERE s.state IN ('pending', 'active', 'parked')
      AND (EXISTS (SELECT FROM tailrace.workers w WHERE w.id = s.worker_id AND w.expires_at > now())
           OR (p_hints AND s.hinted_until > now() AND EXISTS (
               SELECT FROM tailrace.workers w WHERE w.id = s.hinted_by AND w.expires_at > now())));
    RETURN greatest(0, p_most - v_taken);
END
$$;

COMMENT ON FUNCTION tailrace.connections_left(int, boolean) IS
    'How many more streams may be read at once under a fleet-wide limit; locks others out until the statement ends.';
