"""Wake whoever waits on a connection, from another thread."""

from __future__ import annotations

import contextlib
import socket
from typing import Any


class Interruptible:
    """Remembers the socket of the connection in use, so that another thread can wake whoever waits on it."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def interrupt(self) -> None:
        """Wake whoever waits on the connection, from any thread: the socket is shut down, so its read ends at once.

        On an unframed body that looks like a clean end: the waker sets a flag first, which is looked at before any
        end is believed.
        """
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)

    def _trace(self, name: str, info: dict[str, Any]) -> None:
        # The only way to reach the socket before the answer has come.
        if name in ("connection.connect_tcp.complete", "connection.start_tls.complete"):
            self._remember(info.get("return_value"))

    def _remember(self, network_stream: Any) -> None:
        if network_stream is not None:
            self._socket = network_stream.get_extra_info("socket")
