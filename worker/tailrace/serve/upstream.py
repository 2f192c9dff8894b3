"""The parts of one stand-in upstream, as the routes need them and as tests hold on to them."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from tailrace.serve.body import gzipped
from tailrace.serve.connections import Connections
from tailrace.serve.electric import ElectricFeed
from tailrace.serve.faults import Fault, Faults, Gzip, Target, spoiled
from tailrace.serve.feed import NativeFeed
from tailrace.serve.listing import Index
from tailrace.serve.rate_limit import Bucket
from tailrace.serve.store import Run, Store
from tailrace.serve.timing import Timing
from tailrace.serve.traffic import Traffic

Headers = list[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class Upstream:
    """One per application. ``now_ms`` is the clock that v2 pings show, ``chance`` spreads pings and long polls."""

    store: Store
    api_key: str
    timing: Timing
    feed: NativeFeed | ElectricFeed
    bucket: Bucket
    compression: bool
    now_ms: Callable[[], int]
    chance: random.Random
    faults: Faults
    connections: Connections
    traffic: Traffic
    index: Index


@dataclass(frozen=True, slots=True)
class Asked:
    """A request that passed every check but those of its own route."""

    request: Request
    run: Run
    target: Target
    fault: Fault | None


RouteAnswer = Callable[[Upstream, Asked], Awaitable[Response]]


def spoiled_body(
    blocks: AsyncIterator[bytes],
    headers: Headers,
    fault: Fault | None,
    compress: bool,
) -> tuple[AsyncIterator[bytes], Headers]:
    """A body and its headers as the fault leaves them, compressed when asked or when the fault is that."""
    blocks = spoiled(blocks, fault)
    if compress or isinstance(fault, Gzip):
        return gzipped(blocks), [*headers, ("Content-Encoding", "gzip"), ("Vary", "Accept-Encoding")]
    return blocks, headers
