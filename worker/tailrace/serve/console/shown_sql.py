"""The SQL of what a page shows, to be pasted: only views and functions that are a contract (docs/sql.md). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from tailrace.store.search import Wanted

__all__ = ["StreamNames", "literal", "of_arrivals", "of_chunks", "of_parts", "of_run", "of_runs", "of_text"]


class StreamNames(NamedTuple):
    """What a statement names a stream by."""

    environment: str
    run_id: str
    stream_key: str
    generation: int


def literal(text: str) -> str:
    """Write a text as SQL does, whatever it holds; NUL, which no text of Postgres can hold, is left out."""
    plain = text.replace("\0", "").replace("'", "''")
    # With a backslash in it, E'...' means the same whatever standard_conforming_strings says.
    return "E'" + plain.replace("\\", "\\\\") + "'" if "\\" in plain else f"'{plain}'"


def of_runs(wanted: Wanted, most: int) -> str:
    """The list of runs that are wanted."""
    said: Mapping[str, str | None] = {
        "environment = {}": wanted.environment,
        "run_id = {}": wanted.run_id,
        "task_identifier = {}": wanted.task,
        "status = {}": wanted.status,
        "verdict = {}": wanted.verdict,
        "tags @> ARRAY[{}]": wanted.tag,
        "run >= tailrace.stream_id_at({})": wanted.since.isoformat() if wanted.since else None,
        "run < tailrace.stream_id_at({})": wanted.until.isoformat() if wanted.until else None,
        "run_id IN (SELECT run_id FROM tailrace.search_text({}))": wanted.text,
    }
    where = [condition.format(literal(value)) for condition, value in said.items() if value is not None]
    if wanted.before is not None:
        where.append(f"run < {wanted.before}")
    lines = [
        "SELECT run_id, task_identifier, status, verdict, chunks, gaps, requested_at",
        "FROM tailrace.run_overview",
    ]
    lines += [f"{'WHERE' if place == 0 else '  AND'} {each}" for place, each in enumerate(where)]
    return "\n".join([*lines, f"ORDER BY run DESC LIMIT {most};"])


def of_run(environment: str, run_id: str) -> str:
    """The streams of a run."""
    return (
        "SELECT stream_key, state, verdict, chunks, bytes, lag, longest_stall_s, last_error\n"
        "FROM tailrace.stream_stats\n"
        f"WHERE environment = {literal(environment)} AND run_id = {literal(run_id)}\nORDER BY stream_key;"
    )


def of_text(stream: StreamNames) -> str:
    """The text of a stream."""
    return f"SELECT text FROM tailrace.stream_text\n{_where(stream)};"


def of_parts(stream: StreamNames) -> str:
    """The parts of its messages."""
    return (
        "SELECT first_index, last_index, kind, text, tool_name, state, input, output, error_text, superseded\n"
        f"FROM tailrace.message_parts\n{_where(stream)}\nORDER BY first_index;"
    )


def of_chunks(stream: StreamNames, first: int, last: int) -> str:
    """Its chunks from one index to another."""
    run, key = literal(stream.run_id), literal(stream.stream_key)
    return (
        "SELECT chunk_index, emitted_at, type, data_text\n"
        f"FROM tailrace.chunks_range({run}, {key}, {first}, {last})\n"
        f"WHERE environment = {literal(stream.environment)} AND generation = {stream.generation}\nORDER BY chunk_index;"
    )


def of_arrivals(stream: StreamNames) -> str:
    """Its pauses, the longest first."""
    return (
        "SELECT chunk_index, emitted_at - lag(emitted_at) OVER (ORDER BY chunk_index) AS pause\n"
        f"FROM tailrace.chunks\n{_where(stream)}\nORDER BY pause DESC NULLS LAST LIMIT 10;"
    )


def _where(stream: StreamNames) -> str:
    return (
        f"WHERE environment = {literal(stream.environment)} AND run_id = {literal(stream.run_id)}\n"
        f"  AND stream_key = {literal(stream.stream_key)} AND generation = {stream.generation}"
    )
