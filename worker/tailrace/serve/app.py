"""The stand-in upstream as an application: Trigger.dev's HTTP surface over any `Store`.

Two stream routes, the run feed and the retrieve route of a run, the feed of many runs and the list of runs. Each check
comes in upstream's order: key, run, and then what the route itself asks of the request. What must come before them, or
after the answer, is handed in as an `upstream.Around`.
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
from tailrace.serve.connections import Connections
from tailrace.serve.electric import ElectricFeed
from tailrace.serve.feed import NativeFeed
from tailrace.serve.list_routes import many_runs_feed, run_list
from tailrace.serve.listing import Index
from tailrace.serve.run_routes import retrieve, run_feed
from tailrace.serve.store import INPUT_PREFIX, Store
from tailrace.serve.stream_routes import input_stream, run_stream
from tailrace.serve.timing import Timing
from tailrace.serve.upstream import RUN_LIST, RUNS_FEED, Around, Asked, Target, Upstream, as_it_is

DEFAULT_KEY = "tr_dev_replay"

UNDER_API = frozenset({"api", "run list"})
"""Kinds of targets whose path is under ``/api``: without Authorization they are refused before all else."""

Route = Callable[[Upstream, Request, Target], Awaitable[Response]]


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
    compression: bool = True,
    electric_page_messages: int = 1000,
    now_ms: Callable[[], int] = wall_clock_ms,
    chance: random.Random | None = None,
    index: Index | None = None,
    around: Around = as_it_is,
) -> Starlette:
    """Make the application; `upstream_of` returns its parts.

    Args:
        store: the runs and their streams.
        api_key: the one key that is right; any other is a 401.
        timing: upstream's real waits by default.
        feed: the format of the run feed.
        compression: gzip v1 bodies for clients that offer it, as a web app without DISABLE_COMPRESSION does.
        electric_page_messages: how many messages one Electric answer holds at most.
        now_ms: the clock that v2 pings show.
        chance: decides the distance of v2 pings and how long a live feed request is held.
        index: how late the list of runs is; not at all by default.
        around: stands between each request and its answer.
    """
    timing = timing or Timing()
    chance = chance or random.Random()
    native = feed is FeedFormat.NATIVE
    upstream = Upstream(
        store=store,
        api_key=api_key,
        timing=timing,
        feed=NativeFeed(store, timing, chance)
        if native
        else ElectricFeed(store, timing, chance, page_messages=electric_page_messages),
        compression=compression,
        now_ms=now_ms,
        chance=chance,
        connections=Connections(),
        index=index or Index(),
        around=around,
    )
    app = Starlette()
    app.state.upstream = upstream
    # Starlette's routes see the decoded path, where a%2Fb has become two segments; so none of them is used.
    app.router.default = _router(upstream)
    return app


def upstream_of(app: Starlette) -> Upstream:
    """Return the parts behind an application. Raises TypeError for one that `create_app` did not make."""
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
    if request.method != "GET":
        return Response("Method Not Allowed", 405, {"allow": "GET"})
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    # Cut first, decoded after: an encoded slash is part of a segment.
    found = _route([unquote(segment) for segment in raw_path.decode("latin-1").split("/")[1:]])
    if found is None:
        return answers.unknown()
    target, route = found
    if target.kind in UNDER_API and "authorization" not in request.headers:
        return answers.limiter_wants_key()

    async def answer() -> Response:
        return _key_refused(upstream, request) or await route(upstream, request, target)

    return await upstream.around(target, answer)


def _route(segments: list[str]) -> tuple[Target, Route] | None:
    match segments:
        case ["realtime", "v1", "streams", run_id, "input", key]:
            return Target("stream", run_id, INPUT_PREFIX + key), _of_run(input_stream)
        case ["realtime", "v1", "streams", run_id, key]:
            return Target("stream", run_id, key), _of_run(run_stream)
        case ["realtime", "v1", "runs", run_id]:
            return Target("feed", run_id), _of_run(run_feed)
        case ["realtime", "v1", "runs"]:
            return RUNS_FEED, many_runs_feed
        case ["api", "v1", "runs"]:
            return RUN_LIST, run_list
        case ["api", "v3", "runs", run_id]:
            return Target("api", run_id), _of_run(retrieve)
        case _:
            return None


def _of_run(route: Callable[[Upstream, Asked], Awaitable[Response]]) -> Route:
    """Find the run first."""

    async def answer(upstream: Upstream, request: Request, target: Target) -> Response:
        run = await upstream.store.run(target.run_id)
        if run is None:
            return answers.unknown_yet() if target.kind == "api" else answers.unknown()
        return await route(upstream, Asked(request, run, target))

    return answer


def _key_refused(upstream: Upstream, request: Request) -> Response | None:
    scheme, _, key = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not key:
        return answers.no_key()
    if not hmac.compare_digest(key.encode(), upstream.api_key.encode()):
        return answers.wrong_key()
    return None
