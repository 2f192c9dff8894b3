"""What a worker does for a run, as spans of one trace. Unless somebody wants spans, nothing comes of it.

Spans are short, each a statement, an answer or a message, so a worker that is killed takes seconds of a trace with it
and no more; none is made for a chunk. docs/tracing.md has them all; `tailrace.service.spans` makes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Final, Protocol

from tailrace.model import LeasedStream, Outcome, Wire

__all__ = ["NO_LEASE", "Connecting", "Flight", "Lease", "Leased", "SealedRun", "Traces", "send_to", "traces"]


class Connecting:
    """An answer of upstream that is waited for."""

    def answered(self, wire: Wire) -> None:
        """Note that it came, and in which format."""


class Lease:
    """One lease of a stream, as its trace has it."""

    def connecting(self, api_url: str, last_event_id: str | None) -> AbstractContextManager[Connecting]:
        """Span the opening of a connection, to the head of its answer."""
        return _CONNECTING

    def settling(self, outcome: Outcome) -> AbstractContextManager[None]:
        """Span how the stream is left, until that and all before it is durable."""
        return _NOTHING

    def lost(self) -> None:
        """Note that the lease is gone, unless `settling` has seen it."""


class Flight(Protocol):
    """What is committed of one stream; `store.commit.Flush` is one."""

    @property
    def follows(self) -> bool: ...
    @property
    def chunks(self) -> int: ...
    @property
    def bytes(self) -> int: ...


class Leased(Protocol):
    """Whose flight it is; `store.sink.Sink` is one."""

    @property
    def lease(self) -> Lease: ...


class SealedRun(Protocol):
    """A run that was just sealed, and the trace that it is in."""

    @property
    def run_id(self) -> str: ...
    @property
    def traceparent(self) -> str | None: ...


class Traces:
    """Where a process says what it does. This one makes nothing of it."""

    def taken(self, parent: str | None, task: str, message_id: str, run_id: str) -> AbstractContextManager[str | None]:
        """Span what is done with a message; give the traceparent that the run is to have.

        ``parent``: the traceparent that came with it, checked.
        """
        return nullcontext(parent)

    def placed(
        self, streams: list[LeasedStream], begin: Callable[[Mapping[int, str]], Mapping[int, str]]
    ) -> list[LeasedStream]:
        """Return streams that were just leased, each of a run that is in a trace.

        ``begin``: put the runs of streams, by their ids, into these traces; return which they are in then. It raises
        TransientError when the database is away.
        """
        return streams

    def lease(self, stream: LeasedStream) -> Lease:
        """Note that a stream, which `placed` has returned, was leased."""
        return NO_LEASE

    def commit(self, flights: Iterable[tuple[Leased, Flight]]) -> AbstractContextManager[None]:
        """Span one group commit, if the row of a stream follows it: else it would be one for every few chunks."""
        return _NOTHING

    def sealed(self, environment: str, runs: Iterable[SealedRun]) -> None:
        """Note that runs were sealed."""

    def stop(self, timeout_s: float) -> None:
        """Send what has not been sent, for no longer than ``timeout_s``."""


NO_LEASE: Final = Lease()
_NOTHING: Final[AbstractContextManager[None]] = nullcontext()
_CONNECTING: Final[AbstractContextManager[Connecting]] = nullcontext(Connecting())
_traces = Traces()


def traces() -> Traces:
    """Return where this process says what it does."""
    return _traces


def send_to(wanted: Traces) -> None:
    """Have `traces` return ``wanted`` from now on."""
    global _traces
    _traces = wanted
