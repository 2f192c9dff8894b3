"""What may read the stand-in upstream: its key, and the public access tokens that upstream's client makes with it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tailrace.serve.app import DEFAULT_KEY
from tests.tokens import token
from tests.upstream import LiveStore, RunningServer, create_app, running
from tests.wirecases import plain_client

CLAIMS = "/api/v1/auth/jwt/claims"
RUN = "/api/v3/runs/run_1"


@pytest.fixture
def server() -> Iterator[RunningServer]:
    store = LiveStore()
    store.create_run("run_1", tags=["a"])
    store.create_run("run_2", tags=["b"])
    with running(create_app(store)) as server:
        yield server


def test_a_token_of_the_claims_that_the_key_gets_reads_what_it_names(server: RunningServer) -> None:
    with plain_client(server.url) as client:
        claims = client.post(CLAIMS).json()
        assert claims["pub"] is True
    with plain_client(server.url, token(DEFAULT_KEY, "read:tags:a", **claims)) as client:
        assert client.get(RUN).status_code == 200
        assert client.get("/api/v3/runs/run_2").status_code == 403
        assert client.post(CLAIMS).status_code == 401


def test_others_get_401_at_once(server: RunningServer) -> None:
    for wrong in (token("tr_dev_other", "read:all"), token(DEFAULT_KEY, "read:all", exp=1), "tlr_x"):
        with plain_client(server.url, wrong) as client:
            assert client.get(RUN).status_code == 401
            assert client.post(CLAIMS).status_code == 401


def test_a_page_in_a_browser_is_told_that_it_may_ask(server: RunningServer) -> None:
    asked = {
        **{"origin": "http://localhost:3000", "access-control-request-method": "GET"},
        **{"access-control-request-headers": "authorization,x-trigger-source"},
    }
    with plain_client(server.url, None) as client:
        for path in (RUN, "/realtime/v1/runs", "/realtime/v1/streams/run_1/ai"):
            headers = client.options(path, headers=asked).headers
            assert headers["access-control-allow-origin"] == "*"
            assert headers["access-control-allow-headers"] == asked["access-control-request-headers"]
        assert client.options(RUN).status_code == 405  # no browser asks so
