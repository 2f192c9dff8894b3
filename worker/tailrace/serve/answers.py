"""Upstream's answers other than data: status, headers and body as the web app words them (protocol §1.1, §4)."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

CORS = {"access-control-allow-origin": "*"}
_JSON = {"content-type": "application/json; charset=utf-8"}
PROBLEM = {"content-type": "application/problem+json"}


def error(status: int, body: bytes, **headers: str) -> Response:
    """A JSON error; underscores in header names become hyphens."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, {**CORS, **_JSON, **more})


def refused(text: str) -> Response:
    """The 400 of the stream routes, which is plain text."""
    return Response(text.encode(), 400, {**CORS, "content-type": "text/plain;charset=UTF-8"})


def json(body: bytes) -> Response:
    """A good answer."""
    return Response(body, 200, {**CORS, **_JSON})


def unauthorized(said: str) -> Response:
    """The 401 of every route, in upstream's words."""
    return error(401, msgspec.json.encode({"error": said}))


def forbidden() -> Response:
    """The 403 to a token whose scopes do not have what is asked for."""
    return error(403, b'{"error":"Unauthorized","code":"unauthorized","param":"access_token","type":"authorization"}')


def unknown() -> Response:
    """404 of the stream and feed routes."""
    return error(404, b'{"error":"Not found"}', x_should_retry="false")


def unknown_yet() -> Response:
    """404 of the retrieve route, which blames the lag of its replica."""
    return error(404, b'{"error":"Not found"}', x_should_retry="true")


def failed() -> Response:
    """What every trouble of the storage behind v2 becomes."""
    return error(500, b'{"error":"Internal Server Error"}')


def limiter_wants_key() -> Response:
    """401 of the rate limiter for a path under ``/api`` without Authorization."""
    body = b'{"title":"Unauthorized","status":401,"detail":"No authorization header provided"}'
    return Response(body, 401, PROBLEM)
