"""The stand-in upstream: Trigger.dev's HTTP surface over a store of runs, which so far is a set of recordings."""

from tailrace.serve.app import FeedFormat, create_app, upstream_of
from tailrace.serve.recorded import RecordedStore
from tailrace.serve.recording import Recording, parse_recording, read_recording
from tailrace.serve.runs import Run
from tailrace.serve.server import main, serve
from tailrace.serve.store import Store
from tailrace.serve.timing import Timing
from tailrace.serve.upstream import Around, Target, Upstream

__all__ = [
    "Around",
    "FeedFormat",
    "RecordedStore",
    "Recording",
    "Run",
    "Store",
    "Target",
    "Timing",
    "Upstream",
    "create_app",
    "main",
    "parse_recording",
    "read_recording",
    "serve",
    "upstream_of",
]
