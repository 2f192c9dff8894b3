"""What upstream, or a proxy before it, says with each status when it is not the right answer."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from tailrace.serve.answers import CORS

_FORBIDDEN = b'{"error":"Unauthorized","code":"unauthorized","param":"access_token","type":"authorization"}'


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
    return Response(shown, status, {**CORS, "content-type": known.content_type, **dict(headers)})
