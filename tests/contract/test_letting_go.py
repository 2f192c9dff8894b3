"""What is left of a connection is gone when it is closed, and does not wait for the cyclic collector."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator

import httpx
import pytest

from tailrace.errors import WorkerError
from tailrace.model import StreamRef, Wire
from tailrace.serve.app import DEFAULT_KEY
from tailrace.serve.timing import Timing
from tailrace.source.aio import AsyncRunFeed, AsyncTail
from tailrace.source.client import Endpoint, Upstream, client_options
from tailrace.source.connection import Tail
from tests.upstream import LiveStore, RunningServer, create_app, running

EVENT_BYTES = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    store = LiveStore()
    for wire in Wire:
        store.create_run(f"run_{wire}", wire)
        store.append_chunks(f"run_{wire}", "ai", ["1", "2"])
        store.finish_run(f"run_{wire}")
    with running(create_app(store, timing=Timing().scaled(0.1))) as made:
        yield made


@pytest.fixture
def endpoint(server: RunningServer) -> Endpoint:
    return Endpoint(server.url, lambda: DEFAULT_KEY)


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[weakref.ref[httpx.Response]]]:
    """Every response that httpx makes. The collector is off."""
    made: list[weakref.ref[httpx.Response]] = []
    init = httpx.Response.__init__

    def noted(self: httpx.Response, *args: object, **more: object) -> None:
        made.append(weakref.ref(self))
        init(self, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(httpx.Response, "__init__", noted)
    gc.disable()
    yield made
    gc.enable()


def read(upstream: Upstream, run_id: str) -> None:
    with upstream.stream(StreamRef(run_id, "ai")) as source, Tail(source, EVENT_BYTES).connect(None, 1) as connection:
        for _ in connection.arrivals:
            pass


def leave(upstream: Upstream, run_id: str) -> None:
    with upstream.stream(StreamRef(run_id, "ai")) as source, Tail(source, EVENT_BYTES).connect(None, 1) as connection:
        next(connection.arrivals)


def look(upstream: Upstream, run_id: str) -> None:
    upstream.run(run_id)


@pytest.mark.parametrize("what", [read, leave, look])
@pytest.mark.parametrize("run_id", ["run_v1", "run_v2", "run_unknown"])
def test_nothing_of_an_answer_is_left(
    what: Callable[[Upstream, str], None], run_id: str, endpoint: Endpoint, seen: list[weakref.ref[httpx.Response]]
) -> None:
    upstream = Upstream(endpoint)
    try:
        what(upstream, run_id)
    except WorkerError:
        assert run_id == "run_unknown"
    upstream.close()
    assert seen
    assert [each() for each in seen] == [None] * len(seen)


@pytest.mark.parametrize("run_id", ["run_v1", "run_v2"])
def test_nor_for_asyncio(run_id: str, endpoint: Endpoint, seen: list[weakref.ref[httpx.Response]]) -> None:
    async def ask() -> None:
        async with httpx.AsyncClient(**client_options(endpoint, None)) as client:
            await AsyncRunFeed(client, run_id).look(live=False)
            async with AsyncTail(client, StreamRef(run_id, "ai"), EVENT_BYTES).connect(None, 1) as connection:
                async for _ in connection.arrivals:
                    pass

    asyncio.run(ask())
    assert seen
    assert [each() for each in seen] == [None] * len(seen)
