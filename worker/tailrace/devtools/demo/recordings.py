"""What the demonstration plays: the bundled recordings as runs of their own, and the chunks they are made of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import msgspec


@dataclass(frozen=True, slots=True)
class DemoRun:
    """A run to be played from ``path``. ``chunks``: by stream, each chunk's JSON text in order."""

    run_id: str
    path: Path
    chunks: dict[str, list[bytes]]


class _Line(msgspec.Struct):
    stream: str | None = None
    chunk: msgspec.Raw = msgspec.Raw()  # empty when there is none: no JSON text is
    text: str | None = None
    entry: str | None = None


def prepare(recordings: list[Path], directory: Path, suffix: str) -> list[DemoRun]:
    """Copy recordings into ``directory`` as runs whose ids end with ``suffix`` and whose times begin when they start.

    So that the demonstration can be repeated: a run that is sealed in the archive would not be read again.
    """
    runs = []
    for path in recordings:
        head, _, lines = path.read_text(encoding="utf-8").partition("\n")
        run = json.loads(head)
        run["run_id"] += suffix
        run.pop("created_at", None)
        copy = directory / f"{path.stem}{suffix}.jsonl"
        copy.write_text(json.dumps(run, ensure_ascii=False) + "\n" + lines, encoding="utf-8")
        runs.append(DemoRun(run["run_id"], copy, chunks_of(copy.read_bytes())))
    return runs


def chunks_of(recording: bytes) -> dict[str, list[bytes]]:
    """Read the chunks out of a recording: what is written there, byte for byte, without the server's code between."""
    pieces: dict[str, list[bytes]] = {}
    for raw in recording.split(b"\n")[1:]:
        if not raw:
            continue
        line = msgspec.json.decode(raw, type=_Line)
        if line.stream is None:
            continue
        written = pieces.setdefault(line.stream, [])
        if bytes(line.chunk):
            written.append(bytes(line.chunk) + b"\n")
        elif line.text is not None:
            written.append(line.text.encode() + b"\n")
        elif line.entry is not None:  # a piece of what was written: lines end where they end
            written.append(line.entry.encode())
    return {key: [line for line in b"".join(written).split(b"\n") if line] for key, written in pieces.items()}
