"""The fields of one row about a run, of the run feed or of the list: checked for what the archive can hold. Pure.

Each function returns one field of a row, or raises MalformedRecord that names it. A text that no database takes (NUL,
halves of surrogate pairs) is made one, except in a run's id, which would be another one then.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from tailrace.errors import MalformedRecord
from tailrace.redaction import excerpt

KEY_MAX_BYTES = 2_000
"""A longer run id, stream key or tag fits into no index of the archive (2 704 bytes), and hardly into a URL."""
STATUS_MAX_CHARS = 100
TEXT_MAX_CHARS = 20_000
"""Of the name of a task, which somebody has typed."""

_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that can't be read, and that keeps no other from being read.

    ``run_id``: whose it is, None where that can't be told. ``field``: what of it is wrong, one of few words. ``reason``
    says it in a sentence.
    """

    run_id: str | None
    field: str
    reason: str


def bad_row(row: Any, id_field: str, error: MalformedRecord) -> BadRow:
    """Return what is known of a row that could not be read."""
    try:
        whose = run_id(row, id_field) if isinstance(row, dict) else None
    except MalformedRecord:
        whose = None
    return BadRow(whose, error.field, str(error))


def run_id(row: dict[str, Any], field: str) -> str:
    """Return a run's id: text that a database holds and indexes."""
    value = row.get(field)
    if not is_key(value):
        raise MalformedRecord(f"{field} is no run id: {excerpt(repr(value), 100)}", field=field)
    return str(value)


def is_key(value: Any) -> bool:
    """Return whether this can be the id of a run or the key of a stream. Upstream's come from a database too."""
    return isinstance(value, str) and value != "" and storable(value) == value and len(value.encode()) <= KEY_MAX_BYTES


def status(row: dict[str, Any], field: str) -> str:
    """Return a status. One that nobody has heard of is one too."""
    value = row.get(field)
    if not isinstance(value, str) or len(value) > STATUS_MAX_CHARS:
        raise MalformedRecord(f"{field} is no status: {excerpt(repr(value), 100)}", field=field)
    return storable(value)


def text(row: dict[str, Any], field: str) -> str | None:
    """Return a text, None where there is none."""
    value = row.get(field)
    if not isinstance(value, str | None):
        raise MalformedRecord(f"{field} is no text: {excerpt(repr(value), 100)}", field=field)
    if value is not None and len(value) > TEXT_MAX_CHARS:
        raise MalformedRecord(f"{field} has {len(value)} characters", field=field)
    return None if value is None else storable(value)


def tags(values: Any, field: str) -> tuple[str, ...]:
    """Return tags. One that fits into no index is left out: upstream's have 128 characters at most."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise MalformedRecord(f"{field} is no list of texts: {excerpt(repr(values), 100)}", field=field)
    return tuple(tag for tag in map(storable, values) if len(tag.encode()) <= KEY_MAX_BYTES)


def moment(row: dict[str, Any], field: str) -> datetime | None:
    """Return a time, None where there is none."""
    value = row.get(field)
    try:
        return timestamp(value)
    except (MalformedRecord, TypeError):
        raise MalformedRecord(f"{field} is no time: {excerpt(repr(value), 100)}", field=field) from None


def timestamp(value: str | None) -> datetime | None:
    """Read a timestamp of upstream's: UTC if it names no zone, ``T`` or a blank between date and time."""
    if value is None or value == "":
        return None
    try:
        found = datetime.fromisoformat(value)
        return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)
    except (ValueError, OverflowError) as error:  # the second: its zone takes it out of the calendar
        raise MalformedRecord(f"not a timestamp: {excerpt(value, 40)!r}") from error


def storable(value: str) -> str:
    """Return a name of upstream's with U+FFFD for what no database takes in text: NUL, halves of surrogate pairs."""
    return _NOT_STORABLE.sub("\ufffd", value)
