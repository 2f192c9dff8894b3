"""Read the streams of Trigger.dev runs: what Trigger.dev's backend SDK offers in TypeScript, in Python. Blocking.

::

    from worker import streams

    ai = streams.define("ai-output", type=str)
    for chunk in ai.read(run_id):
        print(chunk)

`worker.streams.aio` is the same for asyncio, `worker.runs` subscribes to runs. Importing this needs httpx, httpx-sse
and msgspec only, opens nothing and reads no setting. Described in docs/streams-api.md.
"""

from worker.streams.calls import StreamDefinition, as_sse, batches, collect, define, gather, read, read_many
from worker.streams.client import Client, configure
from worker.streams.errors import (
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
from worker.streams.pace import Pace
from worker.streams.readers import EventStream, ManyReader, StreamReader
from worker.streams.shapes import Collected, ReadOptions
from worker.streams.signals import AbortController, AbortSignal
from worker.streams.sse import SSE_HEADERS
from worker.streams.steps import Gap, Retry

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
    "Pace",
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
    "as_sse",
    "batches",
    "collect",
    "configure",
    "define",
    "gather",
    "read",
    "read_many",
]
