"""Read the streams of Trigger.dev runs: what Trigger.dev's backend SDK offers in TypeScript, in Python. Blocking.

::

    from tailrace import streams

    ai = streams.define("ai-output", type=str)
    for chunk in ai.read(run_id):
        print(chunk)

`tailrace.streams.aio` is the same for asyncio, `tailrace.runs` subscribes to runs. Importing this needs httpx,
httpx-sse and msgspec only, opens nothing and reads no setting. Described in docs/streams-api.md.
"""

from tailrace.streams.calls import StreamDefinition, as_sse, batches, collect, define, gather, read, read_many
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
from tailrace.streams.readers import EventStream, ManyReader, StreamReader
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
