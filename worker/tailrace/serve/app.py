"""The stand-in upstream as an application: Trigger.dev's HTTP surface over any `Store`.

Two stream routes, the run feed and the retrieve route of a run, the feed of many runs and the list of runs. Each check
comes in upstream's order: rate limit, key, run, and then what the route itself asks of the request.
"""

from __future__ import annotations

import hmac
import random
import time
from collections.abc import Awaitable, Callable
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.serve import answers
from tailrace.serve.body import client_left
from tailrace.serve.connections import Connections
from tailrace.serve.electric import ElectricFeed
from tailrace.serve.faults import RUN_LIST, RUNS_FEED, Answer, Fault, Faults, Silence, Target
from tailrace.serve.feed import NativeFeed
from tailrace.serve.list_routes import many_runs_feed, run_list
from tailrace.serve.listing import Index
from tailrace.serve.rate_limit import Bucket, RateLimit
from tailrace.serve.run_routes import retrieve, run_feed
from tailrace.serve.store import INPUT_PREFIX, Store
from tailrace.serve.stream_routes import input_stream, run_stream
from tailrace.serve.timing import Timing
from tailrace.serve.traffic import Traffic
from tailrace.serve.upstream import Asked, RouteAnswer, Upstream

DEFAULT_KEY = "tr_dev_replay"

ListAnswer = Callable[[Upstream, Request, Fault | None], Awaitable[Response]]


class FeedFormat(StrEnum):
    """Which of upstream's two backends answers the run feed. Upstream chooses per organisation."""

    NATIVE = "native"
    ELECTRIC = "electric"


def wall_clock_ms() -> int:
    return time.time_ns() // 1_000_000


def create_app(
    store: Store,
    *,
    api_key: str = DEFAULT_KEY,
    timing: Timing | None = None,
    feed: FeedFormat = FeedFormat.NATIVE,
    rate_limit: RateLimit | None = None,
    compression: bool = True,
    electric_page_messages: int = 1000,
    now_ms: Callable[[], int] = wall_clock_ms,
    chance: random.Random | None = None,
    index: Index | None = None,
) -> Starlette:
    """The application; `upstream_of` gives its faults, its traffic and its feed.

    Args:
        store: the runs and their streams.
        api_key: the one key that is right; any other is a 401.
        timing: upstream's real waits by default.
        feed: the format of the run feed.
        rate_limit: upstream's own by default.
        compression: gzip v1 bodies for clients that offer it, as a web app without DISABLE_COMPRESSION does.
        electric_page_messages: how many messages one Electric answer holds at most.
        now_ms: the clock that v2 pings show.
        chance: decides the distance of v2 pings and how long a live feed request is held.
        index: how late the list of runs is; not at all by default.
    """
    timing = timing or Timing()
    chance = chance or random.Random()
    connections = Connections()
    native = feed is FeedFormat.NATIVE
    upstream = Upstream(
        store=store,
        api_key=api_key,
        timing=timing,
        feed=NativeFeed(store, timing, chance)
        if native
        else ElectricFeed(store, timing, chance, page_messages=electric_page_messages),
        bucket=Bucket(rate_limit or RateLimit()),
        compression=compression,
        now_ms=now_ms,
        chance=chance,
        faults=Faults(),
        connections=connections,
        traffic=Traffic(connections),
        index=index or Index(),
    )
    app = Starlette()
    app.state.upstream = upstream
    # Starlette's routes see the decoded path, where a%2Fb has become two segments; so none of them is used.
    app.router.default = _router(upstream)
    return app


def upstream_of(app: Starlette) -> Upstream:
    """The parts behind an application. Raises TypeError for one that `create_app` did not make."""
    upstream: Any = getattr(app.state, "upstream", None)
    if not isinstance(upstream, Upstream):
        raise TypeError("not an application made by create_app")
    return upstream


def _router(upstream: Upstream) -> ASGIApp:
    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = await _answer(upstream, Request(scope, receive))
        await response(scope, receive, send)

    return answer


async def _answer(upstream: Upstream, request: Request) -> Response:
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    path = raw_path.decode("latin-1")
    scope = request.scope
    upstream.traffic.note(
        request.method,
        path,
        scope["query_string"].decode("latin-1"),
        scope["headers"],
        (scope["client"][0], scope["client"][1]) if scope.get("client") else None,
    )
    if request.method != "GET":
        return Response("Method Not Allowed", 405, {"allow": "GET"})
    # Cut first, decoded after: an encoded slash is part of a segment.
    match [unquote(segment) for segment in path.split("/")[1:]]:
        case ["realtime", "v1", "streams", run_id, "input", key]:
            return await _guarded(upstream, request, Target("stream", run_id, INPUT_PREFIX + key), input_stream)
        case ["realtime", "v1", "streams", run_id, key]:
            return await _guarded(upstream, request, Target("stream", run_id, key), run_stream)
        case ["realtime", "v1", "runs", run_id]:
            return await _guarded(upstream, request, Target("feed", run_id), run_feed)
        case ["realtime", "v1", "runs"]:
            return await _guarded_list(upstream, request, RUNS_FEED, many_runs_feed)
        case ["api", "v1", "runs"]:
            return await _limited(upstream, request, lambda: _guarded_list(upstream, request, RUN_LIST, run_list))
        case ["api", "v3", "runs", run_id]:
            target = Target("api", run_id)
            return await _limited(upstream, request, lambda: _guarded(upstream, request, target, retrieve))
        case _:
            return answers.unknown()


async def _limited(upstream: Upstream, request: Request, answer: Callable[[], Awaitable[Response]]) -> Response:
    if "authorization" not in request.headers:
        return answers.limiter_wants_key()
    allowance = upstream.bucket.take()
    if not allowance.allowed:
        return answers.problem(429, allowance.problem(upstream.now_ms()), allowance.headers)
    response = await answer()
    response.headers.update(allowance.headers)
    return response


async def _guarded(upstream: Upstream, request: Request, target: Target, route: RouteAnswer) -> Response:
    """Suffer a fault, check the key, find the run, then answer."""
    fault, refusal = _admitted(upstream, request, target)
    if refusal is not None:
        return refusal
    run = await upstream.store.run(target.run_id)
    if run is None:
        return answers.unknown_yet() if target.kind == "api" else answers.unknown()
    return await route(upstream, Asked(request, run, target, fault))


async def _guarded_list(upstream: Upstream, request: Request, target: Target, route: ListAnswer) -> Response:
    """The same for a route that names no run."""
    fault, refusal = _admitted(upstream, request, target)
    return refusal or await route(upstream, request, fault)


def _admitted(upstream: Upstream, request: Request, target: Target) -> tuple[Fault | None, Response | None]:
    """The fault that waits for this request, and the answer if it is refused."""
    fault = upstream.faults.take(target)
    if isinstance(fault, Answer):
        return None, answers.usual(fault.status, fault.body, fault.headers)
    if isinstance(fault, Silence):
        return None, _Nothing()
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        return None, answers.no_key()
    if not hmac.compare_digest(key.encode(), upstream.api_key.encode()):
        return None, answers.wrong_key()
    return fault, None


class _Nothing(Response):
    """Not even headers, until the client leaves."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await client_left(receive)
