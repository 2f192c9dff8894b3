"""The file format of a recording: JSON lines, one run per file. Pure but for reading the file.

The first line is the run::

    {"tailrace_recording": 1, "run_id": "run_1", "wire": "v2", "task_identifier": "chat", "tags": ["demo"],
     "created_at": "2026-11-01T09:00:00Z", "metadata": {}}

``created_at`` fixes every time and id; without it they begin when the run is first asked for. Each line after it has
``at_ms``, the time since the beginning, never less than on the line before, and one of these:

==============================================  ==================================================================
``"stream": "ai", "chunk": <any JSON>``         a chunk, kept as it is written there: blanks, key order, ``1.10``
``"stream": "ai", "text": "<JSON text>"``       the same, for a text that this file cannot hold as it is
``"stream": "ai", "entry": "<text>"``           v1: an entry as Redis keeps it, LF included where there is one
``"stream": "ai", "body": "…", "headers": []``  v2: a record as S2 keeps it; each of the two may be missing
``"stream": "ai"``                              the stream is opened: its key is listed from now on
``"status": "COMPLETED_SUCCESSFULLY"``          the run's status from now on, by its database name
==============================================  ==================================================================

A v2 chunk can have ``"id"``, the writer's id of seven characters; without it one is made up, the same each time. A run
is EXECUTING until the file says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Literal

import msgspec

from tailrace.errors import MalformedRecord
from tailrace.model import Wire
from tailrace.serve.records import Draft, data_draft
from tailrace.wire.statuses import is_terminal

_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"


@dataclass(frozen=True, slots=True)
class StatusChange:
    """From ``at_ms`` on the run has this status."""

    at_ms: int
    status: str

    @property
    def final(self) -> bool:
        return is_terminal(self.status)


@dataclass(frozen=True, slots=True)
class Moment:
    """At ``at_ms`` this comes to a stream: the text of a v1 entry, a v2 record, or nothing but its being opened."""

    at_ms: int
    key: str
    content: bytes | Draft | None


@dataclass(frozen=True, slots=True)
class Recording:
    """A run and what happened to it, in order."""

    run_id: str
    wire: Wire
    task_identifier: str
    tags: tuple[str, ...]
    created_at: datetime | None
    metadata: str | None
    moments: tuple[Moment, ...]
    statuses: tuple[StatusChange, ...]


_ABSENT = msgspec.Raw()  # empty, which no JSON value is


class _Header(msgspec.Struct, forbid_unknown_fields=True):
    tailrace_recording: Literal[1]
    run_id: str
    wire: Wire
    task_identifier: str = "recorded-task"
    tags: list[str] = []
    created_at: datetime | None = None
    metadata: msgspec.Raw = _ABSENT


class _Line(msgspec.Struct, forbid_unknown_fields=True):
    at_ms: int
    stream: str | None = None
    status: str | None = None
    chunk: msgspec.Raw = _ABSENT
    text: str | None = None
    entry: str | None = None
    body: str | None = None
    headers: list[tuple[str, str]] | None = None
    id: str | None = None


def read_recording(path: Path) -> Recording:
    """Read a file.

    Raises:
        MalformedRecord: it is not in the format; the message has the file's name and the line's number.
        OSError: it cannot be read.
    """
    return parse_recording(path.read_bytes(), path.name)


def parse_recording(content: bytes, name: str) -> Recording:
    """As `read_recording`, from the file's bytes. Blank lines are skipped."""
    header: _Header | None = None
    moments: list[Moment] = []
    statuses: list[StatusChange] = []
    at_ms = 0
    for number, raw in enumerate(content.split(b"\n"), 1):
        if not raw.strip():
            continue
        try:
            if header is None:
                header = _HEADERS.decode(raw)
                continue
            line = _LINES.decode(raw)
            if line.at_ms < at_ms:
                raise ValueError(f"at_ms goes back from {at_ms} to {line.at_ms}")
            at_ms = line.at_ms
            if line.status is not None:
                statuses.append(StatusChange(at_ms, line.status))
            if line.stream is not None:
                moments.append(Moment(at_ms, line.stream, _content(line, header.wire, len(moments))))
            elif line.status is None:
                raise ValueError("neither stream nor status")
        except (msgspec.MsgspecError, ValueError) as error:
            raise MalformedRecord(f"{name}, line {number}: {error}") from error
    if header is None:
        raise MalformedRecord(f"{name}: empty, there is no run in it")
    return Recording(
        run_id=header.run_id,
        wire=header.wire,
        task_identifier=header.task_identifier,
        tags=tuple(header.tags),
        created_at=header.created_at,
        metadata=bytes(header.metadata).decode() or None,
        moments=tuple(moments),
        statuses=tuple(statuses),
    )


_HEADERS = msgspec.json.Decoder(_Header)
_LINES = msgspec.json.Decoder(_Line)


def _content(line: _Line, wire: Wire, number: int) -> bytes | Draft | None:
    given = ["chunk"] if bytes(line.chunk) else []
    given += [name for name in ("text", "entry") if getattr(line, name) is not None]
    if line.body is not None or line.headers is not None:
        given.append("body or headers")
    if len(given) > 1:
        raise ValueError(f"one line cannot have {' and '.join(given)}")
    if not given:
        return None
    if given[0] in ("chunk", "text"):
        text = bytes(line.chunk) or (line.text or "").encode()
        return text + b"\n" if wire is Wire.V1 else data_draft(text, line.id or body_id(number))
    if given[0] == "entry":
        _only_on(Wire.V1, wire, "entry")
        return (line.entry or "").encode()
    _only_on(Wire.V2, wire, "body or headers")
    return Draft((line.body or "").encode(), tuple(line.headers or ()))


def _only_on(expected: Wire, wire: Wire, what: str) -> None:
    if wire is not expected:
        raise ValueError(f"{what} is for {expected} runs")


def body_id(number: int) -> str:
    """A writer's id of seven characters, the same for the same number and unlike its neighbours'."""
    # A prime multiplier below 36**7 spreads neighbours over all characters and never meets itself before 36**7.
    value = (number + 1) * 1_000_000_007 % 36**7
    digits = ""
    for _ in range(7):
        value, digit = divmod(value, 36)
        digits += _ALPHABET[digit]
    return digits
