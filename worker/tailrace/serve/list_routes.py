"""The routes that tell about many runs: their feed, ``/realtime/v1/runs``, and the list, ``/api/v1/runs``."""

from __future__ import annotations

from datetime import datetime, timedelta

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.serve import answers
from tailrace.serve.admission import Admitted, may_list, of_feed
from tailrace.serve.body import unless_left
from tailrace.serve.feed import feed_request
from tailrace.serve.listing import BadQuery, feed_window, list_page, list_query
from tailrace.serve.retrieve import listed_run
from tailrace.serve.runs import EPOCH
from tailrace.serve.upstream import Upstream

_JSON = {"access-control-allow-origin": "*", "content-type": "application/json; charset=utf-8"}


async def many_runs_feed(upstream: Upstream, request: Request, admitted: Admitted) -> Response:
    """Status and stream keys of many runs; with ``live=true`` held until one of them changes."""
    if not admitted.may_read(of_feed(request.query_params.get("tags", ""))):
        return answers.forbidden()
    wanted = feed_request(request.query_params, request.headers, admitted.skip_columns)
    try:
        window = feed_window(request.query_params)
    except BadQuery:
        return answers.error(400, b'{"error":"Invalid tags"}')
    answer = await unless_left(request.receive, upstream.feed.answer_many(window, _now(upstream), wanted))
    if answer is None:
        return Response()  # to nobody
    return Response(answer.body, answer.status, answer.headers)


async def run_list(upstream: Upstream, request: Request, admitted: Admitted) -> Response:
    """A page of runs by the names of the API."""
    if not may_list(admitted, request.query_params.get("filter[taskIdentifier]", "")):
        return answers.forbidden()
    try:
        query = list_query(request.query_params, _now(upstream), upstream.index)
    except BadQuery as error:
        details = msgspec.json.encode({"error": "Query Error", "details": [{"path": [str(error)]}]})
        return answers.error(400, details)
    page = list_page(await upstream.store.runs(query.runs), query.statuses)
    version = request.headers.get("x-trigger-api-version")
    pagination = {"next": page.next, "previous": page.previous}
    body = msgspec.json.encode(
        {
            "data": [listed_run(run, version) for run in page.runs],
            "pagination": {name: cursor for name, cursor in pagination.items() if cursor is not None},
        }
    )
    return Response(body, 200, _JSON)


def _now(upstream: Upstream) -> datetime:
    return EPOCH + timedelta(milliseconds=upstream.now_ms())
