"""Make server-sent events of chunks. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from tailrace.streams.session import Value

SSE_HEADERS: Mapping[str, str] = MappingProxyType(
    {"Content-Type": "text/event-stream", "Cache-Control": "no-cache", "Connection": "keep-alive"}
)
"""The headers of such a response, as in Trigger.dev's own examples."""

WSGI_HEADERS: Mapping[str, str] = MappingProxyType(
    {name: value for name, value in SSE_HEADERS.items() if name != "Connection"}
)
"""The same for a server that holds to PEP 3333, which leaves ``Connection`` to servers: wsgiref, waitress, Django's."""

HEARTBEAT = b": ping\n\n"
_LINE_END = re.compile(rb"\r\n|\r|\n")


class Events:
    """Renders the events of one response."""

    def __init__(self, payload: Callable[[Any], Any] | None, *, ids: bool, end_event: str | None) -> None:
        """``payload`` makes of a chunk what is sent as JSON; by default that is ``{"chunk": …}``, the chunk as it came.

        ``ids``: say the place of each chunk, for `Last-Event-ID`. ``end_event``: the name of a last event, if any.
        """
        self._payload = payload
        self._ids = ids
        self._end_event = end_event

    def chunk(self, value: Value) -> bytes:
        """Render one chunk."""
        if self._payload is None:
            data = b'{"chunk":%b}' % value.chunk.text.strip()
        else:
            data = msgspec.json.encode(self._payload(value.value), enc_hook=_encodable)
        head = b"id: %b\n" % value.chunk.token.encode() if self._ids else b""
        return head + _data(data)

    def end(self) -> bytes:
        """Render what is sent after the last chunk; often nothing."""
        return b"event: %b\ndata: {}\n\n" % self._end_event.encode() if self._end_event else b""


def _data(data: bytes) -> bytes:
    # JSON has line ends only between its parts, where a client puts them back as LF.
    return b"".join([b"data: %b\n" % line for line in _LINE_END.split(data)]) + b"\n"


def _encodable(value: Any) -> Any:
    dump = getattr(value, "model_dump", None)  # a pydantic model
    if dump is None:
        raise NotImplementedError(f"can't be sent as JSON: {type(value).__name__}")
    return dump(mode="json")
