"""Watches, inside Postgres, who writes: triggers that note the session behind each commit and each row of chunks.

The product's own fence is not asked. A worker's connections carry its name (`fleet`), so a row that came from another
process than the lease's holder shows, whatever the statement that wrote it believed.
"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from tests.chaos.fleet import Archive

INSTALL = """
CREATE SCHEMA chaos;
CREATE TABLE chaos.processes (id uuid, name text);
CREATE TABLE chaos.commits (
    n bigint GENERATED ALWAYS AS IDENTITY, name text, stream_id bigint, holder uuid,
    token_before bigint, token_after bigint, rev_before bigint, rev_after bigint, moved boolean);
CREATE TABLE chaos.rows (name text, stream_id bigint, first_index bigint, holder uuid);

CREATE FUNCTION chaos.note_process() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.processes VALUES (NEW.id, current_setting('application_name'));
    RETURN NULL;
END $$;
CREATE FUNCTION chaos.note_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    INSERT INTO chaos.commits
        (name, stream_id, holder, token_before, token_after, rev_before, rev_after, moved)
    VALUES (current_setting('application_name'), OLD.id, OLD.worker_id, OLD.token,
            NEW.token, OLD.rev, NEW.rev,
            (OLD.generation, OLD.last_chunk_index) IS DISTINCT FROM (NEW.generation, NEW.last_chunk_index));
    RETURN NULL;
END $$;
CREATE FUNCTION chaos.note_row() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    -- At the end of the statement: a commit that ended the lease says by whom it was held.
    INSERT INTO chaos.rows SELECT
        current_setting('application_name'), NEW.stream_id, NEW.first_index, coalesce(s.worker_id, s.settled_by)
    FROM tailrace.streams s WHERE s.id = NEW.stream_id;
    RETURN NULL;
END $$;

CREATE TRIGGER chaos_process AFTER INSERT ON tailrace.workers FOR EACH ROW EXECUTE FUNCTION chaos.note_process();
CREATE TRIGGER chaos_commit AFTER UPDATE ON tailrace.streams FOR EACH ROW
    WHEN (OLD.rev IS DISTINCT FROM NEW.rev OR OLD.token IS DISTINCT FROM NEW.token
          OR (OLD.generation, OLD.last_chunk_index) IS DISTINCT FROM (NEW.generation, NEW.last_chunk_index))
    EXECUTE FUNCTION chaos.note_commit();
CREATE TRIGGER chaos_segment AFTER INSERT ON tailrace.segments FOR EACH ROW EXECUTE FUNCTION chaos.note_row();
CREATE TRIGGER chaos_hole AFTER INSERT ON tailrace.holes FOR EACH ROW EXECUTE FUNCTION chaos.note_row();
"""

# Compaction inserts no rows, and moves nothing.
QUESTIONS = {
    "stream {}: {} moved the checkpoint, and {} held the lease": """
        SELECT c.stream_id, c.name, coalesce(p.name, 'nobody') FROM chaos.commits c
        LEFT JOIN chaos.processes p ON p.id = c.holder
        WHERE c.moved AND p.name IS DISTINCT FROM c.name""",
    "stream {}: {} wrote a row at {}, and {} held the lease": """
        SELECT r.stream_id, r.name, r.first_index, coalesce(p.name, 'nobody') FROM chaos.rows r
        LEFT JOIN chaos.processes p ON p.id = r.holder
        WHERE p.name IS DISTINCT FROM r.name""",
    "stream {}: its token went from {} to {}": """
        SELECT stream_id, token_before, token_after FROM chaos.commits WHERE token_after < token_before""",
    "stream {}: its rev went from {} to {}": """
        SELECT stream_id, rev_before, rev_after FROM chaos.commits WHERE rev_after <> rev_before + 1""",
}


def install(database_url: str) -> None:
    """Add the triggers to a migrated database."""
    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(INSTALL)


def unfenced(archive: Archive) -> Iterator[str]:
    """Give everything that was written by somebody who did not hold the lease at that moment."""
    for sentence, question in QUESTIONS.items():
        for row in archive.rows(question):
            yield sentence.format(*row)
