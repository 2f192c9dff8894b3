"""A TCP proxy between a worker and a server, which fails on demand: at a byte, at a named point of a commit, or slowly.

It needs no code in the product: a worker is given the proxy's address. Every connection has two pump threads.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum

PIECE = 65_536
DRIP_BYTES, DRIP_S = 7, 0.002
FLUSH_MARK = b"INSERT INTO tailrace.segments"
"""Stands in the group commit and in no other statement of a worker."""


class Point(StrEnum):
    """Where in the life of a commit a fault strikes."""

    HALF_SENT = "half_sent"  # Postgres has half of the statement
    SENT = "sent"  # Postgres has all of it, and its answer has not come
    ANSWERED = "answered"  # Postgres has answered, and the worker has not read it


class Proxy:
    """Listens on a port of its own and passes everything on to ``target``."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=512)
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self._pairs: set[_Pair] = set()
        self._closed = False
        self.refusing = False
        self.delay_s = 0.0  # for each piece, both ways
        self.bytes_per_s = 0.0  # towards the server; 0: no limit
        self.dripping = False  # both ways, a few bytes at a time
        self.cuts = 0  # connections broken off at a byte
        self._cut_after: int | None = None
        self._flowing = threading.Event()
        self._flowing.set()
        self._armed: _Armed | None = None
        self.flushes = 0
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    @property
    def connections(self) -> int:
        """How many there are."""
        with self._lock:
            return len(self._pairs)

    # --- faults

    def cut(self) -> None:
        """Break off every connection with a reset."""
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.reset()

    def cut_after(self, size_bytes: int) -> None:
        """Break off the connection over which the byte after so many passes, counted from now, both ways. One time."""
        with self._lock:
            self._cut_after = size_bytes

    def refuse(self) -> None:
        """Break off every connection, and each new one at once."""
        self.refusing = True
        self.cut()

    def hang(self) -> None:
        """Pass nothing on, new connections included, and close nothing: a network that drops packets."""
        self._flowing.clear()

    def behave(self) -> None:
        """Pass everything on from now on."""
        self.refusing = False
        self.delay_s = self.bytes_per_s = 0.0
        self.dripping = False
        self._cut_after = None
        self._armed = None
        self._flowing.set()

    def at(self, point: Point, action: Callable[[], None], *, cut: bool) -> threading.Event:
        """When the next commit is at ``point``: do ``action``, then cut its connection or let it hang. One time.

        The event is set when it has happened.
        """
        armed = _Armed(point, action, cut)
        self._armed = armed
        return armed.happened

    def disarm(self) -> bool:
        """Forget what `at` was told; False when a commit is at that point already."""
        with self._lock:
            armed, self._armed = self._armed, None
        return armed is not None

    def close(self) -> None:
        self._closed = True
        self._flowing.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()
        self._thread.join(5)
        with self._lock:
            pairs = list(self._pairs)
        for pair in pairs:
            pair.join()

    # --- within

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                _reset(client)
                continue
            try:
                server = socket.create_connection(self._target, 5)
            except OSError:
                _reset(client)
                continue
            server.settimeout(None)
            pair = _Pair(self, client, server)
            with self._lock:
                self._pairs.add(pair)
            pair.start()

    def _forget(self, pair: _Pair) -> None:
        with self._lock:
            self._pairs.discard(pair)

    def _until_cut(self, size_bytes: int) -> int | None:
        """Count bytes that are about to pass; return how many may, when the connection is to break off among them."""
        with self._lock:
            left = self._cut_after
            if left is None:
                return None
            if size_bytes <= left:
                self._cut_after = left - size_bytes
                return None
            self._cut_after = None
            self.cuts += 1
            return left

    def _take_armed(self, *points: Point) -> _Armed | None:
        with self._lock:
            armed = self._armed
            if armed is None or armed.point not in points:
                return None
            self._armed = None
            return armed


class _Armed:
    def __init__(self, point: Point, action: Callable[[], None], cut: bool) -> None:
        self.point = point
        self.action = action
        self.cut = cut
        self.happened = threading.Event()


class _Pair:
    """One connection of the client and the one to the server that belongs to it."""

    def __init__(self, proxy: Proxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        self._ended = threading.Event()
        self._answering: _Armed | None = None
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._pumps = [
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True),
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True),
        ]

    def start(self) -> None:
        for pump in self._pumps:
            pump.start()

    def join(self) -> None:
        for pump in self._pumps:
            pump.join(5)

    def reset(self) -> None:
        self._ended.set()
        for end in (self._client, self._server):
            _reset(end)

    def _pump(self, source: socket.socket, sink: socket.socket, to_server: bool) -> None:
        proxy = self._proxy
        try:
            while piece := source.recv(PIECE):
                while not proxy._flowing.wait(0.2):
                    if self._ended.is_set():
                        return
                if proxy.delay_s:
                    time.sleep(proxy.delay_s)
                if to_server and proxy.bytes_per_s:
                    time.sleep(len(piece) / proxy.bytes_per_s)
                if to_server and FLUSH_MARK in piece:
                    proxy.flushes += 1
                    armed = proxy._take_armed(*Point)
                    if armed is not None:
                        if armed.point is Point.HALF_SENT:
                            sink.sendall(piece[: len(piece) // 2])
                            self._strike(armed)
                            return
                        self._answering = armed  # before it is sent: the answer is quick
                elif not to_server and (armed := self._answering) is not None:
                    self._answering = None  # ANSWERED, and SENT as well: the answer is not passed on
                    self._strike(armed)
                    return
                allowed = proxy._until_cut(len(piece))
                if allowed is not None:
                    sink.sendall(piece[:allowed])
                    self.reset()
                    return
                self._pass(sink, piece)
                if to_server and (armed := self._answering) is not None and armed.point is Point.SENT:
                    self._answering = None
                    self._strike(armed)
                    return
        except OSError:
            pass
        finally:
            self._finish()

    def _pass(self, sink: socket.socket, piece: bytes) -> None:
        at = 0
        while at < len(piece):
            size = DRIP_BYTES if self._proxy.dripping else len(piece)
            sink.sendall(piece[at : at + size])
            at += size
            if self._proxy.dripping:
                time.sleep(DRIP_S)

    def _strike(self, armed: _Armed) -> None:
        armed.action()
        armed.happened.set()
        if not armed.cut:  # until somebody cuts it, or the other side ends it
            self._ended.wait()

    def _finish(self) -> None:
        self._ended.set()
        for end in (self._client, self._server):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
        self._proxy._forget(self)


def _reset(end: socket.socket) -> None:
    """Close so that the other side gets a reset; wakes a thread that waits on it."""
    with contextlib.suppress(OSError):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


@contextlib.contextmanager
def proxied(target: tuple[str, int]) -> Iterator[Proxy]:
    proxy = Proxy(target)
    try:
        yield proxy
    finally:
        proxy.close()
