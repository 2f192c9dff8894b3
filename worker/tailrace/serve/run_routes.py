"""The routes that tell about a run: its feed, ``/realtime/v1/runs/{run}``, and ``/api/v3/runs/{run}``."""

from __future__ import annotations

from starlette.responses import Response

from tailrace.serve.body import unless_left
from tailrace.serve.feed import feed_request
from tailrace.serve.retrieve import run_body
from tailrace.serve.upstream import Asked, Upstream

_RETRIEVE_HEADERS = {"access-control-allow-origin": "*", "content-type": "application/json; charset=utf-8"}


async def run_feed(upstream: Upstream, asked: Asked) -> Response:
    """Status and stream keys; with ``live=true`` held until they change."""
    request = asked.request
    wanted = feed_request(request.query_params, request.headers, asked.admitted.skip_columns)
    answer = await unless_left(request.receive, upstream.feed.answer(asked.run, wanted))
    if answer is None:
        return Response()  # to nobody
    return Response(answer.body, answer.status, answer.headers)


async def retrieve(upstream: Upstream, asked: Asked) -> Response:
    """The run by the names of the API, without its stream keys."""
    body = run_body(asked.run, asked.request.headers.get("x-trigger-api-version"))
    return Response(body, 200, _RETRIEVE_HEADERS)
