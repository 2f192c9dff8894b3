"""What browsers are told of who may read an answer, and the answers to what they ask beforehand (CORS).

Upstream lets every page read: whoever asks needs a key, and none is sent by a browser unasked. Here it is a setting.
"""

from __future__ import annotations

from collections.abc import Collection

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from tailrace.config.origins import ANY_ORIGIN

__all__ = ["Origins", "beforehand", "is_beforehand"]

_METHODS = "GET, POST"  # POST: for the claims of a token
_ASKED_AGAIN_AFTER_S = 300  # upstream's own
_OURS = ("access-control-allow-origin", "access-control-expose-headers")


class Origins:
    """Wraps an application: its answers can be read by pages of these origins, whatever it says itself."""

    def __init__(self, app: ASGIApp, origins: Collection[str]) -> None:
        """``origins``: as a browser sends them; `ANY_ORIGIN` for all; none for none."""
        self._app = app
        self._origins = frozenset(origins)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Headers(scope=scope)
        allowed = self._allowed(request.get("origin"))
        if is_beforehand(scope["method"], request):
            await beforehand(request, allowed)(scope, receive, send)
            return

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._mark(MutableHeaders(scope=message), allowed)
            await send(message)

        await self._app(scope, receive, sending)

    def _allowed(self, origin: str | None) -> str | None:
        if ANY_ORIGIN in self._origins:
            return ANY_ORIGIN
        return origin if origin in self._origins else None

    def _mark(self, headers: MutableHeaders, allowed: str | None) -> None:
        for name in _OURS:
            del headers[name]
        if ANY_ORIGIN not in self._origins:
            headers.add_vary_header("Origin")  # a cache must not give one page what was for another
        if allowed is not None:
            headers["access-control-allow-origin"] = allowed
            headers["access-control-expose-headers"] = "*"


def is_beforehand(method: str, request: Headers) -> bool:
    """Return whether this is not a request but a browser's question whether it may send one."""
    return method == "OPTIONS" and "access-control-request-method" in request


def beforehand(request: Headers, allowed: str | None) -> Response:
    """Answer it: pages of this origin may; None: not of the one that asks. Without the headers no browser goes on."""
    if allowed is None:
        return Response(status_code=204, headers={"vary": "Origin"})
    headers = {
        "access-control-allow-origin": allowed,
        "access-control-allow-methods": _METHODS,
        "access-control-max-age": str(_ASKED_AGAIN_AFTER_S),
        "vary": "Origin, Access-Control-Request-Headers",
    }
    if wanted := request.get("access-control-request-headers"):
        headers["access-control-allow-headers"] = wanted
    return Response(status_code=204, headers=headers)
