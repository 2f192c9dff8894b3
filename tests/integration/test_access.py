"""Who reads over HTTP gets what is theirs: one environment, what a token names of it, and nothing once the key is revoked."""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import make_url

from tailrace.config.own_keys import hashed, new_key
from tailrace.config.settings import Settings
from tailrace.errors import UnknownEnvironment
from tailrace.model import Wire
from tailrace.serve import app as surface
from tailrace.serve import archive_access
from tailrace.serve.app import FeedFormat, create_app_of, make_upstream
from tailrace.serve.archive import Archive as Served
from tailrace.serve.archive import ArchiveStore
from tailrace.serve.claims import PATH as CLAIMS
from tailrace.serve.connections import Connections
from tailrace.serve.late_answers import LateAnswers
from tailrace.serve.timing import Timing
from tailrace.store.access_keys import AccessKeys, KeyExists
from tailrace.store.engine import create_engine
from tests.integration.schema_rows import Archive
from tests.tokens import token
from tests.upstream import LiveStore, RunningServer, running
from tests.wirecases import plain_client

SECRETS = {"production": "tr_prod_of_this_test", "staging": "tr_stg_of_this_test"}
ROUTES = (
    "/realtime/v1/streams/{run}/ai",
    "/realtime/v1/streams/{run}/input/said",
    "/realtime/v1/runs/{run}?offset=-1",
    "/realtime/v1/runs?offset=-1&createdAt=1h",
    "/api/v3/runs/{run}",
    "/api/v1/runs",
)
OF_MANY = (ROUTES[3], ROUTES[5])
RUNS = ("run_both", "run_of_production", "run_of_staging")
LATE_S = 0.02
MODERN = {"x-trigger-electric-version": "1", "x-trigger-api-version": "2025-07-16", "timeout-seconds": "1"}


@dataclass(frozen=True, slots=True)
class Place:
    """A server over two environments, which have a run of the same id."""

    server: RunningServer
    stores: dict[str, LiveStore]
    keys: AccessKeys

    def own(self, environment: str) -> str:
        """Make an own key."""
        made = new_key()
        self.keys.add(f"key {made[-8:]}", environment, hashed(made))
        return made

    def as_(self, credential: str | None) -> httpx.Client:
        client = plain_client(self.server.url, credential)
        client.headers.update(MODERN)
        return client


def fill(store: LiveStore, environment: str) -> None:
    for run in ("run_both", f"run_of_{environment}"):
        store.create_run(run, Wire.V2, tags=[f"tag of {environment}", f"tag of {run}"])
        store.append_chunks(run, "ai", [f'"chunk of {environment}"'])
        store.append_chunks(run, "$trigger.input:said", [f'"input of {environment}"'])


@pytest.fixture
def keys(engine: sa.Engine, archive: Archive) -> AccessKeys:
    for name in SECRETS:
        archive.run("INSERT INTO tailrace.environments (name, api_url) VALUES (%s, 'https://x.example.com')", name)
    return AccessKeys(engine)


def fill_rows(rows: Archive, environment: str) -> None:
    """The same, as a worker archives it."""
    for run in ("run_both", f"run_of_{environment}"):
        for key, text in (("ai", f'"chunk of {environment}"'), ("$trigger.input:said", f'"input of {environment}"')):
            stream = rows.stream(run, key, environment)
            rows.segment(stream, [text])
            rows.settle(stream, 0, [text])
            rows.run("UPDATE tailrace.streams SET wire = 'v2', state = 'active' WHERE id = %s", stream)
    rows.run(
        """UPDATE tailrace.runs r SET status = 'EXECUTING', created_at = now(), keys_read_at = now(),
               tags = ARRAY['tag of ' || e.name, 'tag of ' || r.run_id]
           FROM tailrace.environments e WHERE e.id = r.environment_id AND e.name = %s""",
        environment,
    )


@pytest.fixture(params=list(FeedFormat))
def feed(request: pytest.FixtureRequest) -> FeedFormat:
    return FeedFormat(request.param)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    path = tmp_path / "keys.toml"
    path.write_text("".join(f'[{name}]\nkey = "{key}"\n' for name, key in SECRETS.items()), encoding="utf-8")
    return Settings(keys_file=path)


Serving = Callable[..., Place]


@pytest.fixture
def serving(
    engine: sa.Engine, keys: AccessKeys, settings: Settings, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Serving]:
    monkeypatch.setattr(archive_access, "MISSED_S", -1)  # a key is shown here as soon as it is made
    with ExitStack() as ending:

        def serve(feed: FeedFormat = FeedFormat.NATIVE, *, archived: bool = False) -> Place:
            stores = {name: LiveStore() for name in SECRETS}
            served = Served(engine.url.render_as_string(hide_password=False)) if archived else None
            for name, store in stores.items():
                if served is None:
                    fill(store, name)
                else:
                    fill_rows(archive, name)
            timing = Timing(second_s=0.01, s2_ping_min_s=0.05, s2_ping_max_s=0.05, live_poll_s=0.05)
            connections = Connections()
            made = create_app_of(
                archive_access.archive_access(settings, engine),
                lambda name: make_upstream(
                    stores[name] if served is None else ArchiveStore(served, name),
                    connections,
                    timing=timing,
                    feed=feed,
                ),
                connections,
                late_answers=LateAnswers(LATE_S),
                origins=["https://app.example.com"],
            )
            if served is not None:
                ending.callback(served.let_go)
            return Place(ending.enter_context(running(made)), stores, keys)

        yield serve


@pytest.fixture
def place(serving: Serving) -> Place:
    return serving(FeedFormat.NATIVE)


def test_the_routes_of_these_tests_are_all_that_there_are() -> None:
    assert inspect.getsource(surface._route).count("case [") == len(ROUTES)


# --- environments


@pytest.mark.unbalanced
@pytest.mark.parametrize("archived", [False, True], ids=["stores", "archive"])
def test_nobody_reads_anything_of_another_environment(serving: Serving, feed: FeedFormat, archived: bool) -> None:
    place = serving(feed, archived=archived)
    for mine, other in itertools.permutations(SECRETS):
        credentials = (
            place.own(mine),
            SECRETS[mine],
            token(SECRETS[mine], "read:all"),
            token(SECRETS[mine], "admin", sub=other),
        )
        for credential, route, run in itertools.product(credentials, ROUTES, RUNS):
            with place.as_(credential) as client:
                response = client.get(route.format(run=run))
            told = f"{mine} {route} {run} {response.status_code} {response.text}"
            assert other not in response.text, told
            found = route in OF_MANY or run in ("run_both", f"run_of_{mine}")
            assert response.status_code == (200 if found else 404), told
            if "streams" in route and found:
                assert f"of {mine}" in response.text, told


def test_without_a_right_one_nothing_is_read(place: Place) -> None:
    wrong = (
        new_key(),
        "x",
        f"{SECRETS['production']}x",
        token("tr_prod_other", "admin"),
        token(SECRETS["staging"], exp=1),
    )
    for credential, route in itertools.product(wrong, (*ROUTES, "/" + "/".join(CLAIMS))):
        with place.as_(credential) as client:
            response = client.request("POST" if "auth" in route else "GET", route.format(run="run_both"))
        assert response.status_code == 401, (credential, route, response.text)
        assert list(response.json()) == ["error"]
    for route in ROUTES:
        with place.as_(None) as client:
            assert client.get(route.format(run="run_both")).status_code == 401


def test_a_guess_waits_and_a_good_key_does_not(place: Place) -> None:
    with place.as_(new_key()) as client:
        began = time.monotonic()
        assert client.get("/api/v1/runs").status_code == 401
        assert time.monotonic() - began >= LATE_S


# --- tokens


@pytest.mark.parametrize("scope", ["read:runs:run_both", "read:tags:tag of run_both", "*:runs:run_both"])
def test_a_token_reads_the_runs_that_it_names(place: Place, scope: str) -> None:
    with place.as_(token(SECRETS["production"], scope)) as client:
        for route in ROUTES:
            for run in RUNS:
                if route not in OF_MANY or run == "run_both":
                    response = client.get(route.format(run=run))
                    there = {"run_both": 200, "run_of_production": 403, "run_of_staging": 404}[run]
                    assert response.status_code == (403 if route in OF_MANY else there), (route, run, response.text)
                    if response.status_code == 403:
                        assert response.json() == {
                            **{"error": "Unauthorized", "code": "unauthorized"},
                            **{"param": "access_token", "type": "authorization"},
                        }


def test_one_for_a_tag_has_the_feed_of_that_tag_and_one_for_a_task_its_list(place: Place) -> None:
    with place.as_(token(SECRETS["production"], "read:tags:tag of run_both")) as client:
        feed = "/realtime/v1/runs?offset=-1&createdAt=1h&tags="
        found = client.get(f"{feed}tag of run_both").json()
        assert [row["value"]["friendlyId"] for row in found[:-1]] == ["run_both"]
        assert client.get(f"{feed}tag of production").status_code == 403
        assert (
            client.get(f"{feed}tag of production&tags=tag of run_both").status_code == 200
        )  # the last counts, for both
        assert client.get(f"{feed}tag of run_both&tags=tag of production").status_code == 403
    task = place.stores["production"]._runs["run_both"].task_identifier
    with place.as_(token(SECRETS["production"], f"read:tasks:{task}")) as client:
        assert client.get(f"/api/v1/runs?filter[taskIdentifier]={task}").status_code == 200
        for tasks in ("", "other", f"{task},other"):
            assert client.get(f"/api/v1/runs?filter[taskIdentifier]={tasks}").status_code == 403


def test_columns_that_a_token_leaves_out_are_left_out(serving: Serving, feed: FeedFormat) -> None:
    place = serving(feed)
    skipping = token(SECRETS["production"], "read:all", realtime={"skipColumns": ["metadata", "runTags", "friendlyId"]})
    for route in (ROUTES[2], ROUTES[3]):
        rows = []
        for credential in (SECRETS["production"], skipping):
            with place.as_(credential) as client:
                rows.append(client.get(route.format(run="run_both")).json()[0]["value"])
        whole, less = rows
        assert set(whole) - set(less) == {"metadata", "runTags"}


def test_the_claims_of_a_token_are_those_with_which_it_is_taken(place: Place) -> None:
    path = "/" + "/".join(CLAIMS)
    with place.as_(SECRETS["production"]) as client:
        claims: dict[str, Any] = client.post(path).json()
        assert claims == {"sub": "production", "pub": True}
        assert client.get(path).status_code == 405
    with place.as_(token(SECRETS["production"], "read:runs:run_both", **claims)) as client:
        assert client.get("/api/v3/runs/run_both").status_code == 200
        assert client.post(path).status_code == 401  # a token makes no tokens
    with place.as_(place.own("production")) as client:
        assert client.post(path).status_code == 403


# --- revoked keys


def test_a_revoked_key_is_refused_and_whoever_reads_with_it_is_cut_off(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_access, "KEPT_S", 0.01)
    made = new_key()
    place.keys.add("mine", "production", hashed(made))
    with place.as_(made) as client, place.as_(SECRETS["production"]) as other:
        headers = {"timeout-seconds": "600"}  # six seconds here
        with (
            client.stream("GET", "/realtime/v1/streams/run_both/ai", headers=headers) as reading,
            other.stream("GET", "/realtime/v1/streams/run_both/ai", headers=headers) as staying,
        ):
            lines, others = reading.iter_lines(), staying.iter_lines()
            for each in (lines, others):
                assert any("chunk of production" in line for line in iter(lambda each=each: next(each), None))
            assert place.keys.revoke("mine")
            with pytest.raises(httpx.RemoteProtocolError):
                for _ in lines:  # pings, until it is found out
                    pass
            place.stores["production"].append_chunks("run_both", "ai", ['"after it"'])
            assert any("after it" in line for line in iter(lambda: next(others), None))
        assert client.get("/api/v3/runs/run_both").status_code == 401


# --- pages of other sites


def test_a_page_may_read_where_its_origin_is_named(place: Place) -> None:
    with place.as_(SECRETS["production"]) as client:
        for origin, allowed in (("https://app.example.com", True), ("https://other.example.com", False)):
            asked = {"origin": origin, "access-control-request-method": "GET"}
            for method, route in itertools.product(("GET", "OPTIONS"), ROUTES):
                response = client.request(method, route.format(run="run_both"), headers=asked)
                assert (response.headers.get("access-control-allow-origin") == origin) is allowed, (method, route)
                assert ("access-control-allow-origin" in response.headers) is allowed


# --- the table


def test_keys_are_added_listed_and_revoked(keys: AccessKeys, archive: Archive) -> None:
    key = new_key()
    keys.add("web", "production", hashed(key))
    keys.add("eval", "staging", hashed(new_key()))
    (found,) = [each for each in keys.valid() if each.key_hash == hashed(key)]
    assert found.environment == "production"
    with pytest.raises(UnknownEnvironment):
        keys.add("none", "nowhere", hashed(new_key()))
    assert keys.revoke("web") is True
    assert keys.revoke("web") is False
    assert keys.revoke("nobody") is None
    with pytest.raises(KeyExists):
        keys.add("web", "production", hashed(new_key()))
    assert [(each.name, each.environment, each.revoked_at is None) for each in keys.all()] == [
        ("eval", "staging", True),
        ("web", "production", False),
    ]
    assert [each.environment for each in keys.valid()] == ["staging"]
    assert key not in str(archive.rows("SELECT k::text FROM tailrace.access_keys k"))


def test_its_use_is_noted_once_a_minute_and_nobody_minds_where_it_can_not_be(
    keys: AccessKeys, archive: Archive, database_url: str
) -> None:
    keys.add("web", "production", hashed(new_key()))
    (found,) = keys.valid()
    keys.note_use([found.id])
    used = keys.all()[0].last_used_at
    assert used is not None
    keys.note_use([found.id])
    assert keys.all()[0].last_used_at == used
    archive.run("UPDATE tailrace.access_keys SET last_used_at = now() - interval '2 minutes'")
    before = keys.all()[0].last_used_at
    options = {"options": "-c default_transaction_read_only=on"}
    as_on_a_standby = create_engine(make_url(database_url).update_query_dict(options).render_as_string(False))
    AccessKeys(as_on_a_standby).note_use([found.id])
    as_on_a_standby.dispose()
    assert keys.all()[0].last_used_at == before
    keys.note_use([found.id])
    assert keys.all()[0].last_used_at != before
