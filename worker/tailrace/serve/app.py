"""The stand-in upstream as an application: Trigger.dev's HTTP surface over any `Store`.

Two stream routes, the run feed and the retrieve route of a run, the feed of many runs and the list of runs. Each check
comes in upstream's order: key, run, and then what the route itself asks of the request. What must come before them, or
after the answer, is handed in as an `upstream.Around`.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection
from enum import StrEnum
from typing import Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.config.origins import ANY_ORIGIN
from tailrace.metrics import answer_code
from tailrace.serve import answers, claims, metrics
from tailrace.serve.admission import MISSING, Admission, Admitted, NotAdmitted, of_run
from tailrace.serve.body import BrokenOff, StreamBody
from tailrace.serve.connections import Connections
from tailrace.serve.cors import Origins, beforehand, is_beforehand
from tailrace.serve.electric import ElectricFeed
from tailrace.serve.fallback import Fallback
from tailrace.serve.late_answers import LateAnswers
from tailrace.serve.list_routes import many_runs_feed, run_list
from tailrace.serve.listing import Index
from tailrace.serve.native import NativeFeed
from tailrace.serve.one_key import OneKey
from tailrace.serve.run_routes import retrieve, run_feed
from tailrace.serve.store import INPUT_PREFIX, Store
from tailrace.serve.stream_routes import input_stream, run_stream
from tailrace.serve.timing import Timing
from tailrace.serve.upstream import CLAIMS, RUN_LIST, RUNS_FEED, Around, Asked, Target, Upstream, as_it_is
from tailrace.telemetry import Failing

DEFAULT_KEY = "tr_dev_replay"

HEALTHCHECK = ["healthcheck"]
"""Its path. Source: the web app's `app/routes/healthcheck.tsx`."""

UNDER_API = frozenset({"api", "run list", "claims"})
"""Kinds of targets whose path is under ``/api``: without Authorization they are refused before all else."""

_COUNTED_AS = "tailrace.route"
"""Where in a request's scope it stands as what it is counted: a target's kind, `healthcheck`, or `other`."""

Route = Callable[[Upstream, Request, Target, Admitted], Awaitable[Response]]
Way = tuple[Target, Route]


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
    """Make the application of one environment with one key; `upstream_of` returns its parts.

    Args:
        store: the runs and their streams.
        api_key: the one key that is right, and that signs public access tokens; any other is a 401.
        timing: upstream's real waits by default.
        feed: the format of the run feed.
        compression: gzip v1 bodies for clients that offer it, as a web app without DISABLE_COMPRESSION does.
        electric_page_messages: how many messages one Electric answer holds at most.
        now_ms: the clock that v2 pings show.
        chance: decides the distance of v2 pings and how long a live feed request is held.
        index: how late the list of runs is; not at all by default.
        around: stands between each request and its answer.
    """
    connections = Connections()
    upstream = make_upstream(
        store,
        connections,
        timing=timing,
        feed=feed,
        compression=compression,
        electric_page_messages=electric_page_messages,
        now_ms=now_ms,
        chance=chance,
        index=index,
    )
    at_once = LateAnswers(late_s=0)  # upstream's answers to wrong keys come at once
    app = create_app_of(OneKey(api_key), lambda _: upstream, connections, late_answers=at_once, around=around)
    app.state.upstream = upstream
    return app


def make_upstream(
    store: Store,
    connections: Connections,
    *,
    timing: Timing | None = None,
    feed: FeedFormat = FeedFormat.NATIVE,
    compression: bool = True,
    electric_page_messages: int = 1000,
    now_ms: Callable[[], int] = wall_clock_ms,
    chance: random.Random | None = None,
    index: Index | None = None,
    ahead: int = 0,
    fallback: Fallback | None = None,
) -> Upstream:
    """Make the parts of one environment; the arguments are those of `create_app`, and what `Upstream` says of them."""
    timing = timing or Timing()
    chance = chance or random.Random()
    native = feed is FeedFormat.NATIVE
    return Upstream(
        store=store,
        timing=timing,
        feed=NativeFeed(store, timing, chance)
        if native
        else ElectricFeed(store, timing, chance, page_messages=electric_page_messages),
        compression=compression,
        now_ms=now_ms,
        chance=chance,
        connections=connections,
        index=index or Index(),
        ahead=ahead,
        fallback=fallback,
    )


def create_app_of(
    access: Admission,
    upstreams: Callable[[str], Upstream],
    connections: Connections,
    *,
    late_answers: LateAnswers | None = None,
    around: Around = as_it_is,
    origins: Collection[str] | None = None,
    healthy: Callable[[], Awaitable[object]] | None = None,
) -> Starlette:
    """Make the application of several environments.

    Args:
        access: who may read, and of which environment.
        upstreams: makes the parts of an environment, at the first request that may read it.
        connections: those of the server, which each of the parts has too.
        late_answers: how those are answered who may not; wrong keys late by default.
        around: stands between each request and its answer, before the key is looked at.
        origins: the pages that a browser lets read (`cors.Origins`); None: all, as upstream's answers say.
        healthy: raises when the application can't answer: what ``/healthcheck`` says.
    """
    door = _Door(access, upstreams, late_answers or LateAnswers(), around, healthy)
    app = Starlette()
    app.state.connections = connections
    # Starlette's routes see the decoded path, where a%2Fb has become two segments; so none of them is used.
    app.router.default = door if origins is None else Origins(door, origins)
    return app


def upstream_of(app: Starlette) -> Upstream:
    """Return the parts behind an application. Raises TypeError for one that `create_app` did not make."""
    upstream: Any = getattr(app.state, "upstream", None)
    if not isinstance(upstream, Upstream):
        raise TypeError("not an application made by create_app")
    return upstream


class _Door:
    """Every request goes through here: it is admitted, and its route answers for the environment that it may read."""

    def __init__(
        self,
        access: Admission,
        upstreams: Callable[[str], Upstream],
        late_answers: LateAnswers,
        around: Around,
        healthy: Callable[[], Awaitable[object]] | None,
    ) -> None:
        self._access = access
        self._healthy = healthy
        self._make = upstreams
        self._made: dict[str, Upstream] = {}
        self._late_answers = late_answers
        self._around = around
        self._failing = Failing("answering")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        response = await self._answer(request)
        route: str = scope.get(_COUNTED_AS, "other")
        metrics.answers.labels(route, answer_code(response.status_code)).inc()
        if not isinstance(response, StreamBody):  # which counts what it sends itself
            metrics.sent_bytes.inc(len(getattr(response, "body", b"")))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        if is_beforehand(request.method, request.headers):
            return beforehand(request.headers, ANY_ORIGIN)
        raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
        # Cut first, decoded after: an encoded slash is part of a segment.
        segments = [unquote(segment) for segment in raw_path.decode("latin-1").split("/")[1:]]
        wanted = "POST" if segments == claims.PATH else "GET"
        if request.method != wanted:
            return Response("Method Not Allowed", 405, {"allow": wanted})
        if segments == HEALTHCHECK:
            request.scope[_COUNTED_AS] = "healthcheck"
            return await self._health()
        found = (CLAIMS, _claims) if segments == claims.PATH else _route(segments)
        if found is None:
            return answers.unknown()
        target, route = found
        request.scope[_COUNTED_AS] = target.kind.replace(" ", "_")
        if target.kind in UNDER_API and "authorization" not in request.headers:
            metrics.refused_requests.labels("missing").inc()
            return answers.limiter_wants_key()
        return await self._around(target, lambda: self._admitted(request, target, route))

    async def _health(self) -> Response:
        """What upstream's own route for load balancers says, and to anybody: no key is looked at."""
        try:
            if self._healthy is not None:
                await self._healthy()
        except Exception as error:  # noqa: BLE001  it is told, and whoever asks goes elsewhere
            self._failing.failed(error)
            return Response("ERROR", 500)
        return Response("OK")

    async def _admitted(self, request: Request, target: Target, route: Route) -> Response:
        try:
            admitted = await self._access.admit(request.headers)
            response = await route(self._upstream(admitted.environment), request, target, admitted)
        except NotAdmitted as error:
            refused = error
        except Exception as error:  # noqa: BLE001  it is told, and the client asks again
            self._failing.failed(error)
            return answers.failed()
        else:
            self._failing.succeeded()
            if isinstance(response, StreamBody) and admitted.key_id is not None:
                response.blocks = _while_it_stands(response.blocks, self._access, admitted)
            return response
        metrics.refused_requests.labels(_why(refused)).inc()
        return await self._late_answers.answer(refused, request.receive)

    def _upstream(self, environment: str) -> Upstream:
        if environment not in self._made:
            self._made[environment] = self._make(environment)
        return self._made[environment]


def _why(refused: NotAdmitted) -> str:
    if refused.said == MISSING:
        return "missing"
    return "wrong" if refused.guessed else "other"


async def _while_it_stands(blocks: AsyncIterator[bytes], access: Admission, admitted: Admitted) -> AsyncIterator[bytes]:
    """The blocks until the key is revoked; then the connection breaks off, and the client has to ask again."""
    try:
        async for block in blocks:
            if not await access.stands(admitted):
                raise BrokenOff
            yield block
    finally:
        if isinstance(blocks, AsyncGenerator):
            await blocks.aclose()


def _route(segments: list[str]) -> Way | None:
    match segments:
        case ["realtime", "v1", "streams", run_id, "input", key]:
            return Target("stream", run_id, INPUT_PREFIX + key), _of_run(input_stream)
        case ["realtime", "v1", "streams", run_id, key]:
            return Target("stream", run_id, key), _of_run(run_stream)
        case ["realtime", "v1", "runs", run_id]:
            return Target("feed", run_id), _of_run(run_feed)
        case ["realtime", "v1", "runs"]:
            return RUNS_FEED, _of_many(many_runs_feed)
        case ["api", "v1", "runs"]:
            return RUN_LIST, _of_many(run_list)
        case ["api", "v3", "runs", run_id]:
            return Target("api", run_id), _of_run(retrieve)
        case _:
            return None


def _of_run(route: Callable[[Upstream, Asked], Awaitable[Response]]) -> Route:
    """Find the run first; then look whether it may be read, as upstream does: who may read nothing is told that it is
    there."""

    async def answer(upstream: Upstream, request: Request, target: Target, admitted: Admitted) -> Response:
        run = await upstream.store.run(target.run_id)
        fallback = upstream.fallback
        if fallback is not None and await fallback.takes(target.run_id, target.key or None, run, admitted):
            return await fallback.answer(request, admitted, upstream.connections)
        if run is None:
            return answers.unknown_yet() if target.kind == "api" else answers.unknown()
        if not admitted.may_read(of_run(run)):
            return answers.forbidden()
        return await route(upstream, Asked(request, run, target, admitted))

    return answer


def _of_many(route: Callable[[Upstream, Request, Admitted], Awaitable[Response]]) -> Route:
    """What is about many runs looks itself which of them may be read."""

    async def answer(upstream: Upstream, request: Request, _: Target, admitted: Admitted) -> Response:
        return await route(upstream, request, admitted)

    return answer


async def _claims(_upstream: Upstream, _request: Request, _target: Target, admitted: Admitted) -> Response:
    return claims.claims(admitted)
