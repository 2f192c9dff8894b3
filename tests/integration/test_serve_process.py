"""`tailrace serve` as a process: what is not archived is asked of upstream, and everybody is let go in good order."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import httpx
import pytest
from pydantic import SecretStr

from tailrace.config.keys import Access as Reached
from tailrace.devtools.servers.postgres import Postgres
from tailrace.errors import StoreUnavailable
from tailrace.model import Wire
from tailrace.serve.admission import Admitted
from tailrace.serve.app import DEFAULT_KEY, create_app_of, make_upstream
from tailrace.serve.archive import Archive, ArchiveStore
from tailrace.serve.archive.to_upstream import ToUpstream, upstream_client
from tailrace.serve.connections import Connections
from tailrace.serve.draining import DrainingServer
from tailrace.serve.one_key import OneKey
from tailrace.serve.server import listen, url_of
from tailrace.serve.upstream import Upstream
from tests.integration.schema_rows import Archive as Rows
from tests.streamcases import LONG_S, TIMING, World, running_world

pytestmark = pytest.mark.unbalanced

READERS_KEY = "tlr_the_readers_own"


@dataclass(frozen=True, slots=True)
class Process:
    """`tailrace serve` in a thread of its own. ``reached`` may be changed while it runs."""

    url: str
    server: DrainingServer
    reached: dict[str, Reached]

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=asking(**headers), trust_env=False, timeout=LONG_S)

    @contextmanager
    def reading(self, path: str, **headers: str) -> Iterator[httpx.Response]:
        with httpx.stream("GET", self.url + path, headers=asking(**headers), trust_env=False, timeout=LONG_S) as answer:
            yield answer


def asking(**headers: str) -> dict[str, str]:
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    return {"authorization": f"Bearer {READERS_KEY}", "accept-encoding": "identity", **more}


@contextmanager
def serving(database_url: str, upstream_url: str, *, timing: object = TIMING) -> Iterator[Process]:
    listener = listen("127.0.0.1", 0)
    connections = Connections()
    archive = Archive(database_url)
    reached = {"default": Reached("default", upstream_url, SecretStr(DEFAULT_KEY))}
    client = upstream_client(LONG_S, LONG_S)

    def parts(_: str) -> Upstream:
        store = ArchiveStore(archive, "default")

        async def how() -> Reached | None:
            return reached.get("default")

        return make_upstream(store, connections, timing=timing, fallback=ToUpstream("default", store, client, how))

    server = DrainingServer(create_app_of(OneKey(READERS_KEY), parts, connections), connections, archive.stop_waiting)

    async def serve() -> None:
        await server.serve(sockets=[listener])
        await client.aclose()
        await archive.close()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), name="tailrace-serve", daemon=True)
    url = url_of(listener)
    thread.start()
    try:
        assert server.ready.wait(LONG_S)
        yield Process(url, server, reached)
    finally:
        server.stop()
        thread.join(LONG_S)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def world(postgres_server: Postgres, template_database: str) -> Iterator[World]:
    with running_world(postgres_server, template_database) as world:
        yield world


@pytest.fixture
def process(world: World) -> Iterator[Process]:
    with serving(world.archiver.url, world.server.url) as process:
        yield process


# --- what is not archived


@pytest.mark.parametrize("wire", list(Wire), ids=str)
def test_a_run_that_is_not_archived_is_read_upstream(world: World, process: Process, wire: Wire) -> None:
    """Its streams, its feed and itself, with the server's own key; nothing of the reader's goes on."""
    place = world.place(wire)
    place.write("a b/c", ["1", '"two"'])
    place.finish()
    own = {"authorization": f"Bearer {DEFAULT_KEY}", "accept-encoding": "identity", "timeout-seconds": "1"}
    for path in (
        f"/realtime/v1/streams/{place.run_id}/a%20b%2Fc",
        f"/realtime/v1/runs/{place.run_id}?offset=-1&skipColumns=payload",
        f"/api/v3/runs/{place.run_id}",
    ):
        answer = process.get(path, timeout_seconds="1", x_trigger_branch="reader", cookie="a=b", x_other="c")
        direct = httpx.get(world.server.url + path, headers=own, trust_env=False, timeout=LONG_S)
        assert answer.status_code == direct.status_code == 200
        assert answer.headers["content-type"] == direct.headers["content-type"]
        assert answer.headers.get("x-stream-version") == direct.headers.get("x-stream-version")
        assert answer.headers.get("electric-handle") == direct.headers.get("electric-handle")
        if "/streams/" in path:
            chunks = [line for line in answer.text.splitlines() if "two" in line]
            assert chunks == [line for line in direct.text.splitlines() if "two" in line] != []
    asked = [seen for seen in world.server.traffic.requests() if place.run_id in seen.path]
    passed_on = [seen for seen in asked if seen.headers.get("user-agent") == "tailrace"]
    assert len(passed_on) == 3
    for seen in passed_on:
        assert seen.headers.keys().isdisjoint({"x-trigger-branch", "cookie", "x-other"})
    assert passed_on[0].headers["timeout-seconds"] == "1"
    assert passed_on[1].query == "offset=-1&skipColumns=payload"


def test_a_stream_that_is_not_archived_is_read_upstream_and_the_others_here(world: World, process: Process) -> None:
    place = world.place(Wire.V2)
    place.write("ai", ["1"])
    place.write("other", ["2"])
    place.finish()
    place.archive("ai", sealed=True)
    rows = Rows(world.archiver.url)
    rows.run("UPDATE tailrace.runs SET status = 'COMPLETED', created_at = now() WHERE run_id = %s", place.run_id)
    rows.connection.close()
    before = len(place.requests("ai")), len(place.requests("other"))
    assert '{\\"data\\":1' in process.get(f"/realtime/v1/streams/{place.run_id}/ai", timeout_seconds="1").text
    assert '{\\"data\\":2' in process.get(f"/realtime/v1/streams/{place.run_id}/other", timeout_seconds="1").text
    assert (len(place.requests("ai")), len(place.requests("other"))) == (before[0], before[1] + 1)


def test_what_upstream_does_not_know_either_is_its_own_404(process: Process) -> None:
    answer = process.get("/api/v3/runs/run_nobody_has")
    assert (answer.status_code, answer.headers["x-should-retry"]) == (404, "true")
    assert process.get("/realtime/v1/streams/run_nobody_has/ai").status_code == 404
    assert process.get("/realtime/v1/streams/run_1/%2e%2e").status_code == 404


def test_a_forgotten_run_is_not_asked_of_upstream(world: World, process: Process) -> None:
    place = world.place(Wire.V2)
    place.write("ai", ["1"])
    rows = Rows(world.archiver.url)
    rows.rows("SELECT tailrace.forget_run('default', %s)", place.run_id)
    rows.connection.close()
    assert process.get(f"/realtime/v1/streams/{place.run_id}/ai").status_code == 404
    assert place.requests("ai") == []


def test_the_servers_own_trouble_is_no_401_of_the_reader(world: World, process: Process) -> None:
    """A key that upstream refuses, an upstream that is away, and an environment that nobody serves any more."""
    place = world.place(Wire.V2)
    place.write("ai", ["1"])
    path = f"/realtime/v1/streams/{place.run_id}/ai"
    process.reached["default"] = Reached("default", world.server.url, SecretStr("tr_dev_wrong"))
    assert process.get(path).status_code == 500
    process.reached["default"] = Reached("default", "http://127.0.0.1:9", SecretStr(DEFAULT_KEY))
    assert process.get(path).status_code == 500
    del process.reached["default"]
    assert process.get(path).status_code == 500


def test_a_token_reads_upstream_only_what_it_names_by_id() -> None:
    class Store:
        async def has_stream(self, run_id: str, key: str) -> bool:
            return False

        async def is_forgotten(self, run_id: str) -> bool:
            return run_id == "run_forgotten"

    async def takes(*scopes: str, run_id: str = "run_1") -> bool:
        async def how() -> Reached | None:
            return None

        async with httpx.AsyncClient() as client:
            admitted = Admitted("default", scopes=scopes or None)
            return await ToUpstream("default", Store(), client, how).takes(run_id, "ai", None, admitted)

    for scopes, allowed in [
        ((), True),
        (("read:runs",), True),
        (("read:runs:run_1",), True),
        (("read:runs:run_2",), False),
        (("read:tags:x", "read:tasks"), False),
    ]:
        assert asyncio.run(takes(*scopes)) is allowed, scopes
    assert asyncio.run(takes(run_id="run_forgotten")) is False


# --- a load balancer


def test_a_load_balancer_is_told_how_it_is() -> None:
    """Without a key, and with upstream's words."""

    async def ask(healthy: Callable[[], Awaitable[None]] | None) -> tuple[int, str]:
        app = create_app_of(OneKey(READERS_KEY), pytest.fail, Connections(), healthy=healthy)
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
            answer = await client.get("/healthcheck")
            return answer.status_code, answer.text

    async def away() -> None:
        raise StoreUnavailable("Postgres did not answer")

    async def there() -> None:
        return

    assert asyncio.run(ask(None)) == asyncio.run(ask(there)) == (200, "OK")
    assert asyncio.run(ask(away)) == (500, "ERROR")


# --- letting go


def test_a_drained_reader_is_cut_off_after_a_whole_event_and_goes_on_elsewhere(world: World) -> None:
    """No clean end, which the official client takes for the end of the stream; whoever waits for a run is answered."""
    place = world.place(Wire.V2)
    place.write("ai", [str(number) for number in range(40)])
    place.archive("ai", 30)
    rows = Rows(world.archiver.url)
    rows.run("UPDATE tailrace.runs SET status = 'EXECUTING', created_at = now(), keys_read_at = now()")
    rows.connection.close()
    long = TIMING.scaled(1_000)
    path = f"/realtime/v1/streams/{place.run_id}/ai"
    answered: list[httpx.Response] = []
    with serving(world.archiver.url, world.server.url, timing=long) as process:
        first = process.get(f"/realtime/v1/runs/{place.run_id}?offset=-1", x_trigger_electric_version="1")
        feed = f"offset={first.headers['electric-offset']}&handle={first.headers['electric-handle']}&live=true"
        url = f"/realtime/v1/runs/{place.run_id}?{feed}"
        waiting = threading.Thread(target=lambda: answered.append(process.get(url, x_trigger_electric_version="1")))
        waiting.start()
        with process.reading(path) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "event: batch"
            assert next(lines) == "id: 29,30," + str(metered(30))
            assert next(lines).count('"seq_num"') == 30
            assert next(lines) == ""
            assert next(lines) == "event: ping"
            while len(process.server.server_state.tasks) < 2:
                threading.Event().wait(0.01)
            process.server.stop()
            with pytest.raises(httpx.RemoteProtocolError):
                list(lines)
        waiting.join(LONG_S)
    assert [each.status_code for each in answered] == [200]
    assert answered[0].json() == [{"headers": {"control": "up-to-date"}}]
    place.archive("ai", sealed=True)
    with serving(world.archiver.url, world.server.url) as process:
        rest = process.get(path, last_event_id="29", timeout_seconds="1").text
    assert rest.count('"timestamp"') >= 10
    assert '"seq_num":30,' in rest
    assert '"seq_num":29,' not in rest
    assert rest.endswith("data: [DONE]\n\n")


def metered(count: int) -> int:
    """What the storage counts for the first chunks of a stream of numbers."""
    return sum(8 + len(f'{{"data":{number},"id":"1234567"}}') for number in range(count))
