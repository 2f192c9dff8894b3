"""Read the streams of Trigger.dev runs, for asyncio: `tailrace.streams` with ``async for`` and ``async with``.

::

    from tailrace.streams import aio as streams

    async for chunk in streams.read(run_id, "ai-output", type=str):
        print(chunk)

Nothing here blocks the loop or keeps a thread. What is not defined here is that of `tailrace.streams`.
"""

from tailrace.streams.aio_calls import StreamDefinition, as_sse, batches, collect, define, gather, read, read_many
from tailrace.streams.aio_readers import EventStream, ManyReader, StreamReader
from tailrace.streams.client import Client, configure
from tailrace.streams.errors import (
    ChunkTypeError,
    NotArchived,
    NotConfigured,
    RetriesExhausted,
    SomeStreamsFailed,
    StreamAborted,
    StreamError,
    StreamRefused,
    StreamTimeout,
)
from tailrace.streams.shapes import Collected, ReadOptions
from tailrace.streams.signals import AbortController, AbortSignal
from tailrace.streams.sse import SSE_HEADERS
from tailrace.streams.steps import Gap, Retry
from tailrace.streams.timing import Timing

__all__ = [
    "SSE_HEADERS",
    "AbortController",
    "AbortSignal",
    "ChunkTypeError",
    "Client",
    "Collected",
    "EventStream",
    "Gap",
    "ManyReader",
    "NotArchived",
    "NotConfigured",
    "ReadOptions",
    "RetriesExhausted",
    "Retry",
    "SomeStreamsFailed",
    "StreamAborted",
    "StreamDefinition",
    "StreamError",
    "StreamReader",
    "StreamRefused",
    "StreamTimeout",
    "Timing",
    "as_sse",
    "batches",
    "collect",
    "configure",
    "define",
    "gather",
    "read",
    "read_many",
]
