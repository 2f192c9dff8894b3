"""Upstream's answers other than data: status, headers and body as the web app words them (protocol §1.1, §4)."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

_CORS = {"access-control-allow-origin": "*"}
_JSON = {"content-type": "application/json; charset=utf-8"}
_PROBLEM = {"content-type": "application/problem+json"}

_FORBIDDEN = b'{"error":"Unauthorized","code":"unauthorized","param":"access_token","type":"authorization"}'


def error(status: int, body: bytes, **headers: str) -> Response:
    """A JSON error; underscores in header names become hyphens."""
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(body, status, {**_CORS, **_JSON, **more})


def refused(text: str) -> Response:
    """The 400 of the stream routes, which is plain text."""
    return Response(text.encode(), 400, {**_CORS, "content-type": "text/plain;charset=UTF-8"})


def problem(status: int, body: bytes, headers: dict[str, str]) -> Response:
    """An answer of the rate limiter."""
    return Response(body, status, {**_PROBLEM, **headers})


def no_key() -> Response:
    return error(401, b'{"error":"Invalid or Missing API key"}')


def wrong_key() -> Response:
    return error(401, b'{"error":"Invalid API key"}')


def forbidden() -> Response:
    return error(403, _FORBIDDEN)


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
    return problem(401, body, {})


@dataclass(frozen=True, slots=True)
class _Usual:
    body: bytes
    content_type: str = "application/json; charset=utf-8"


_USUAL = {
    400: _Usual(b"Bad Request", "text/plain;charset=UTF-8"),
    401: _Usual(b'{"error":"Invalid API key"}'),
    403: _Usual(_FORBIDDEN),
    404: _Usual(b'{"error":"Not found"}'),
    409: _Usual(b'[{"headers":{"control":"must-refetch"}}]'),
    429: _Usual(b'{"error":"Too many concurrent requests"}'),
    500: _Usual(b'{"error":"Internal Server Error"}'),
    502: _Usual(b"<html><body>502 Bad Gateway</body></html>", "text/html"),
    503: _Usual(b"<html><body>503 Service Unavailable</body></html>", "text/html"),
    504: _Usual(b"<html><body>504 Gateway Time-out</body></html>", "text/html"),
}


def usual(status: int, body: bytes | None, headers: tuple[tuple[str, str], ...]) -> Response:
    """An answer of this status; without ``body`` with the one that upstream, or a proxy before it, gives."""
    known = _USUAL.get(status, _Usual(b""))
    shown = known.body if body is None else body
    return Response(shown, status, {**_CORS, "content-type": known.content_type, **dict(headers)})
