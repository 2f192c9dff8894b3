"""A stream as a file: chunks as JSON lines, read part by part, or its text."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final
from urllib.parse import quote

import msgspec

from tailrace.serve.console.archive import ConsoleArchive
from tailrace.store.contents import Part, StreamPlace
from tailrace.store.overview import StreamProgress

__all__ = ["TEXT_MOST_BYTES", "attached", "json_lines", "place_of"]

PART_CHUNKS: Final = 2_000
PART_BYTES: Final = 1_048_576
TEXT_MOST_BYTES: Final = 67_108_864
"""A text is put together in memory: that of a stream with more bytes of chunks is for `tailrace text`."""


def place_of(stream: StreamProgress) -> StreamPlace:
    """Return up to where a stream is given out: its checkpoint when it was asked for."""
    return StreamPlace(stream.id, stream.wire, stream.generation, stream.checkpoint, None, stream.state)


async def json_lines(archive: ConsoleArchive, place: StreamPlace, key: str) -> AsyncIterator[bytes]:
    """Give out every chunk as a line, as `tailrace chunks --json` does. No connection is held meanwhile."""
    generation, index = 0, 0
    while True:
        part: Part | None = await archive.run(archive.part, place, generation, index, PART_CHUNKS, PART_BYTES)
        if part is None:
            return
        lines = [
            msgspec.json.encode(
                {
                    "stream_key": key,
                    "generation": generation,
                    "index": each.chunk_index,
                    "emitted_ms": each.emitted_ms,
                    "data_text": each.text.decode(),
                }
            )
            for each in part.stored
            if not each.reason
        ]
        if lines:
            yield b"\n".join(lines) + b"\n"
        generation, index = part.next_generation, part.next_index


def attached(name: str) -> dict[str, str]:
    """Return the header that has a browser save an answer under this name, whatever it holds (RFC 6266)."""
    plain = "".join(each if each.isascii() and (each.isalnum() or each in "-_.") else "_" for each in name)[:150]
    return {"content-disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name[:150], safe='')}"}
