"""The open TCP connections of the server, so that one can be broken off, or all of them at the end.

ASGI has no word for a connection that breaks. The server's protocol class registers each connection here under the
client's address, and a request finds its own by that.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from typing import Any

from starlette.types import Scope
from uvicorn.protocols.http.h11_impl import H11Protocol

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST and drops what is unsent


class Connections:
    """Filled by the protocol class that `protocol` makes; empty under any other server."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._open: dict[tuple[str, int], asyncio.Transport] = {}

    def __len__(self) -> int:
        return len(self._open)

    def transports(self) -> list[asyncio.Transport]:
        """What is open now."""
        return list(self._open.values())

    def close(self, scope: Scope) -> bool:
        """Close the connection of a request after what was written. False when it is not known. Server's loop only."""
        if transport := self._of(scope):
            transport.close()
        return transport is not None

    def reset(self, scope: Scope) -> bool:
        """Reset the connection of a request. False when it is not known. Server's loop only."""
        if transport := self._of(scope):
            sock: Any = transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            transport.abort()
        return transport is not None

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

    def _of(self, scope: Scope) -> asyncio.Transport | None:
        client = scope.get("client")
        return self._open.get((client[0], client[1])) if client else None
