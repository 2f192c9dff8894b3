"""The parts of one stand-in upstream as its routes need them, and the place where a request may be stepped into."""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from tailrace.serve.admission import Admitted
from tailrace.serve.connections import Connections
from tailrace.serve.electric import ElectricFeed
from tailrace.serve.fallback import Fallback
from tailrace.serve.listing import Index
from tailrace.serve.native import NativeFeed
from tailrace.serve.runs import Run
from tailrace.serve.store import Store
from tailrace.serve.timing import Timing


class Target(NamedTuple):
    """What a request is for: ``kind`` is stream, feed, api, runs feed, run list or claims."""

    kind: str
    run_id: str = ""
    key: str = ""


RUNS_FEED = Target("runs feed")
RUN_LIST = Target("run list")
CLAIMS = Target("claims")

Around = Callable[[Target, Callable[[], Awaitable[Response]]], Awaitable[Response]]
"""Stands between a request and its answer: it may answer itself, and change what the answer was going to be.

It is called before the key is looked at; a body that is streamed can still be changed (`body.StreamBody`).
"""


async def as_it_is(target: Target, answer: Callable[[], Awaitable[Response]]) -> Response:
    """The `Around` that does nothing."""
    return await answer()


@dataclass(frozen=True, slots=True)
class Upstream:
    """One per environment. ``now_ms`` is the clock that v2 pings show, ``chance`` spreads pings and long polls."""

    store: Store
    timing: Timing
    feed: NativeFeed | ElectricFeed
    compression: bool
    now_ms: Callable[[], int]
    chance: random.Random
    connections: Connections
    index: Index
    ahead: int = 0
    """So far beyond the tail of a v2 stream a reader may have read it elsewhere."""
    fallback: Fallback | None = None
    """Answers what the store does not have; None: nobody does, and it is unknown."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that passed every check but those of its own route."""

    request: Request
    run: Run
    target: Target
    admitted: Admitted
