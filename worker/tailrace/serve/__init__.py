"""The stand-in upstream: Trigger.dev's HTTP surface, over recordings or over a store that tests write to."""

from tailrace.serve.app import FeedFormat, create_app, upstream_of
from tailrace.serve.live import LiveStore
from tailrace.serve.recorded import RecordedStore
from tailrace.serve.recording import Recording, bundled_recordings, parse_recording, read_recording
from tailrace.serve.server import RunningServer, main, running, serve
from tailrace.serve.store import Run, Store
from tailrace.serve.timing import Timing
from tailrace.serve.upstream import Upstream

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
