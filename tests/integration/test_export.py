"""What is exported equals the archive chunk for chunk, is written once, and resumes wherever it was cut off."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from tailrace.errors import BadSettings
from tailrace.store.keeping.export import Export, ExportFormat, digest_of
from tests.integration.schema_rows import Archive
from tests.integration.test_views_chunks import CHUNKS

FORMS = list(ExportFormat)


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    archive = Archive(database_url)
    for n in range(10):
        sealed(archive, f"run_{n}", [f'"chunk {n} {i}"' for i in range(50)])
    sealed(archive, "run_odd", list(CHUNKS))
    archive.whole_stream(['"open"'], run_id="run_open")
    with archive.connection:
        yield archive


def sealed(archive: Archive, run_id: str, texts: list[str]) -> int:
    stream = archive.whole_stream(texts, run_id=run_id)
    for state in ("active", "sealed"):
        archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
    archive.rows("SELECT * FROM tailrace.compact_stream(%s)", stream)
    return stream


def reopen_run_3(archive: Archive) -> None:
    archive.run(
        """UPDATE tailrace.streams SET state = 'active'
           WHERE run = (SELECT id FROM tailrace.runs WHERE run_id = 'run_3')"""
    )


def read(place: Path, form: ExportFormat) -> list[dict[str, Any]]:
    """Every row of every finished file, with a reader that is not ours."""
    files = sorted(place.glob(f"*.{form.value}"))
    if form is ExportFormat.JSONL:
        return [json.loads(line) for file in files for line in file.read_text(encoding="utf-8").split("\n") if line]
    found = duckdb.connect().execute(
        "SELECT * EXCLUDE (emitted_at, committed_at) FROM read_parquet(?) ORDER BY stream_id, generation, chunk_index",
        [[str(f) for f in files]],
    )
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def archived(archive: Archive) -> list[tuple[Any, ...]]:
    return archive.rows(
        """SELECT run_id, stream_key, generation, chunk_index, data_text, type, text_delta FROM tailrace.chunks
           WHERE run_id <> 'run_open' ORDER BY stream_id, generation, chunk_index"""
    )


def as_archived(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    names = ("run_id", "stream_key", "generation", "chunk_index", "data", "type", "text_delta")
    return [tuple(row[name] for name in names) for row in rows]


@pytest.mark.parametrize("form", FORMS)
def test_files_hold_the_archive_chunk_for_chunk(
    archive: Archive, engine: sa.Engine, tmp_path: Path, form: ExportFormat
) -> None:
    written = list(Export(engine, str(tmp_path), form).run())
    assert [(each.streams, each.chunks) for each in written] == [(11, 500 + len(CHUNKS))]
    rows = read(tmp_path, form)
    assert as_archived(rows) == archived(archive)
    by_stream: dict[int, list[tuple[int, int, bytes]]] = {}
    for row in rows:
        by_stream.setdefault(row["stream_id"], []).append((row["generation"], row["chunk_index"], row["data"].encode()))
    digests = dict(archive.rows("SELECT id, digest FROM tailrace.streams WHERE state = 'sealed'"))
    assert {stream: digest_of(iter(chunks)) for stream, chunks in by_stream.items()} == digests


@pytest.mark.parametrize("form", FORMS)
def test_a_second_time_writes_only_what_is_new(
    archive: Archive, engine: sa.Engine, tmp_path: Path, form: ExportFormat
) -> None:
    export = Export(engine, str(tmp_path), form)
    list(export.run())
    before = {file: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    assert list(export.run()) == []
    sealed(archive, "run_new", ['"new"'])
    assert [(each.streams, each.chunks) for each in export.run()] == [(1, 1)]
    assert {file: file.stat().st_mtime_ns for file in before} == before
    assert as_archived(read(tmp_path, form)) == archived(archive)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", ["in the file", "before the rows", "between files"])
def test_an_export_that_was_killed_goes_on(
    archive: Archive,
    engine: sa.Engine,
    tmp_path: Path,
    form: ExportFormat,
    cut: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tailrace.store.keeping.export.CHUNKS_PER_FILE", 120)
    monkeypatch.setattr("tailrace.store.keeping.export.ROWS_AT_A_TIME", 30)

    class Killed(BaseException):
        pass

    export = Export(engine, str(tmp_path), form)
    with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012 - which statement dies is the case
        if cut == "in the file":
            whole = Export._rows

            def half(self: Export, streams: Any) -> Iterator[Any]:
                yield next(whole(self, streams))
                raise Killed

            patch.setattr(Export, "_rows", half)
        elif cut == "before the rows":

            def never(*_: object) -> None:
                raise Killed

            patch.setattr(Export, "_note", never)
        for files, _ in enumerate(export.run(), 1):
            if cut == "between files" and files == 2:
                raise Killed
    again = Export(engine, str(tmp_path), form)
    list(again.run())
    assert as_archived(read(tmp_path, form)) == archived(archive)
    assert not [file for file in tmp_path.iterdir() if file.suffix == ".unfinished"]
    verified = list(again.verify())
    assert len(verified) == 6
    assert all(each.wrong == [] for each in verified)


@pytest.mark.parametrize("form", FORMS)
def test_a_file_that_was_cut_off_stays_nowhere_when_the_next_begins_with_another_stream(
    archive: Archive, engine: sa.Engine, tmp_path: Path, form: ExportFormat, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed when the file was there and no row was, and its first run is forgotten before the next export."""

    class Killed(BaseException):
        pass

    def never(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(Export, "_note", never)
    with pytest.raises(Killed):
        list(Export(engine, str(tmp_path), form).run())
    monkeypatch.undo()
    assert len(list(tmp_path.iterdir())) == 1
    archive.value("SELECT tailrace.forget_run('default', 'run_0')")
    export = Export(engine, str(tmp_path), form)
    list(export.run())
    assert as_archived(read(tmp_path, form)) == archived(archive)
    assert archive.value("SELECT count(*) FROM tailrace.exporting") == 0
    assert list(export.run()) == []


@pytest.mark.parametrize("form", FORMS)
def test_reading_back_finds_what_is_wrong(
    archive: Archive, engine: sa.Engine, tmp_path: Path, form: ExportFormat
) -> None:
    export = Export(engine, str(tmp_path), form)
    list(export.run())
    stream = archive.value("SELECT min(stream_id) FROM tailrace.exported")
    archive.run("UPDATE tailrace.exported SET digest = '\\x00' WHERE stream_id = %s", stream)
    (verified,) = export.verify()
    assert verified.wrong == [stream]
    assert archive.value("SELECT count(verified_at) FROM tailrace.exported") == 0


def test_only_what_was_archived_in_that_time_and_environment(
    archive: Archive, engine: sa.Engine, tmp_path: Path
) -> None:
    from datetime import UTC, datetime, timedelta

    now = datetime.now(UTC)
    export = Export(engine, str(tmp_path), ExportFormat.JSONL)
    assert list(export.run(since=now + timedelta(hours=1))) == []
    assert list(export.run(until=now - timedelta(hours=1))) == []
    assert list(export.run(environment="other")) == []
    assert len(list(export.run(since=now - timedelta(hours=1), environment="default"))) == 1


def test_a_stream_that_reopens_while_it_is_written_is_in_no_file(
    archive: Archive, engine: sa.Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export = Export(engine, str(tmp_path), ExportFormat.JSONL)
    note = Export._note

    def reopened_before(self: Export, *given: Any) -> None:
        reopen_run_3(archive)
        note(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Export, "_note", reopened_before)
        list(export.run())
    list(export.run())
    rows = as_archived(read(tmp_path, ExportFormat.JSONL))
    assert {row[0] for row in rows} == {f"run_{n}" for n in range(10) if n != 3} | {"run_odd"}
    assert len(rows) == len(set(rows)) == 450 + len(CHUNKS)


def test_a_stream_that_was_opened_again_later_is_told(archive: Archive, engine: sa.Engine, tmp_path: Path) -> None:
    export = Export(engine, str(tmp_path), ExportFormat.JSONL)
    list(export.run())
    assert export.changed() == 0
    reopen_run_3(archive)
    assert export.changed() == 1


def test_another_filesystem(archive: Archive, engine: sa.Engine) -> None:
    """As s3:// and gs:// do: pyarrow's filesystem interface and no path of this machine."""
    from datetime import UTC, datetime

    import pyarrow.fs as fs

    bucket = fs._MockFileSystem(datetime.now(UTC))
    export = Export(engine, "bucket/prefix", ExportFormat.PARQUET, filesystem=bucket)
    (written,) = export.run()
    assert written.path.startswith("bucket/prefix/chunks-")
    assert [each.wrong for each in export.verify()] == [[]]


def test_a_place_that_makes_no_sense_is_refused(engine: sa.Engine) -> None:
    with pytest.raises(BadSettings):
        Export(engine, "nonsense://x", ExportFormat.PARQUET)
