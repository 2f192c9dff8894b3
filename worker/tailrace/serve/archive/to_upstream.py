"""What the archive does not have is asked of upstream itself, so that one address serves old runs and new ones.

Upstream is asked with the key by which the environment is archived, never with what the reader showed: that may be a
key of this server alone, and whoever reads here has been admitted here. Nothing that tells who the reader is goes on.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol
from urllib.parse import quote, unquote

import httpx
from starlette.requests import Request
from starlette.responses import Response

from tailrace.config.keys import Access as Reached
from tailrace.errors import NotFound, SourceUnavailable, Unauthorized, WorkerError
from tailrace.serve import answers
from tailrace.serve.admission import Admitted, Resource, of_run
from tailrace.serve.body import BrokenOff, StreamBody
from tailrace.serve.connections import Connections
from tailrace.serve.runs import Run
from tailrace.telemetry import Failing

__all__ = ["Lacking", "ToUpstream", "upstream_client"]

_ASKED = ("accept", "last-event-id", "timeout-seconds", "x-peek-settled", "x-trigger-stream-start")
"""What of a request goes on, besides all that begins with `_OURS`."""
_OURS = "x-trigger-"
_NOT_OURS = "x-trigger-branch"
"""Says which environment is meant, as the key does: the reader's is this server's matter."""
_NOT_TOLD = frozenset(
    {
        *("connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding", "date", "server"),
        *("set-cookie", "strict-transport-security", "alt-svc"),
    }
)
"""What of an answer belongs to its connection, or to upstream's own site."""


class Lacking(Protocol):
    """A store that can tell what it does not have: `ArchiveStore`."""

    async def has_stream(self, run_id: str, key: str) -> bool: ...
    async def is_forgotten(self, run_id: str) -> bool: ...


class ToUpstream:
    """The `tailrace.serve.fallback.Fallback` of one environment."""

    def __init__(
        self,
        environment: str,
        store: Lacking,
        client: httpx.AsyncClient,
        reached: Callable[[], Awaitable[Reached | None]],
    ) -> None:
        """``reached`` says how the environment is reached now; None: nothing is known of it any more."""
        self._failing = Failing("fallback", {"environment": environment})
        self._store = store
        self._client = client
        self._reached = reached

    async def takes(self, run_id: str, stream_key: str | None, run: Run | None, admitted: Admitted) -> bool:
        """What a run is that is not archived cannot be told: only a right to all runs, or to this one by its id, is one
        to it. A run that was forgotten stays so."""
        if run is None:
            return admitted.may_read([Resource("runs", run_id)]) and not await self._store.is_forgotten(run_id)
        if stream_key is None or not admitted.may_read(of_run(run)):
            return False
        return not await self._store.has_stream(run_id, stream_key)

    async def answer(self, request: Request, admitted: Admitted, connections: Connections) -> Response:
        try:
            reached = await self._reached()
            if reached is None:
                raise Unauthorized("there is no key of this environment here")
            response = await self._ask(reached, request, admitted)
        except NotFound:
            return answers.unknown()
        except WorkerError as error:
            self._failing.failed(error)
            return answers.failed()
        self._failing.succeeded()
        headers = [(name, value) for name, value in response.headers.items() if name not in _NOT_TOLD]
        return StreamBody(_blocks(response), connections, status=response.status_code, headers=headers)

    async def _ask(self, reached: Reached, request: Request, admitted: Admitted) -> httpx.Response:
        url = _url(reached, request, admitted)
        try:
            asked = self._client.build_request("GET", url, headers=_headers(reached, request))
            response = await self._client.send(asked, stream=True)
        except httpx.HTTPError as error:
            raise SourceUnavailable(f"upstream can't be reached: {type(error).__name__}") from None
        if response.status_code in (401, 403):  # it is not the reader's key that was refused
            await response.aclose()
            raise Unauthorized(f"upstream answered {response.status_code}")
        return response


def upstream_client(connect_timeout_s: float, read_timeout_s: float) -> httpx.AsyncClient:
    """Return what all environments of a process are asked with: as many connections as there are readers."""
    timeout = httpx.Timeout(read_timeout_s, connect=connect_timeout_s, pool=None)
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=20)
    return httpx.AsyncClient(timeout=timeout, limits=limits, follow_redirects=False)


def _url(reached: Reached, request: Request, admitted: Admitted) -> httpx.URL:
    raw_path: bytes = request.scope.get("raw_path") or request.scope["path"].encode()
    # Taken apart and put together again: what is no plain segment could mean another place to whoever reads it.
    segments = [unquote(segment) for segment in raw_path.decode("latin-1").split("/")[1:]]
    if any(segment in ("", ".", "..") for segment in segments):
        raise NotFound("no such place upstream")
    path = "".join("/" + quote(segment, safe="") for segment in segments).encode()
    query: bytes = request.scope["query_string"]
    base = httpx.URL(reached.api_url)
    if admitted.skip_columns:
        parameters = httpx.QueryParams(query.decode("latin-1"))
        skipped = {*parameters.get("skipColumns", "").split(","), *admitted.skip_columns} - {""}
        query = str(parameters.set("skipColumns", ",".join(sorted(skipped)))).encode()
    return base.copy_with(raw_path=base.raw_path.rstrip(b"/") + path + (b"?" + query if query else b""))


def _headers(reached: Reached, request: Request) -> dict[str, str]:
    headers = {
        name: value
        for name, value in request.headers.items()
        if name in _ASKED or (name.startswith(_OURS) and name != _NOT_OURS)
    }
    headers |= {
        "authorization": f"Bearer {reached.key.get_secret_value()}",
        "accept-encoding": "identity",  # a compressed stream would come late
        "user-agent": "tailrace",
    }
    if reached.preview_branch is not None:
        headers[_NOT_OURS] = reached.preview_branch
    return headers


async def _blocks(response: httpx.Response) -> AsyncIterator[bytes]:
    try:
        async for block in response.aiter_raw():
            yield block
    except httpx.HTTPError:
        raise BrokenOff from None  # as it broke off there: the client asks again
    finally:
        await response.aclose()
