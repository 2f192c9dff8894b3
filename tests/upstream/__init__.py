"""The stand-in upstream's test half: live stores, faults, traffic and rate limits around `tailrace.serve`."""

from tests.upstream.app import Half, create_app, half_of
from tests.upstream.live import LiveStore
from tests.upstream.server import RunningServer, running

__all__ = ["Half", "LiveStore", "RunningServer", "create_app", "half_of", "running"]
