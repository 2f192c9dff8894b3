"""`tailrace doctor` and upstream: what else can answer at its address, what a key can be, and whose runs are there."""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest

from tailrace.cli import doctor
from tailrace.cli.checks.finding import Finding, Severity, made
from tailrace.config.settings import load
from tailrace.serve.app import DEFAULT_KEY
from tests.integration.schema_rows import Archive
from tests.upstream import create_app, running
from tests.upstream.faults import Faults
from tests.upstream.live import LiveStore
from tests.upstream.server import RunningServer

NOT_FOUND = b'{"error":"Not found"}'
JSON = {"content-type": "application/json"}
HTML = {"content-type": "text/html; charset=utf-8"}
PAGE = b"<!DOCTYPE html><html><body>Sign in</body></html>"


def found(environ: Mapping[str, str]) -> dict[str, Finding]:
    """What doctor finds wrong with upstream, or what should be known, by code."""
    settings = load({"TRIGGER_SECRET_KEY": DEFAULT_KEY, "TAILRACE_CONNECT_TIMEOUT_SECONDS": "0.2", **environ})
    findings = [
        each
        for each in made("upstream", lambda: doctor._upstream(settings, os.environ.get("DATABASE_URL")))
        if each.severity is not Severity.OK
    ]
    for each in findings:
        assert settings.key() not in f"{each}"
    return {each.code: each for each in findings}


@pytest.fixture
def store() -> LiveStore:
    return LiveStore()


@pytest.fixture
def server(store: LiveStore) -> Iterator[RunningServer]:
    with running(create_app(store)) as server:
        yield server


@pytest.fixture
def archive(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Archive]:
    monkeypatch.setenv("DATABASE_URL", database_url)
    archive = Archive(database_url)
    with archive.connection:
        yield archive


class Canned(BaseHTTPRequestHandler):
    """Answers everything alike."""

    protocol_version = "HTTP/1.1"
    status: ClassVar[int] = 200
    headers_: ClassVar[Mapping[str, str]] = {}
    body: ClassVar[bytes] = b""
    ahead_s: ClassVar[float] = 0.0

    def do_GET(self) -> None:
        self.send_response(self.status)
        for name, value in {"content-length": str(len(self.body)), **self.headers_}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(self.body)

    def date_time_string(self, timestamp: float | None = None) -> str:
        return formatdate(time.time() + self.ahead_s, usegmt=True)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@contextmanager
def canned(status: int, headers: Mapping[str, str], body: bytes, ahead_s: float = 0.0) -> Iterator[str]:
    answer = type("Answer", (Canned,), {"status": status, "headers_": headers, "body": body, "ahead_s": ahead_s})
    with ThreadingHTTPServer(("127.0.0.1", 0), answer) as serving:
        thread = threading.Thread(target=serving.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{serving.server_port}"
        finally:
            serving.shutdown()
            thread.join()


def test_nothing_is_wrong_with_upstream_itself(server: RunningServer, archive: Archive) -> None:
    assert found({"TRIGGER_API_URL": server.url}) == {}


# --- the address


@pytest.mark.parametrize(
    ("status", "headers", "body", "path", "code", "says"),
    [
        (200, HTML, PAGE, "", "upstream-html", "answers 200 with a web page"),
        (404, HTML, PAGE, "", "upstream-html", "answers 404 with a web page"),
        (403, HTML, PAGE, "", "upstream-html", "answers 403 with a web page"),
        (404, {}, PAGE, "", "upstream-html", "answers 404 with a web page"),
        (404, HTML, PAGE, "/orgs/me", "upstream-path", "/orgs/me has a path"),
        (404, {"content-type": "text/plain"}, b"no such page", "/api/v1", "upstream-path", "/api/v1 has a path"),
        (
            302,
            {"location": "https://user:secret@login.example.com:8443/x?token=secret"},
            b"",
            "",
            "upstream-redirects",
            "answers 302 and sends everybody to https://login.example.com:8443",
        ),
        (
            301,
            {"location": "/login?token=secret"},
            b"",
            "",
            "upstream-redirects",
            "to another path of http://127.0.0.1",
        ),
        (404, JSON, b'{"detail":"Not Found"}', "", "upstream-other", 'list of runs: upstream answered 404: {"detail"'),
        (404, JSON, b'{"detail":"Not Found"}', "/api/v1", "upstream-path", "/api/v1 has a path"),
        (404, {"content-type": "text/plain"}, b"default backend", "", "upstream-other", "answers 404: default backend"),
        (200, JSON, b'{"ok":true}', "", "upstream-other", 'answers 200: {"ok":true}'),
        (503, {"content-type": "text/plain"}, b"no upstream", "", "upstream-troubled", "answers 503: no upstream"),
        (401, JSON, b'{"error":"Invalid"}', "", "key-refused", 'upstream answered 401: {"error":"Invalid"}'),
        (403, JSON, b'{"error":"Forbidden"}', "", "key-refused", "upstream answered 403"),
    ],
)
def test_what_answers_is_told_from_upstream(
    status: int, headers: Mapping[str, str], body: bytes, path: str, code: str, says: str
) -> None:
    with canned(status, headers, body) as url:
        all_found = found({"TRIGGER_API_URL": url + path})
    assert list(all_found) == [code]
    assert says in all_found[code].says
    assert "secret" not in all_found[code].says


def test_what_echoes_the_key_shows_no_part_of_it() -> None:
    with canned(404, {"content-type": "text/plain"}, f"you sent Bearer {DEFAULT_KEY}".encode()) as url:
        assert list(found({"TRIGGER_API_URL": url})) == ["upstream-other"]


def test_nobody_answers() -> None:
    all_found = found({"TRIGGER_API_URL": "http://127.0.0.1:1"})
    assert list(all_found) == ["upstream-away"]
    assert all_found["upstream-away"].exit_code == 5


def test_a_key_that_would_go_over_a_network_in_the_clear_is_told_beside_the_rest() -> None:
    assert list(found({"TRIGGER_API_URL": "http://trigger.invalid"})) == ["upstream-plain", "upstream-away"]


@pytest.mark.parametrize(("ahead_s", "says"), [(600, "behind"), (-600, "before"), (3, None), (-3, None)])
def test_a_clock_that_differs_from_upstreams(ahead_s: float, says: str | None) -> None:
    with canned(404, JSON, NOT_FOUND, ahead_s) as url:
        all_found = found({"TRIGGER_API_URL": url})
    all_found.pop("upstream-other")  # what answers everything alike is no upstream
    assert list(all_found) == ([] if says is None else ["clock-upstream"])
    if says is not None:  # the header leaves out parts of a second
        assert re.fullmatch(
            rf"this machine's clock is (5\d\d|60\d) s {says} upstream's", all_found["clock-upstream"].says
        )


# --- the key


def test_a_key_that_is_refused(server: RunningServer) -> None:
    all_found = found({"TRIGGER_API_URL": server.url, "TRIGGER_SECRET_KEY": "tr_dev_wrongwrongwrong"})
    assert list(all_found) == ["key-refused"]
    assert all_found["key-refused"].exit_code == 4
    assert "wrongwrong" not in f"{all_found}"


def test_a_list_that_can_not_be_read(server: RunningServer) -> None:
    server.faults.run_list().answer(503)
    assert list(found({"TRIGGER_API_URL": server.url})) == ["list-failed"]


@pytest.mark.parametrize(("discover", "code"), [("", "key-may-not-list"), ("all", "key-may-not-discover")])
def test_a_key_that_may_not_list(server: RunningServer, discover: str, code: str) -> None:
    faults: Faults = server.faults
    faults.run_list().answer(403)
    assert list(found({"TRIGGER_API_URL": server.url, "TAILRACE_DISCOVER": discover})) == [code]


def test_a_key_of_another_kind_than_the_environments_name_says(server: RunningServer) -> None:
    named = {"TRIGGER_API_URL": server.url, "TAILRACE_ENVIRONMENT": "eu-prod"}
    assert list(found(named)) == ["key-kind"]
    assert found(named)["key-kind"].says == "environment eu-prod has a key of kind dev"
    assert found({**named, "TAILRACE_ENVIRONMENT": "dev of prod"}) == {}


# --- whose runs


def test_the_key_of_another_environment(server: RunningServer, store: LiveStore, archive: Archive) -> None:
    """It is taken, and shows none of the runs that are there."""
    for n in range(3):
        archive.stream(f"run_{n}")
    archive.run("UPDATE tailrace.environments SET api_url = %s", server.url)
    assert found({"TRIGGER_API_URL": server.url}) == {}, "upstream has not shown them to anybody yet"
    archive.run("UPDATE tailrace.runs SET status = 'EXECUTING'")
    all_found = found({"TRIGGER_API_URL": server.url})
    assert list(all_found) == ["key-of-another"]
    assert "run_2 for one" in all_found["key-of-another"].says
    for n in range(3):
        store.create_run(f"run_{n}")
    assert found({"TRIGGER_API_URL": server.url}) == {}


def test_two_deployments_with_different_keys_on_one_archive(
    server: RunningServer, store: LiveStore, archive: Archive
) -> None:
    """Each has had some of its runs shown; and the workers of the other gave up some of ours."""
    archive.run("UPDATE tailrace.environments SET api_url = %s", server.url)
    for n in range(4):
        archive.stream(f"run_{n}")
    for ours in ("run_0", "run_2"):
        store.create_run(ours)
    archive.run("UPDATE tailrace.runs SET status = 'EXECUTING' WHERE run_id IN ('run_0', 'run_1')")
    all_found = found({"TRIGGER_API_URL": server.url})
    assert list(all_found) == ["two-deployments"]
    assert "run_0 is known to this key, run_1 is not" in all_found["two-deployments"].says
    archive.run("UPDATE tailrace.runs SET status = NULL")
    archive.run("UPDATE tailrace.runs SET state = 'failed' WHERE run_id IN ('run_2', 'run_3')")
    all_found = found({"TRIGGER_API_URL": server.url})
    assert list(all_found) == ["run-given-up"]
    assert "workers gave up run_2" in all_found["run-given-up"].says


def test_an_environment_that_the_archive_knows_elsewhere(server: RunningServer, archive: Archive) -> None:
    archive.stream("run_0")
    all_found = found({"TRIGGER_API_URL": server.url})
    assert list(all_found) == ["environment-moved"]
    assert f"at https://api.trigger.dev, and here it is at {server.url}" in all_found["environment-moved"].says
