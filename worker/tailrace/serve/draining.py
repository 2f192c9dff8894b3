"""A server that lets its readers go in good order: to another one that has the same archive."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from types import FrameType

from starlette.applications import Starlette

from tailrace.errors import BadSettings
from tailrace.serve.connections import Connections
from tailrace.serve.server import Server, allow_many_connections, connections_of, listen, url_of

DRAIN_S = 10.0
"""So long short answers may take, and slow readers what was written to them."""


class DrainingServer(Server):
    """Stops by breaking streams off after a whole piece of them, and by giving short answers to their end.

    Upstream's own client takes a clean end for the end of the stream, and does not come back; a body that breaks off
    sends it to the next server, with the place where it was.
    """

    def __init__(self, app: Starlette, connections: Connections, stop_waiting: Callable[[], None]) -> None:
        """``stop_waiting`` has answers that wait for a change give up waiting."""
        super().__init__(app, connections)
        self._stop_waiting = stop_waiting

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        for server in self.servers:
            server.close()
        for listener in sockets or []:
            listener.close()
        self._stop_waiting()
        self._connections.break_streams()
        for connection in list(self.server_state.connections):
            connection.shutdown()  # at once when it is idle, else after its answer
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=DRAIN_S)
        self._connections.abort_all()
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=DRAIN_S)
        for server in self.servers:
            await server.wait_closed()


async def serve_until_told(
    app: Starlette, host: str, port: int, stop_waiting: Callable[[], None], close: Callable[[], Awaitable[None]]
) -> None:
    """Serve until SIGTERM or SIGINT; then drain, and close. Port 0 takes a free one. Prints the URL on a line.

    Raises:
        BadSettings: the address or the port can't be had.
    """
    allow_many_connections()
    try:
        listener = listen(host, port)
    except OSError as error:
        await close()
        raise BadSettings(f"Port {port} of {host} can't be had: {error.strerror or error}.") from error
    sys.stdout.write(url_of(listener) + "\n")
    sys.stdout.flush()
    # uvicorn raises a signal again once it has stopped for it; then all is in order.
    before = {number: signal.signal(number, _taken) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        await DrainingServer(app, connections_of(app), stop_waiting).serve(sockets=[listener])
    finally:
        await close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _taken(_number: int, _frame: FrameType | None) -> None:
    """A signal that was obeyed already."""
