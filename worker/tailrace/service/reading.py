"""Read one leased stream until it is left: the parts that a reader needs, and what its errors mean for the stream."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from tailrace.arguments import BATCH_LIMITS, checked_options
from tailrace.errors import BadArgument, LeaseLost, SourceUnavailable, TransientError, Unauthorized, WorkerError
from tailrace.ingest.reader import Reader, Timing
from tailrace.ingest.signal import Signal
from tailrace.ingest.v2_order import REPEAT_WINDOW
from tailrace.model import LeasedStream, Outcome, RunEnd, StreamRef, StreamState, Verdict
from tailrace.retry import backoff
from tailrace.service.coalesced import Coalesced
from tailrace.service.environments import Environments
from tailrace.service.reach import Reach
from tailrace.source.connection import Connection, Tail
from tailrace.store.engine import one_at_a_time
from tailrace.store.flush_rule import BatchLimits
from tailrace.store.sink import Sink
from tailrace.store.streams import RecentRecords, RunEnds, unpacked
from tailrace.tracing import Lease

if TYPE_CHECKING:
    from tailrace.config.settings import Settings

RECENT_AT_ONCE = 20
"""Streams of which what is held is read in one statement: some 60 kB of each."""
NOT_SERVED = "the environment is not served here any more: TAILRACE_KEYS_FILE does not name it"


class _WhenItIsThere:
    """Connects to a stream when upstream can be reached, as far as that is known."""

    def __init__(self, tail: Tail, reach: Reach, signal: Signal, ref: StreamRef, lease: Lease, api_url: str) -> None:
        self._tail = tail
        self._lease = lease
        self._api_url = api_url
        self._reach = reach
        self._signal = signal
        self._ref = ref
        self.interrupt = tail.interrupt

    def connect(self, last_event_id: str | None, wait_s: int) -> AbstractContextManager[Connection]:
        """As `Tail.connect`; also raises SourceUnavailable when the reader is called while it waits."""
        return _Connected(self._open, self._tail.connect(last_event_id, wait_s), last_event_id)

    def _open(self, connection: AbstractContextManager[Connection], last_event_id: str | None) -> Connection:
        self._reach.wait(self._signal)
        if self._signal.called:
            raise SourceUnavailable("called away before it connected")
        with self._reach.asking(self._ref), self._lease.connecting(self._api_url, last_event_id) as connecting:
            opened = connection.__enter__()
            connecting.answered(opened.wire)
            return opened


class _Connected:
    """A connection that is opened in a way of its own. No generator: it would be another kilobyte for each stream."""

    __slots__ = ("_after", "_connection", "_open")

    def __init__(
        self,
        open_it: Callable[[AbstractContextManager[Connection], str | None], Connection],
        connection: AbstractContextManager[Connection],
        after: str | None,
    ) -> None:
        self._open = open_it
        self._connection = connection
        self._after = after

    def __enter__(self) -> Connection:
        return self._open(self._connection, self._after)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> bool | None:
        return self._connection.__exit__(kind, error, at)


class _Facts:
    """What a reader asks about its stream, together with others. Fits `ingest.reader.StreamFacts`."""

    __slots__ = ("_asked", "_stream_id")

    def __init__(self, stream_id: int, asked: _Asked) -> None:
        self._stream_id = stream_id
        self._asked = asked

    def run_end(self) -> RunEnd:
        """Raises StoreUnavailable."""
        # None when it was forgotten meanwhile: the fence will stop the reader.
        return self._asked.run_ends.get(self._stream_id) or RunEnd()

    def recent(self, generation: int) -> list[tuple[int, bytes]]:
        """Raises StoreUnavailable."""
        return unpacked(self._asked.recent.get((self._stream_id, generation)) or [])


class _Asked:
    """The questions of all readers of a process. Of its few connections they use one at a time."""

    def __init__(self, engine: sa.Engine) -> None:
        one = one_at_a_time(engine)
        self.run_ends = Coalesced(RunEnds(one).of)  # a run that ends is the end of all its streams
        # A worker that takes over has hundreds of streams that go on after what is held of them.
        self.recent = Coalesced(RecentRecords(one, REPEAT_WINDOW).of, at_most=RECENT_AT_ONCE)


class Reading:
    """Reads leased streams, each in the thread that asks. Thread-safe. ``slice_s``: how long each keeps its slot."""

    def __init__(self, settings: Settings, environments: Environments, engine: sa.Engine) -> None:
        self._settings = settings
        self._environments = environments
        self._asked = _Asked(engine)
        self.slice_s = settings.slice_seconds

    def limits(self, stream: LeasedStream) -> BatchLimits:
        """Return the batch limits of a stream: the request's where it has some that can be met, else the settings'."""
        chosen = {name: getattr(self._settings, name) for name in BATCH_LIMITS}
        with contextlib.suppress(BadArgument):  # `read` says so
            chosen |= checked_options(stream.options)
        return BatchLimits(
            max_chunks=chosen["batch_max_chunks"],
            max_bytes=chosen["batch_max_bytes"],
            max_age_s=chosen["batch_max_age_ms"] / 1000,
        )

    def read(self, stream: LeasedStream, sink: Sink, signal: Signal, bound: Any) -> Outcome:
        """Read a leased stream until it is left; return how. ``bound``: where its log lines go.

        Raises:
            LeaseLost: nothing more may be written.
        """
        try:
            checked_options(stream.options)
        except BadArgument as error:  # a row that was written past the rule
            return Outcome(StreamState.FAILED, error=f"the run's options: {error}", verdict=Verdict.FAILED)
        environment = self._environments.get(stream.environment)
        if environment is None:
            return self._not_served()
        facts = _Facts(stream.id, self._asked)
        with environment.upstream.stream(stream.ref) as source:
            tail = Tail(source, self._settings.event_max_bytes, sink.share)
            connector = _WhenItIsThere(
                tail, environment.reach, signal, stream.ref, sink.lease, environment.access.api_url
            )
            reader = Reader(
                *(stream, connector, sink, facts, self._timing(), signal),
                random=random.random,
                alarm=lambda what: bound.error("stream_changed", reason=what),
                stuck=lambda reason: _tell_stuck(bound, sink, reason),
            )
            try:
                outcome = reader.run()
            except Unauthorized as error:
                if environment.key.refused(error):  # it is read again as soon as the environment goes on
                    outcome = Outcome(StreamState.PARKED, error=str(error))
                else:
                    outcome = reader.refused_alone(error)
            except TransientError as error:
                outcome = Outcome(StreamState.PARKED, delay_s=self._settings.retry_cap_s, error=str(error))
            except WorkerError as error:
                if isinstance(error, LeaseLost):
                    raise
                outcome = Outcome(StreamState.FAILED, error=str(error), verdict=Verdict.FAILED)
            except Exception as error:  # noqa: BLE001  whatever it is, the thread must outlive it
                # A fault of ours, met by this stream's data. It must neither be hidden nor spin.
                bound.exception("reader_failed", error=str(error))
                outcome = self._after_own_fault(stream, error)
        if outcome.state is StreamState.ACTIVE and self._environments.get(stream.environment) is None:
            return self._not_served()
        return outcome

    def _not_served(self) -> Outcome:
        """Leave a stream to whoever serves its environment, at present or again: it is not given up."""
        return Outcome(StreamState.PARKED, delay_s=self._settings.control_seconds, error=NOT_SERVED)

    def _after_own_fault(self, stream: LeasedStream, error: Exception) -> Outcome:
        attempt = stream.attempt + 1
        delay_s = backoff(attempt, self._settings.retry_base_s, self._settings.retry_cap_s, random.random)
        what = f"{type(error).__name__}: {error}"
        return Outcome(StreamState.PARKED, delay_s=max(1.0, delay_s), attempt=attempt, error=what)

    def _timing(self) -> Timing:
        settings = self._settings
        return Timing(
            wait_s=settings.wait_seconds,
            park_after_s=settings.park_after_seconds,
            park_v1_s=settings.park_v1_seconds,
            park_v2_s=settings.park_v2_seconds,
            quiet_s=settings.seal_quiet_seconds,
            slice_s=self.slice_s,
            retry_base_s=settings.retry_base_s,
            retry_cap_s=settings.retry_cap_s,
        )


def _tell_stuck(bound: Any, sink: Sink, reason: str | None) -> None:
    """Log that a stream begins to be stuck, or no longer is."""
    position = sink.checkpoint.last_index
    if reason is None:
        bound.info("stream_moved_on", position=position)
    else:
        bound.warning("stream_stuck", position=position, reason=reason)
