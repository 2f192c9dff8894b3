"""The stand-in upstream: Trigger.dev's HTTP surface, over recordings or over a store that tests write to."""

from worker.replay.app import FeedFormat, create_app, upstream_of
from worker.replay.live import LiveStore
from worker.replay.recorded import RecordedStore
from worker.replay.recording import Recording, bundled_recordings, parse_recording, read_recording
from worker.replay.server import RunningServer, main, running, serve
from worker.replay.store import Run, Store
from worker.replay.timing import Timing
from worker.replay.upstream import Upstream

__all__ = [
    "FeedFormat",
    "LiveStore",
    "RecordedStore",
    "Recording",
    "Run",
    "RunningServer",
    "Store",
    "Timing",
    "Upstream",
    "bundled_recordings",
    "create_app",
    "main",
    "parse_recording",
    "read_recording",
    "running",
    "serve",
    "upstream_of",
]
