"""An upstream of raw sockets, for what no sound server would send: lines without end, chunks of any size, at will."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from email.utils import formatdate

FIRST_MS = 1_700_000_000_000


class Response:
    """One v1 stream that a worker reads: a chunked body. ``ended`` is set when nobody will read any more."""

    def __init__(self, raw: socket.socket, ended: threading.Event) -> None:
        self._raw = raw
        self.ended = ended

    def write(self, data: bytes) -> None:
        self._raw.sendall(b"%x\r\n%b\r\n" % (len(data), data))

    def begin(self, number: int) -> None:
        """Begin the event with this number."""
        self.write(b"id: %d-0\ndata: " % (FIRST_MS + number))

    def event(self, number: int, data: bytes) -> None:
        self.write(b"id: %d-0\ndata: %b\n\n" % (FIRST_MS + number, data))

    def ping(self) -> None:
        self.write(b": ping\n\n")

    def drip(self, until: threading.Event) -> None:
        """Send a byte now and then, so that nobody takes the line for dead."""
        while not until.wait(0.5) and not self.ended.is_set():
            self.write(b"y")


Write = Callable[[Response, int], None]


class Hostile:
    """Runs that are never over, each with one stream, ``ai``. ``write`` gets each connection and its run's number."""

    def __init__(self, runs: Sequence[str], write: Write) -> None:
        self._runs = list(runs)
        self._write = write
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=1_000)
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._start(self._accept)

    def close(self) -> None:
        self._ended.set()
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for raw in list(self._open):
            with suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join()

    def _start(self, target: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while not self._ended.is_set():
                raw, _ = self._listening.accept()
                self._open.add(raw)
                self._start(self._serve, raw)

    def _serve(self, raw: socket.socket) -> None:
        with raw, raw.makefile("rb") as lines, suppress(OSError):
            while not self._ended.is_set() and (request := lines.readline()):
                while lines.readline() not in (b"\r\n", b""):
                    pass
                path = request.decode().split(" ")[1].partition("?")[0]
                if path.startswith("/realtime/v1/streams/"):
                    raw.sendall(_head({"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
                    self._write(Response(raw, self._ended), self._runs.index(path.split("/")[4]))
                    break
                body = json.dumps([*map(_row, self._runs), {"headers": {"control": "up-to-date"}}]).encode()
                shown = {"content-type": "application/json", "electric-handle": "h", "electric-offset": "1_1"}
                raw.sendall(_head({**shown, "content-length": str(len(body))}) + body)
        self._open.discard(raw)


def _head(headers: dict[str, str]) -> bytes:
    lines = ["HTTP/1.1 200 OK", f"date: {formatdate(usegmt=True)}", *(f"{name}: {headers[name]}" for name in headers)]
    return "\r\n".join([*lines, "", ""]).encode()


def _row(run_id: str) -> dict[str, object]:
    value = {
        "id": run_id,
        "friendlyId": run_id,
        "taskIdentifier": "t",
        "status": "EXECUTING",
        "createdAt": "2026-01-01T00:00:00.000",
        "realtimeStreams": "{ai}",
    }
    return {"key": f'"r"/"{run_id}"', "value": value, "headers": {"operation": "insert"}}


@contextmanager
def hostile(runs: Sequence[str], write: Write) -> Iterator[Hostile]:
    """Serve them; everything is closed afterwards."""
    upstream = Hostile(runs, write)
    try:
        yield upstream
    finally:
        upstream.close()
