"""The stand-in upstream with its test half: every request is noted, limited as upstream does, and can be made to fail."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from starlette.applications import Starlette
from starlette.responses import Response

from tailrace.serve import app as surface
from tailrace.serve.app import UNDER_API, upstream_of, wall_clock_ms
from tailrace.serve.store import Store
from tailrace.serve.upstream import Target
from tests.upstream.faults import Faults, suffered
from tests.upstream.rate_limit import Bucket, RateLimit, limited
from tests.upstream.traffic import Noting, Traffic


@dataclass(frozen=True, slots=True)
class Half:
    """What a test holds on to."""

    faults: Faults
    traffic: Traffic
    bucket: Bucket


def create_app(
    store: Store,
    *,
    rate_limit: RateLimit | None = None,
    now_ms: Callable[[], int] = wall_clock_ms,
    **more: Any,
) -> Starlette:
    """Make the application; `half_of` returns its faults and its traffic.

    Args:
        store: the runs and their streams.
        rate_limit: upstream's own by default.
        now_ms: the clock that v2 pings and refusals show.
        more: as for `tailrace.serve.app.create_app`.
    """
    faults, bucket = Faults(), Bucket(rate_limit or RateLimit())

    async def around(target: Target, answer: Callable[[], Awaitable[Response]]) -> Response:
        async def spoiled() -> Response:
            return half.traffic.counted(target, await suffered(faults.take(target), answer, connections))

        return await (limited(bucket, now_ms(), spoiled) if target.kind in UNDER_API else spoiled())

    app = surface.create_app(store, now_ms=now_ms, around=around, **more)
    connections = upstream_of(app).connections
    half = app.state.test_half = Half(faults, Traffic(connections), bucket)
    app.add_middleware(Noting, traffic=half.traffic)
    return app


def half_of(app: Starlette) -> Half:
    """Return the test half of an application. Raises TypeError for one that `create_app` here did not make."""
    half: Any = getattr(app.state, "test_half", None)
    if not isinstance(half, Half):
        raise TypeError("not an application with a test half")
    return half
