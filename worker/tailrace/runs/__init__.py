"""Subscribe to Trigger.dev runs: what ``runs.subscribeToRun`` offers in TypeScript, in Python. Blocking.

::

    from tailrace import runs

    for update in runs.subscribe_to_run(run_id).with_streams():
        if update.type == "run":
            print(update.run.status)
        else:
            print(update.type, update.chunk)

`tailrace.runs.aio` is the same for asyncio. Described in docs/streams-api.md.
"""

from tailrace.runs.subscriptions import RunSubscription, RunUpdates, RunWithStreams, subscribe_to_run
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
