"""The routes that tell about many runs: their feed, ``/realtime/v1/runs``, and the list, ``/api/v1/runs``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from tailrace.serve import answers
from tailrace.serve.admission import Admitted, may_list, of_feed
from tailrace.serve.electric import ElectricFeed
from tailrace.serve.feed import UP_TO_DATE, FeedRequest, feed_headers, feed_request, row_key, row_value, schema_header
from tailrace.serve.listing import BadQuery, feed_window, list_page, list_query
from tailrace.serve.retrieve import listed_run
from tailrace.serve.runs import EPOCH, Run
from tailrace.serve.upstream import Upstream

_JSON = {"access-control-allow-origin": "*", "content-type": "application/json; charset=utf-8"}


async def many_runs_feed(upstream: Upstream, request: Request, admitted: Admitted) -> Response:
    """Status and stream keys of many runs. ``live=true`` is answered at once too: nobody here waits for a change of any
    of thousands of runs.
    """
    if not admitted.may_read(of_feed(request.query_params.get("tags", ""))):
        return answers.forbidden()
    wanted = feed_request(request.query_params, request.headers, admitted.skip_columns)
    try:
        window = feed_window(request.query_params, _now(upstream))
    except BadQuery:
        return answers.error(400, b'{"error":"Invalid tags"}')
    if isinstance(upstream.feed, ElectricFeed):
        query = request.query_params
        name = f"{query.get('createdAt', '24h')} {','.join(sorted(window.all_tags))}"
        since = upstream.feed.since(name, window.since or EPOCH, wanted)
        found = await upstream.store.runs(replace(window, since=since, limit=None))
        answer = upstream.feed.answer_many(name, since, found.runs, wanted)
        return Response(answer.body, answer.status, answer.headers)
    return _whole((await upstream.store.runs(window)).runs, wanted)


def _whole(runs: Sequence[Run], wanted: FeedRequest) -> Response:
    """Full rows each time, as the native backend answers."""
    rows: list[dict[str, Any]] = [
        {"key": row_key(run), "value": row_value(run, wanted, "T"), "headers": {"operation": "insert"}} for run in runs
    ]
    newest = max((run.updated_at for run in runs), default=EPOCH)
    tokens = {
        "handle": wanted.handle or "runs-1",
        "offset": f"{round(newest.timestamp() * 1000)}_{len(rows)}",
        "schema": schema_header(wanted.skip),
        "up-to-date": "",
    }
    body = msgspec.json.encode([*rows, UP_TO_DATE])
    return Response(body, 200, feed_headers(tokens, wanted))


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
