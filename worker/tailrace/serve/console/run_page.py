"""The page of a run: its streams, and one of them in one of four views; and what keeps it fresh while it is open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tailrace.serve.console import drawing, shown_sql
from tailrace.serve.console.archive import ConsoleArchive
from tailrace.serve.console.questions import BadQuestion
from tailrace.store.overview import RunProgress, StreamProgress
from tailrace.store.queries import RunStatus
from tailrace.store.search import FoundRun, Wanted
from tailrace.store.statements import TookTooLong

__all__ = ["CUT_CHUNK", "CUT_TEXT", "PAGE", "VIEWS", "AskedStream", "news", "run_values", "the_run", "the_stream"]

VIEWS: Final = ("text", "parts", "chunks", "arrivals")
PAGE: Final = 100
"""Chunks, and parts, of a page."""
CUT_TEXT: Final = 500_000
"""Characters of a text; more than that nobody reads in a page, and it can be downloaded."""
CUT_PART: Final = 20_000
CUT_CHUNK: Final = 5_000
CUT_RAW: Final = 500
NEWS: Final = 1_000
"""Chunks that a page gets at once while a stream grows."""
SPANS: Final = 125
STREAMS_SHOWN: Final = 200
ACTIONS_SHOWN: Final = 20


@dataclass(frozen=True, slots=True)
class AskedStream:
    """Which stream of a run is looked at, and how. ``key`` None: the first. ``generation`` None: the newest. ``bare``:
    without its text, which whoever asks has: to put a long one together takes a second."""

    key: str | None
    view: str
    generation: int | None
    first: int
    bare: bool = False


def the_run(archive: ConsoleArchive, environment: str, run_id: str) -> RunStatus | None:
    """Find a run. Blocks, as all here does."""
    found = archive.overview.runs_named(run_id, environment)
    return found[0] if found else None


def the_stream(streams: Sequence[StreamProgress], key: str | None) -> StreamProgress | None:
    """Choose the stream that is looked at. Pure."""
    if key is None:
        return streams[0] if streams else None
    return next((each for each in streams if each.stream_key == key), None)


def run_values(archive: ConsoleArchive, run: RunStatus, asked: AskedStream) -> dict[str, Any]:
    """Read what the page of a run shows.

    Raises:
        BadQuestion: the run has no such stream.
    """
    progress: RunProgress = archive.overview.progress(run)
    about: list[FoundRun] = archive.search.page(Wanted(environment=run.environment, run_id=run.run_id), 1).runs
    streams = archive.overview.streams_progress(run.id)
    stream = the_stream(streams, asked.key)
    if stream is None and asked.key is not None:
        raise BadQuestion("The run has no stream of this name.")
    values: dict[str, Any] = {
        "run": progress,
        "about": about[0] if about else None,
        "streams": streams[:STREAMS_SHOWN],
        "left_out": max(0, len(streams) - STREAMS_SHOWN),
        "drawn": {each.id: _drawn(archive, each, each.generation) for each in streams[:STREAMS_SHOWN]},
        "stream": stream,
        "view": asked.view,
        "views": VIEWS,
        "width": drawing.WIDTH,
        "open": _is_open(progress, streams),
        "done": archive.audit.of_run(run.environment, run.run_id, ACTIONS_SHOWN),
        "sql": shown_sql.of_run(run.environment, run.run_id),
        "too_large": False,
    }
    if stream is not None:
        generation = stream.generation if asked.generation is None else min(asked.generation, stream.generation)
        names = shown_sql.StreamNames(run.environment, run.run_id, stream.stream_key, generation)
        values |= {"generation": generation, "checkpoint": _checkpoint(stream, generation)}
        values["bars"] = (
            values["drawn"][stream.id]
            if generation == stream.generation and stream.id in values["drawn"]
            else _drawn(archive, stream, generation)
        )
        try:
            show = _bare if asked.bare and asked.view == "text" else _SHOW[asked.view]
            values |= show(archive, stream, generation, asked.first, names)
        except TookTooLong:
            values |= {"too_large": True, "sql": _SQL_OF[asked.view](names)}
    return values


def news(archive: ConsoleArchive, run: RunStatus, asked: AskedStream) -> bytes:
    """Return, as JSON, how the streams of a run go, and the chunks of one after `AskedStream.first`."""
    progress = archive.overview.progress(run)
    streams = archive.overview.streams_progress(run.id)
    stream = the_stream(streams, asked.key)
    told: dict[str, Any] = {
        "open": _is_open(progress, streams),
        "state": progress.state,
        "status": progress.status,
        "verdict": progress.verdict,
        "streams": {
            str(each.id): [each.state, each.verdict, each.chunks, each.bytes, each.lag, each.chunks_per_s]
            for each in streams[:STREAMS_SHOWN]
        },
    }
    if stream is not None:
        chunks = archive.viewing.chunks(stream.id, stream.generation, asked.first, NEWS, CUT_CHUNK)
        told |= {
            "generation": stream.generation,
            "checkpoint": stream.checkpoint,
            "chunks": [[each.chunk_index, each.type, each.text_delta] for each in chunks],
        }
    return msgspec.json.encode(told)


def _is_open(run: RunProgress, streams: Sequence[StreamProgress]) -> bool:
    return run.state in ("requested", "watched") or any(
        each.state in ("pending", "active", "parked") for each in streams
    )


def _checkpoint(stream: StreamProgress, generation: int) -> int | None:
    """Up to where a generation is held; None: an earlier one, which its holes alone bound."""
    return stream.checkpoint if generation == stream.generation else None


def _drawn(archive: ConsoleArchive, stream: StreamProgress, generation: int) -> list[drawing.Bar]:
    # Most streams have no hole, and are asked about no further.
    holes = archive.viewing.holes(stream.id, generation) if stream.holes else []
    if generation == stream.generation:
        is_open = stream.state in ("pending", "active", "parked")
        return drawing.coverage(stream.checkpoint, stream.lag if is_open else None, holes)
    ends = [each.first_index for each in holes if each.reason == "recreated"]
    return drawing.coverage(ends[0] - 1 if ends else -1, None, holes)


def _text(
    archive: ConsoleArchive, stream: StreamProgress, generation: int, _first: int, names: shown_sql.StreamNames
) -> dict[str, Any]:
    found = [each for each in archive.viewing.texts(stream.id, CUT_TEXT) if each.generation == generation]
    text = found[0] if found else None
    return {"text": text, "cut": CUT_TEXT, "sql": shown_sql.of_text(names)}


def _bare(
    _archive: ConsoleArchive, _stream: StreamProgress, _generation: int, _first: int, names: shown_sql.StreamNames
) -> dict[str, Any]:
    return {"text": None, "cut": CUT_TEXT, "sql": shown_sql.of_text(names)}


def _parts(
    archive: ConsoleArchive, stream: StreamProgress, generation: int, first: int, names: shown_sql.StreamNames
) -> dict[str, Any]:
    parts = archive.viewing.parts(stream.id, generation, first, PAGE + 1, CUT_PART)
    more = parts[PAGE].first_index if len(parts) > PAGE else None
    return {"parts": parts[:PAGE], "first": first, "more": more, "cut": CUT_PART, "sql": shown_sql.of_parts(names)}


def _chunks(
    archive: ConsoleArchive, stream: StreamProgress, generation: int, first: int, names: shown_sql.StreamNames
) -> dict[str, Any]:
    chunks = archive.viewing.chunks(stream.id, generation, first, PAGE + 1, CUT_CHUNK)
    more = chunks[PAGE].chunk_index if len(chunks) > PAGE else None
    last = chunks[:PAGE][-1].chunk_index if chunks else first
    return {
        "chunks": chunks[:PAGE],
        "first": first,
        "page": PAGE,
        "more": more,
        "cut": CUT_CHUNK,
        "quarantined": archive.viewing.quarantined(stream.id, generation, PAGE, CUT_RAW) if stream.quarantined else [],
        "sql": shown_sql.of_chunks(names, first, last),
    }


def _arrivals(
    archive: ConsoleArchive, stream: StreamProgress, generation: int, _first: int, names: shown_sql.StreamNames
) -> dict[str, Any]:
    found = archive.viewing.arrivals(stream.id, generation, SPANS)
    if found is None:
        return {"arrivals": None, "sql": shown_sql.of_arrivals(names)}
    span_s = (found.last_ms - found.first_ms + 1) / 1000 / SPANS
    said = [f"{count} chunks, from {place * span_s:.1f} s on" for place, count in enumerate(found.counts)]
    return {
        "arrivals": found,
        "counts": drawing.bars(found.counts, said),
        "stalls": drawing.stalls(found),
        "most": max(found.counts) / span_s,
        "sql": shown_sql.of_arrivals(names),
    }


_SHOW = {"text": _text, "parts": _parts, "chunks": _chunks, "arrivals": _arrivals}
_SQL_OF = {
    "text": shown_sql.of_text,
    "parts": shown_sql.of_parts,
    "chunks": lambda names: shown_sql.of_chunks(names, 0, PAGE - 1),
    "arrivals": shown_sql.of_arrivals,
}
