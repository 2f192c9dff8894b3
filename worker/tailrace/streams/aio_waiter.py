"""Wait for a session's events in an asyncio task. Each connection is read by a task of its own, none by a thread.

Only the archive is asked in a thread, for the time of a query: SQLAlchemy is used in its blocking form.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from typing import Any

import httpx

from tailrace.errors import WorkerError
from tailrace.model import Arrival, RunView
from tailrace.source.aio import AsyncRunFeed, AsyncTail
from tailrace.source.client import client_options
from tailrace.streams.errors import ChunkTypeError, unexpected
from tailrace.streams.session import LIMITS, WAITING_EVENTS, Session, Value
from tailrace.streams.steps import Close, Ended, Event, Failed, Fetch, Look, Looked, Open, Opened, Request


class Inbox:
    """Events on their way from the tasks that read to the one that waits. All of it in one loop, but for `wake`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._events: deque[tuple[int, Event]] = deque()
        self._waiting: dict[int, int] = {}
        self._came = asyncio.Event()
        self._taken = asyncio.Event()

    def end(self, number: int) -> None:
        """What is under way under this number need not go on."""
        self._waiting.pop(number, None)

    async def put(self, number: int, event: Event) -> None:
        """Hand an event over; waits while enough others wait."""
        while self._waiting.get(number, 0) >= WAITING_EVENTS:
            self._taken.clear()
            await self._taken.wait()
        self._waiting[number] = self._waiting.get(number, 0) + 1
        self._events.append((number, event))
        self._came.set()

    async def get(self, timeout_s: float | None) -> tuple[int, Event] | None:
        """Take the next event, waiting for one; None when the time is over or somebody called `wake`."""
        if not self._events and not self._came.is_set():
            handle = None if timeout_s is None else self.loop.call_later(timeout_s, self._came.set)
            try:
                await self._came.wait()
            finally:
                if handle is not None:
                    handle.cancel()
        self._came.clear()
        if not self._events:
            return None
        number, event = self._events.popleft()
        if self._events:
            self._came.set()
        if isinstance(event, Opened | Arrival) and number in self._waiting:
            self._waiting[number] -= 1
        else:
            self._waiting.pop(number, None)
        self._taken.set()
        return number, event

    def wake(self) -> None:
        """Have whoever waits look up. From any thread."""
        try:
            self.loop.call_soon_threadsafe(self._came.set)
        except RuntimeError:  # the loop is closed: nobody waits any more
            return


async def _read(inbox: Inbox, number: int, tail: AsyncTail, request: Open) -> None:
    """Read one connection and hand over what it brings, until it ends or this task is cancelled."""
    try:
        async with tail.connect(*request) as connection:
            await inbox.put(number, Opened(connection.wire, connection.date_ms))
            async with aclosing(connection.arrivals) as arrivals:
                async for arrival in arrivals:
                    await inbox.put(number, arrival)
        await inbox.put(number, Ended())
    except WorkerError as error:
        await inbox.put(number, Failed(error))
    except Exception as error:  # noqa: BLE001  a task has nobody to raise to: it goes to the caller
        await inbox.put(number, Failed(unexpected(error)))


async def _ask(inbox: Inbox, number: int, question: Callable[[], Awaitable[Event]]) -> None:
    """Ask one thing and hand the answer over."""
    try:
        await inbox.put(number, await question())
    except WorkerError as error:
        await inbox.put(number, Failed(error))
    except Exception as error:  # noqa: BLE001  as above
        await inbox.put(number, Failed(unexpected(error)))


class Leaving:
    """What was told to end and has not ended yet."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[None]] = set()
        self.clients: list[httpx.AsyncClient] = []

    def keep(self, task: asyncio.Task[None], until_then: object) -> None:
        """Hold on to a task, and to ``until_then``, until it is done: the loop alone would let it be collected."""
        self.tasks.add(task)
        task.add_done_callback(partial(self._done, until_then))

    def _done(self, until_then: object, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)

    async def close_clients(self, users: list[asyncio.Task[None]]) -> None:
        """Close the clients when nobody uses them any more."""
        if users:
            await asyncio.wait(users)
        while self.clients:
            client = self.clients[0]
            await client.aclose()
            if client in self.clients:  # somebody else may have waited for the same
                self.clients.remove(client)

    async def over(self) -> None:
        """Wait until all has ended."""
        while self.tasks:
            await asyncio.wait(self.tasks)
        await self.close_clients([])  # a task that is cancelled before it has begun does nothing


class Waiter:
    """Runs a session for whoever awaits `next`. Belongs to one loop; nothing that it starts keeps it alive."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._inbox: Inbox | None = None
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._leaving = Leaving()
        self._client: httpx.AsyncClient | None = None
        self._feed: AsyncRunFeed | None = None
        self._closed = False
        self._stop_listening: Callable[[], None] | None = None
        self._loop_ends: AsyncGenerator[None] | None = None
        self._loop_ended = False

    async def next(self, until: float | None = None) -> Value | RunView | None:
        """Return the next value; None when ``until`` (by the session's clock) is reached before.

        Cancelling a wait loses nothing: the next one goes on.

        Raises:
            StopAsyncIteration: the end.
            StreamError.
            RuntimeError: the loop in which the read began has ended, and the read with it.
        """
        session = self.session
        if self._loop_ended:
            raise RuntimeError("the event loop in which this read began has ended: begin another read at its position")
        if self._closed:
            raise StopAsyncIteration
        if self._inbox is None:
            self._inbox = Inbox(asyncio.get_running_loop())
            self._stop_listening = session.signal.listen(self._inbox.wake)
            self._loop_ends = _when_the_loop_ends(weakref.ref(self), self._leaving)
            await anext(self._loop_ends)
        inbox = self._inbox
        session.wake()
        try:
            while True:
                value = session.take()
                if value is not None:
                    return value
                if session.finished:
                    error = session.error()
                    await self.aclose()
                    if error is not None:
                        try:
                            raise error
                        finally:
                            del error  # as in `Session._decoded`
                    raise StopAsyncIteration
                if until is not None and session.clock() >= until:
                    return None
                for number, key, request in session.requests():
                    self._start(inbox, number, key, request)
                event = await inbox.get(session.wait_s(until))
                if event is None:
                    session.tick()
                else:
                    session.handle(*event)
        except (StopAsyncIteration, ChunkTypeError, asyncio.CancelledError):
            raise  # the end; or a chunk that does not fit or a wait that was cancelled: the read can go on
        except BaseException:
            # Waited for, because the loop may end next: it would cancel what is being closed a second time.
            await self.aclose()
            raise

    def close(self) -> None:
        """Leave upstream: every connection is dropped as soon as the loop runs. Safe to repeat. In the loop only."""
        self._closed = True
        if self._stop_listening is not None:
            self._stop_listening()
        self.session.reading.close()
        for key in list(self._tasks):
            self._stop(key)
        if self._client is not None and self._inbox is not None:
            self._leaving.clients.append(self._client)
            self._client = None
            closing = self._leaving.close_clients(list(self._leaving.tasks))
            self._leaving.keep(self._inbox.loop.create_task(closing), self._loop_ends)

    async def aclose(self) -> None:
        """Leave upstream, and return when every connection is dropped."""
        self.close()
        await self._leaving.over()
        loop_ends, self._loop_ends = self._loop_ends, None
        if loop_ends is not None:
            await loop_ends.aclose()

    def abandon(self) -> None:
        """Do what `close` does, from any thread and at any time: the waiter is not needed any more."""
        if self._inbox is None or (self._closed and not self._tasks):
            return
        try:
            self._inbox.loop.call_soon_threadsafe(self.close)
        except RuntimeError:  # the loop is closed, and with it everything that was open
            return

    def _start(self, inbox: Inbox, number: int, key: str, request: Request) -> None:
        servers, ref = self.session.options.servers, self.session.ref(key)
        work: Coroutine[Any, Any, None]
        match request:
            case Close():
                inbox.end(number)
                self._stop(key)
                return
            case Open():
                tail = AsyncTail(self._upstream(), ref, servers.event_max_bytes)
                work = _read(inbox, number, tail, request)
            case Fetch():
                work = _ask(inbox, number, partial(asyncio.to_thread, servers.archive().read, ref, request))
            case Look():
                if self._feed is None:
                    self._feed = AsyncRunFeed(self._upstream(), self.session.run_id)
                work = _ask(inbox, number, partial(_look, self._feed, request.live))
        self._tasks[key] = inbox.loop.create_task(work, name=f"tailrace-stream-{key}")

    def _stop(self, key: str) -> None:
        task = self._tasks.pop(key, None)
        if task is not None and not task.done():
            task.cancel()
            self._leaving.keep(task, self._loop_ends)

    def _upstream(self) -> httpx.AsyncClient:
        """Return the client of this session: its streams and the run feed have connections of their own in it."""
        if self._client is None:
            servers = self.session.options.servers
            self._client = httpx.AsyncClient(**client_options(servers.endpoint(), servers.tls()) | {"limits": LIMITS})
        return self._client


async def _look(feed: AsyncRunFeed, live: bool) -> Looked:
    return Looked(await feed.look(live))


async def _when_the_loop_ends(waiter: weakref.ref[Waiter], leaving: Leaving) -> AsyncGenerator[None]:
    """Close a waiter, and wait for what leaves, in a loop that ends. To be begun with one `anext`.

    A loop closes no connection by itself, but as its last act it closes the async generators that were begun in it
    (`asyncio.loop.shutdown_asyncgens`). Does not keep the waiter alive.
    """
    try:
        yield
    finally:
        held = waiter()
        if held is not None and not held._closed:
            held._loop_ended = True
            held.close()
        del held
        await leaving.over()
