"""Subscribe to Trigger.dev runs, for asyncio: `tailrace.runs` with ``async for`` and ``async with``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any, Self, Unpack

from tailrace.model import RunView
from tailrace.runs.updates import Run, RunUpdate, StreamUpdate, SubscribeOptions, Update, Updates, run_of, session_of
from tailrace.streams.async_readers import Closing
from tailrace.streams.errors import ChunkTypeError
from tailrace.streams.session import Session, Typed
from tailrace.streams.waiting import Waiter

__all__ = [
    "Run",
    "RunSubscription",
    "RunUpdate",
    "RunUpdates",
    "RunWithStreams",
    "StreamUpdate",
    "SubscribeOptions",
    "Update",
    "subscribe_to_run",
]


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
        """Follow the run's streams too; see `tailrace.runs.RunSubscription.with_streams`."""
        return RunWithStreams(session_of(self._run_id, self._options, streams, on_invalid))


def subscribe_to_run(run_id: str, **options: Unpack[SubscribeOptions]) -> RunSubscription:
    """Follow a run; see `tailrace.runs.subscribe_to_run`."""
    return RunSubscription(run_id, options)
