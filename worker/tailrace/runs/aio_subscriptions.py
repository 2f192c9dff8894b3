"""Subscriptions to runs, for asyncio. `subscriptions`, the blocking half, is made of it by tools/async_to_sync.py."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Self, Unpack

from tailrace.model import RunView
from tailrace.runs.updates import Run, SubscribeOptions, Update, Updates, run_of, session_of
from tailrace.streams.aio_readers import Closing
from tailrace.streams.aio_waiter import Waiter
from tailrace.streams.errors import ChunkTypeError
from tailrace.streams.session import Session, Typed


class _Subscription(Closing):
    """What follows a session, and leaves upstream with it."""

    def __init__(self, session: Session) -> None:
        self._waiter = Waiter(session)

    def __aiter__(self) -> Self:
        return self


class RunUpdates(_Subscription, AsyncIterator[Run]):
    """The run each time it has changed, first as it is now; ends when it is over."""

    async def __anext__(self) -> Run:
        given = await self._waiter.next()
        assert isinstance(given, RunView)
        return run_of(given)


class RunWithStreams(_Subscription, AsyncIterator[Update]):
    """Changes of the run and chunks of all its streams, as they come; ends when the run is over and all is read."""

    def __init__(self, session: Session) -> None:
        super().__init__(session)
        self._updates = Updates()

    async def __anext__(self) -> Update:
        given = await self._waiter.next()
        assert given is not None
        return self._updates.of(given)


class RunSubscription:
    """A run to follow. Each iteration is a subscription of its own, which begins with the run as it is then."""

    def __init__(self, run_id: str, options: SubscribeOptions) -> None:
        session_of(run_id, options)  # what is wrong with the options shows at once
        self._run_id = run_id
        self._options = options

    def __aiter__(self) -> RunUpdates:
        return RunUpdates(session_of(self._run_id, self._options))

    def with_streams(
        self, *streams: Typed[Any], on_invalid: Callable[[ChunkTypeError], object] | None = None
    ) -> RunWithStreams:
        """Follow the run's streams too, each from its beginning; new ones as they appear.

        Args:
            streams: definitions, for the types of their chunks. The others' can be anything.
            on_invalid: called with the ChunkTypeError of each chunk that does not fit, which is then left out.

        Iterating raises what reading raises. A stream that fails, or has a chunk that does not fit, does not end the
        others: SomeStreamsFailed says so at the end.
        """
        return RunWithStreams(session_of(self._run_id, self._options, streams, on_invalid))


def subscribe_to_run(run_id: str, **options: Unpack[SubscribeOptions]) -> RunSubscription:
    """Follow a run: iterate for its changes, or over `RunSubscription.with_streams` for its streams too.

    Iterating raises:
        StreamAborted, RetriesExhausted (a run that upstream does not know is tried again first: it may be very new),
        StreamRefused, NotConfigured.
    """
    return RunSubscription(run_id, options)
