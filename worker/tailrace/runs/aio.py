"""Subscribe to Trigger.dev runs, for asyncio: `tailrace.runs` with ``async for`` and ``async with``."""

from tailrace.runs.aio_subscriptions import RunSubscription, RunUpdates, RunWithStreams, subscribe_to_run
from tailrace.runs.updates import Run, RunUpdate, StreamUpdate, SubscribeOptions, Update

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
