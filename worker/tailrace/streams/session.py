"""One call that reads, without the waiting: options in, values out. What both ways of waiting share.

`blocking` and `waiting` (asyncio) differ in how they wait for an event and in nothing else.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import httpx

from tailrace.model import RunView, StreamRef
from tailrace.streams import chunks
from tailrace.streams.client import Client, Servers, default_client
from tailrace.streams.errors import ChunkTypeError, SomeStreamsFailed, StreamError
from tailrace.streams.follow import Follow, Limits
from tailrace.streams.reading import RUN, GivenRun, Reading
from tailrace.streams.signals import AbortSignal
from tailrace.streams.steps import Beginning, Chunk, Event, Gap, Request, Retry, Source, Start
from tailrace.streams.watch import Watch

T = TypeVar("T")

DEFAULT_KEY = "default"
DEFAULT_TIMEOUT_S = 60.0
"""What Trigger.dev's own client asks for. There it ends the read without a word; here it is an error."""
DEFAULT_RETRIES = 3
LIMITS = httpx.Limits(max_connections=None, max_keepalive_connections=None, keepalive_expiry=60.0)
"""Upstream keeps an idle connection for 65 s: looking at a run again need not open another. No limit of idle ones:
httpcore counts those in use against it too, so with one an asyncio session would open a connection for each look."""
WAITING_EVENTS = 2
"""How many events of one connection may wait to be handled: its reader stops reading its socket then."""


class Typed(Generic[T]):
    """A stream's key and the type of its chunks. `define` makes one; compared and hashed by key."""

    def __init__(self, key: str, of: Any) -> None:
        if not isinstance(key, str) or not key:
            raise ValueError("a stream needs a key that is not empty")
        self.key = key
        self.type = of
        self.decode: Callable[[bytes], T] = chunks.decoder(of)

    @property
    def id(self) -> str:
        """The key, as TypeScript names it."""
        return self.key

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.key!r}, type={getattr(self.type, '__qualname__', self.type)})"


def typed(stream: str | Typed[Any], of: Any = Any) -> Typed[Any]:
    """Return a stream that was named or defined. ``of``: the type of one that was only named."""
    if isinstance(stream, Typed):
        if of is not Any:
            raise TypeError("the stream was defined with a type: leave out type=")
        return stream
    return Typed(stream, of)


@dataclass(frozen=True, slots=True)
class Options:
    """What a call says about how to read; checked here."""

    start: Beginning = "beginning"
    start_index: int = 0
    timeout_in_seconds: float | None = DEFAULT_TIMEOUT_S
    signal: AbortSignal | None = None
    source: Source = "upstream"
    client: Client | None = None
    max_retries: int | None = DEFAULT_RETRIES
    on_retry: Callable[[Retry], object] | None = None
    on_invalid: Callable[[ChunkTypeError], object] | None = None
    last_event_id: str | None = None
    servers: Servers = field(init=False)

    def __post_init__(self) -> None:
        if isinstance(self.start_index, bool) or not isinstance(self.start_index, int) or self.start_index < 0:
            raise ValueError("start_index must be 0 or more")
        if self.start not in ("beginning", "latest"):
            raise ValueError('start must be "beginning" or "latest"')
        if self.start == "latest" and self.start_index:
            raise ValueError("start_index says where to begin: leave out start")
        if self.timeout_in_seconds is not None and not self.timeout_in_seconds > 0:
            raise ValueError("timeout_in_seconds must be more than 0, or None for no limit")
        if self.source not in ("upstream", "archive", "auto"):
            raise ValueError('source must be "upstream", "archive" or "auto"')
        if self.max_retries is not None and self.max_retries < 0:
            raise ValueError("max_retries must be 0 or more, or None for no limit")
        object.__setattr__(self, "servers", (self.client or default_client()).servers())
        if self.source == "upstream":
            self.servers.endpoint()
        else:
            self.servers.archive()

    @property
    def place(self) -> Start:
        """Where to begin. A ``last_event_id`` that names no place says nothing, as upstream has it."""
        if self.last_event_id is not None:
            after = Start.after(self.last_event_id)
            return after if after.resumed else Start(latest=self.start == "latest")
        return Start(index=self.start_index, latest=self.start == "latest")

    @property
    def limits(self) -> Limits:
        return Limits(self.timeout_in_seconds, self.max_retries)


class Value(NamedTuple):
    """A chunk to give out: what it decodes to, and how it came."""

    key: str
    value: Any
    chunk: Chunk


class Session:
    """The state of one call. Not thread-safe: whoever waits owns it.

    ``several``: one stream that fails, or has a chunk that does not fit, does not end the others.
    """

    def __init__(
        self,
        run_id: str,
        streams: Sequence[Typed[Any]],
        options: Options,
        *,
        several: bool = False,
        subscribed: bool = False,
        discover: bool = False,
        clock: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        if not isinstance(run_id, str) or not run_id:
            raise ValueError("a run id is needed")
        if len({stream.key for stream in streams}) < len(streams):
            raise ValueError("a stream is named twice")
        self.run_id = run_id
        self.options = options
        self.signal = options.signal or AbortSignal()
        self._several = several
        self._clock = clock
        self._chance = chance
        self._types = {stream.key: stream for stream in streams}
        now = clock()
        watch = Watch(
            options.servers.timing, subscribed=subscribed, max_retries=options.max_retries, random=chance, now=now
        )
        self.reading = Reading(watch, self._follow if discover else None)
        if not discover:
            for stream in streams:
                self.reading.add(stream.key, self._follow(stream.key, now))
        self._rest_since: float | None = now
        self._begun = False

    def ref(self, key: str) -> StreamRef:
        return StreamRef(self.run_id, key)

    def gaps(self, key: str) -> list[Gap]:
        """Return what was lost upstream of a stream before it was read."""
        follow = self.reading.follows.get(key)
        return list(follow.gaps) if follow else []

    def _follow(self, key: str, now: float) -> Follow:
        options = self.options
        return Follow(
            self.ref(key),
            options.place,
            options.limits,
            options.servers.timing,
            source=options.source,
            random=self._chance,
            now=now,
        )

    # --- the steps of whoever waits

    def wake(self) -> None:
        """Note that somebody wants the next value.

        What the caller does meanwhile may keep whoever reads from running (a busy event loop, a busy greenlet), so a
        long rest is no silence. Short ones are: a stream that is quiet among busy ones must not be excused for ever.
        """
        if self._rest_since is not None:
            rested_s = self._clock() - self._rest_since
            if not self._begun or rested_s >= self.options.servers.timing.look_after_s:
                self.reading.rested(rested_s)
            self._rest_since = None
        self._begun = True

    def take(self) -> Value | RunView | None:
        """Return the next value; None when there is none for now, or none any more (`finished`).

        Raises:
            StreamAborted: at once, whatever has come.
            ChunkTypeError: the chunk of the only stream does not fit; the read can go on after it.
        """
        while True:
            self.signal.throw_if_aborted()
            self._tell_retries()
            given = self.reading.take()
            if given is None:
                return None
            if isinstance(given, GivenRun):
                self._rest_since = self._clock()
                return given.view
            value = self._decoded(given.key, given.chunk)
            if value is not None:
                self._rest_since = self._clock()
                return value

    @property
    def finished(self) -> bool:
        return self.reading.finished

    def error(self) -> StreamError | None:
        """Return what ended a finished session, if it was not its end."""
        errors = self.reading.errors
        if not errors:
            return None
        if RUN in errors:
            return errors[RUN]
        if not self._several:
            return next(iter(errors.values()))
        failed = "; ".join(f"{key}: {error}" for key, error in errors.items())
        return SomeStreamsFailed(
            f"{len(errors)} of {len(self.reading.follows)} streams of run {self.run_id} failed: {failed}",
            errors=errors,
        )

    def requests(self) -> Iterator[tuple[int, str, Request]]:
        return self.reading.requests(self._clock())

    def wait_s(self, until: float | None) -> float | None:
        """Return how long to wait for an event at most; ``until`` is the caller's own limit."""
        now = self._clock()
        times = [each - now for each in (self.reading.wake_at(), until) if each is not None]
        remaining_s = self.signal.remaining_s()
        if remaining_s is not None:
            times.append(remaining_s)
        return max(0.0, min(times)) if times else None

    def handle(self, number: int, event: Event) -> None:
        self.reading.handle(number, event, self._clock())

    def tick(self) -> None:
        self.reading.tick(self._clock())

    def clock(self) -> float:
        return self._clock()

    # --- within

    def _tell_retries(self) -> None:
        retries = self.reading.retries
        while retries:
            retry = retries.popleft()
            if self.options.on_retry is not None:
                self.options.on_retry(retry)

    def _decoded(self, key: str, chunk: Chunk) -> Value | None:
        """Decode a chunk; None when it does not fit, and the caller takes care of such or other streams go on."""
        why = chunk.invalid
        if not why:
            stream = self._types.get(key, _ANY)
            try:
                return Value(key, stream.decode(chunk.text), chunk)
            except chunks.Unfit as unfit:
                why = str(unfit)
        error = ChunkTypeError(
            f"Chunk {chunk.chunk_index} of stream {key!r} of run {self.run_id} does not fit ({why}): "
            f"{chunks.shown(chunk.text)}",
            key=key,
            index=chunk.chunk_index,
            raw=chunk.text.decode("utf-8", "replace"),
            generation=chunk.generation,
        )
        if self.options.on_invalid is not None:
            self.options.on_invalid(error)
        elif self._several:
            self.reading.fail(key, error)
        else:
            self._rest_since = self._clock()
            try:
                raise error
            finally:
                del error  # it holds this frame, which would hold it, and with them the reader that is let go of
        return None


_ANY: Typed[Any] = Typed(DEFAULT_KEY, Any)
