"""Misbehaviour on demand: what the next requests for a stream, a run or everything are to suffer. Thread-safe.

Each fault is used up by one request, in the order in which faults were set; those for the very target come before those
for `everything`. A request without a fault waiting is served as upstream would.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.serve.body import BrokenOff, StreamBody, client_left
from tailrace.serve.connections import Connections
from tailrace.serve.records import DONE, error_event
from tailrace.serve.upstream import RUN_LIST, RUNS_FEED, Target
from tests.upstream.usual_answers import usual

EVERYTHING = Target("everything")

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 seconds: close sends RST and drops what is unsent


class Break(StrEnum):
    """How a body ends that does not end cleanly."""

    CUT = "cut"  # the connection is closed before the last chunk
    RESET = "reset"  # the connection is reset
    HANG = "hang"  # nothing more is sent, and nothing is closed


class ResetOff(BrokenOff):
    """Raised by the blocks of a body whose connection is to be reset here and now."""

    def end(self, transport: asyncio.Transport) -> None:
        sock: Any = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        transport.abort()


@dataclass(frozen=True, slots=True)
class Answer:
    """Another status instead of the right answer. ``body`` None is upstream's usual body for that status."""

    status: int
    body: bytes | None = None
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class BreakOff:
    """The right answer, broken off after so many bytes of its body (as it is before compression).

    A body that is shorter ends as usual.
    """

    how: Break
    after_bytes: int


@dataclass(frozen=True, slots=True)
class Silence:
    """No answer at all: not even headers. The connection stays open."""


@dataclass(frozen=True, slots=True)
class ErrorEvent:
    """v2: so many events, then an ``error`` event and the end of the body, without [DONE]."""

    after_events: int
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class NoDone:
    """v2: everything but the [DONE]: the body ends cleanly without it."""


@dataclass(frozen=True, slots=True)
class Gzip:
    """A compressed body, also for a client that did not ask for one."""


class Lie(StrEnum):
    """What something between upstream and a reader says that is not so. Only of v2: its records have numbers."""

    TWICE = "twice"  # each batch comes again
    LOST = "lost"  # the first batch does not come
    OLD_TAIL = "old_tail"  # pings, and the first word, tell a tail of before
    NOTHING = "nothing"  # an empty stream, cleanly ended
    WITHHELD = "withheld"  # pings with the true tail, and no record


@dataclass(frozen=True, slots=True)
class Untrue:
    """The right answer, with something in it that is not so."""

    lie: Lie


Fault = Answer | BreakOff | Silence | ErrorEvent | NoDone | Gzip | Untrue


class Faults:
    """The faults that wait for their requests."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: dict[Target, deque[Fault]] = {}

    def stream(self, run_id: str, key: str) -> FaultSetter:
        """For reads of one stream; an input stream has its stored key, ``$trigger.input:…``."""
        return FaultSetter(self, Target("stream", run_id, key))

    def feed(self, run_id: str) -> FaultSetter:
        """For the run feed of one run."""
        return FaultSetter(self, Target("feed", run_id))

    def api(self, run_id: str) -> FaultSetter:
        """For ``/api/v3/runs/{run}``."""
        return FaultSetter(self, Target("api", run_id))

    def runs_feed(self) -> FaultSetter:
        """For the feed of many runs, ``/realtime/v1/runs``."""
        return FaultSetter(self, RUNS_FEED)

    def run_list(self) -> FaultSetter:
        """For ``/api/v1/runs``."""
        return FaultSetter(self, RUN_LIST)

    def everything(self) -> FaultSetter:
        """For whatever is asked next."""
        return FaultSetter(self, EVERYTHING)

    def put(self, target: Target, fault: Fault, times: int) -> None:
        """Let the next ``times`` requests for ``target`` suffer ``fault``."""
        with self._guard:
            self._waiting.setdefault(target, deque()).extend([fault] * times)

    def take(self, target: Target) -> Fault | None:
        """The fault for a request that is being answered now; it is used up."""
        with self._guard:
            for queue in (self._waiting.get(target), self._waiting.get(EVERYTHING)):
                if queue:
                    return queue.popleft()
        return None

    def waiting(self) -> int:
        """How many faults have not met their request yet."""
        with self._guard:
            return sum(len(queue) for queue in self._waiting.values())

    def clear(self) -> None:
        """Behave from now on."""
        with self._guard:
            self._waiting.clear()


@dataclass(frozen=True, slots=True)
class FaultSetter:
    """Sets faults for one target; each verb is for the next ``times`` requests."""

    faults: Faults
    target: Target

    def answer(
        self,
        status: int,
        *,
        body: bytes | None = None,
        headers: tuple[tuple[str, str], ...] = (),
        times: int = 1,
    ) -> None:
        """Answer with this status."""
        self.faults.put(self.target, Answer(status, body, headers), times)

    def cut(self, *, after_bytes: int = 0, times: int = 1) -> None:
        """Close the connection in the middle of the body: the client sees an incomplete chunked read."""
        self.faults.put(self.target, BreakOff(Break.CUT, after_bytes), times)

    def reset(self, *, after_bytes: int = 0, times: int = 1) -> None:
        """Reset the connection (RST) in the middle of the body; bytes on their way may be lost too."""
        self.faults.put(self.target, BreakOff(Break.RESET, after_bytes), times)

    def hang(self, *, after_bytes: int = 0, times: int = 1) -> None:
        """Stop sending in the middle of the body, pings too, and keep the connection open."""
        self.faults.put(self.target, BreakOff(Break.HANG, after_bytes), times)

    def silence(self, *, times: int = 1) -> None:
        """Accept the request and never answer."""
        self.faults.put(self.target, Silence(), times)

    def error_event(
        self,
        *,
        after_events: int = 0,
        code: str = "unavailable",
        message: str = "storage is unavailable",
        times: int = 1,
    ) -> None:
        """v2: end with an ``error`` event after so many events."""
        self.faults.put(self.target, ErrorEvent(after_events, code, message), times)

    def no_done(self, *, times: int = 1) -> None:
        """v2: end cleanly, without [DONE]."""
        self.faults.put(self.target, NoDone(), times)

    def lie(self, lie: Lie, *, times: int = 1) -> None:
        """v2: say something that is not so."""
        self.faults.put(self.target, Untrue(lie), times)

    def gzip(self, *, times: int = 1) -> None:
        """Compress, asked or not."""
        self.faults.put(self.target, Gzip(), times)


async def suffered(
    fault: Fault | None, answer: Callable[[], Awaitable[Response]], connections: Connections
) -> Response:
    """The answer as the fault leaves it. A refusal is what it is; the fault is used up all the same."""
    if isinstance(fault, Answer):
        return usual(fault.status, fault.body, fault.headers)
    if isinstance(fault, Silence):
        return _Nothing()
    response = await answer()
    if fault is None or response.status_code != 200:
        return response
    if not isinstance(response, StreamBody):
        headers = [(name, value) for name, value in response.headers.items() if name != "content-length"]
        response = StreamBody(_once(bytes(response.body)), connections, headers=headers)
    response.blocks = spoiled(response.blocks, fault)
    response.compress |= isinstance(fault, Gzip)
    return response


async def spoiled(blocks: AsyncIterator[bytes], fault: Fault | None) -> AsyncIterator[bytes]:
    """The blocks of a body as the fault leaves them."""
    match fault:
        case BreakOff():
            async for block in _broken_off(blocks, fault):
                yield block
        case ErrorEvent():
            passed = 0
            async for block in blocks:
                if passed == fault.after_events or block == DONE:
                    break
                passed += 1
                yield block
            yield error_event(fault.code, fault.message)
        case NoDone():
            async for block in blocks:
                if block != DONE:
                    yield block
        case Untrue():
            async for block in _untrue(blocks, fault.lie):
                yield block
        case _:
            async for block in blocks:
                yield block


async def _untrue(blocks: AsyncIterator[bytes], lie: Lie) -> AsyncIterator[bytes]:
    if lie is Lie.NOTHING:
        yield _ping(0)
        yield DONE
        return
    batches = 0
    async for block in blocks:
        if not block.startswith(b"event: batch"):
            yield block
            continue
        batches += 1
        if lie is Lie.WITHHELD:
            continue
        if lie is Lie.LOST and batches == 1:
            continue
        yield block
        if lie is Lie.TWICE:
            yield block
        elif lie is Lie.OLD_TAIL:
            yield _ping(max(0, int(block.split(b"id: ")[1].split(b",")[0]) - 1))


def _ping(tail: int) -> bytes:
    return b'event: ping\ndata: {"timestamp":1,"tail":{"seq_num":%d,"timestamp":1}}\n\n' % tail


async def _broken_off(blocks: AsyncIterator[bytes], fault: BreakOff) -> AsyncIterator[bytes]:
    left = fault.after_bytes
    if left > 0:
        async for block in blocks:
            yield block[:left]
            left -= len(block)
            if left <= 0:
                break
        else:
            return
    if fault.how is Break.HANG:
        await asyncio.get_running_loop().create_future()
    raise ResetOff if fault.how is Break.RESET else BrokenOff


async def _once(block: bytes) -> AsyncIterator[bytes]:
    yield block


class _Nothing(Response):
    """Not even headers, until the client leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await client_left(receive)
