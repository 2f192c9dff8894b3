"""The open TCP connections of the server, so that one can be broken off, or all of them at the end.

ASGI has no word for a connection that breaks. The server's protocol class registers each connection here under the
client's address, and a request finds its own by that.
"""

from __future__ import annotations

import asyncio
import threading

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol


class Connections:
    """Filled by the protocol class that `protocol` makes; empty under any other server."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open: dict[tuple[str, int], asyncio.Transport] = {}
        self._streaming: set[asyncio.Transport] = set()

    def __len__(self) -> int:
        return len(self._open)

    def transports(self) -> list[asyncio.Transport]:
        """What is open now."""
        return list(self._open.values())

    def of(self, scope: Scope) -> asyncio.Transport | None:
        """The connection of a request; None when it is not known. Server's loop only."""
        client = scope.get("client")
        return self._open.get((client[0], client[1])) if client else None

    def begin_stream(self, scope: Scope) -> asyncio.Transport | None:
        """Note that the answer to a request is a stream from now on; return its connection. Server's loop only."""
        transport = self.of(scope)
        if transport is not None:
            self._streaming.add(transport)
        return transport

    def end_stream(self, transport: asyncio.Transport | None) -> None:
        """Undo `begin_stream`."""
        if transport is not None:
            self._streaming.discard(transport)

    def break_streams(self) -> None:
        """Break off every stream, after what was written of it. Server's loop only."""
        for transport in list(self._streaming):
            transport.close()

    def abort_all(self) -> None:
        """Drop every connection. Server's loop only."""
        for transport in self.transports():
            transport.abort()

    def protocol(self) -> type[H11Protocol]:
        """uvicorn's h11 protocol, registering here."""
        connections = self

        class RegisteringProtocol(H11Protocol):
            def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
                super().connection_made(transport)
                if self.client:
                    connections._open[self.client] = transport

            def connection_lost(self, exc: Exception | None) -> None:
                if self.client:
                    connections._open.pop(self.client, None)
                super().connection_lost(exc)

        return RegisteringProtocol
