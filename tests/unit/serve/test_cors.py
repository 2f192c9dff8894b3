"""Which pages a browser lets read the answers, and what it is told beforehand."""

from __future__ import annotations

import httpx
import pytest
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from tailrace.config.origins import checked_origins
from tailrace.serve import answers
from tailrace.serve.cors import Origins
from tests.unit.serve.looped import looped

APP, OTHER = "https://app.example.com", "https://evil.example.com"
ASKED_BEFORE = {"access-control-request-method": "GET", "access-control-request-headers": "authorization,x-trigger"}


async def data(scope: Scope, receive: Receive, send: Send) -> None:
    found = Response(b"data", headers={**answers.CORS, "access-control-expose-headers": "*", "vary": "Accept-Encoding"})
    await found(scope, receive, send)


async def asked(origins: list[str], method: str, origin: str | None, **headers: str) -> httpx.Response:
    transport = httpx.ASGITransport(app=Origins(data, origins))
    async with httpx.AsyncClient(transport=transport, base_url="http://archive") as client:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        return await client.request(method, "/", headers=given | ({"origin": origin} if origin else {}))


@looped
async def test_a_page_of_an_origin_that_was_named_may_read() -> None:
    response = await asked([APP], "GET", APP)
    assert response.headers["access-control-allow-origin"] == APP
    assert response.headers["access-control-expose-headers"] == "*"
    assert response.headers["vary"] == "Accept-Encoding, Origin"


@pytest.mark.parametrize("origin", [OTHER, "https://app.example.com.evil.com", "http://app.example.com", "null", None])
@looped
async def test_no_other_may(origin: str | None) -> None:
    response = await asked([APP], "GET", origin)
    assert response.content == b"data"  # a server or command has no origin, and needs no leave
    assert not [name for name in response.headers if name.startswith("access-control-")]
    assert "Origin" in response.headers["vary"]
    beforehand = await asked([APP], "OPTIONS", origin, **ASKED_BEFORE)
    assert not [name for name in beforehand.headers if name.startswith("access-control-")]


@looped
async def test_none_are_named_by_default() -> None:
    response = await asked([], "GET", APP)
    assert not [name for name in response.headers if name.startswith("access-control-")]


@looped
async def test_all_may_where_that_is_said() -> None:
    response = await asked(["*"], "GET", OTHER)
    assert response.headers["access-control-allow-origin"] == "*"
    assert response.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(("origins", "allowed"), [([APP], APP), (["*"], "*")])
@looped
async def test_what_is_asked_beforehand_is_answered(origins: list[str], allowed: str) -> None:
    response = await asked(origins, "OPTIONS", APP, **ASKED_BEFORE)
    assert (response.status_code, response.content) == (204, b"")
    assert response.headers["access-control-allow-origin"] == allowed
    assert response.headers["access-control-allow-headers"] == "authorization,x-trigger"
    assert "GET" in response.headers["access-control-allow-methods"]
    assert "access-control-allow-credentials" not in response.headers


@pytest.mark.parametrize(
    ("given", "origins"),
    [
        ("https://app.example.com", (APP,)),
        (" https://App.Example.com/ ,https://app.example.com:443", (APP,)),
        ("http://localhost:3000,https://a.b", ("http://localhost:3000", "https://a.b")),
        ("http://[::1]:80", ("http://[::1]",)),
        ("*", ("*",)),
        ("https://a.b,*", ("*",)),
    ],
)
def test_origins_are_as_browsers_write_them(given: str, origins: tuple[str, ...]) -> None:
    assert checked_origins(given) == origins


@pytest.mark.parametrize(
    "given",
    ["", ",", "app.example.com", "https://", "ftp://a.b", "https://a.b/x", "https://u@a.b", "https://a.b?x", "null",
     "https://*.a.b/x", "https://a b", "https://a.b:x", "https://ä.b"],
)  # fmt: skip
def test_what_is_no_origin_is_refused(given: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        checked_origins(given)
