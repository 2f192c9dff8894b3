"""A canary: whatever a reader shows, good or wrong, none of it is in a log, an answer, a row or an error."""

from __future__ import annotations

import io
import itertools
import logging
from collections.abc import Iterator

import psycopg
import pytest
import sqlalchemy as sa
import structlog

from tailrace import telemetry
from tailrace.config.own_keys import hashed, new_key
from tailrace.config.settings import Settings
from tailrace.errors import StoreUnavailable
from tailrace.serve import archive_access
from tailrace.serve.app import create_app_of, make_upstream
from tailrace.serve.claims import PATH as CLAIMS
from tailrace.serve.connections import Connections
from tailrace.serve.late_answers import LateAnswers
from tailrace.serve.runs import Run
from tailrace.serve.timing import Timing
from tailrace.store.access_keys import AccessKeys
from tests.integration.test_access import MODERN, ROUTES
from tests.tokens import token
from tests.upstream import LiveStore, running
from tests.wirecases import plain_client

SECRET = "CANARYcanary12345"  # nothing that a pattern would know
PIECE = 9
WORST = Settings(secret_key=SECRET, environment="default")  # type: ignore[arg-type]


class Failing(LiveStore):
    """A store that fails as one can: in our words and in nobody's."""

    async def run(self, run_id: str) -> Run | None:
        if run_id == "run_away":
            raise StoreUnavailable
        if run_id == "run_odd":
            raise RuntimeError("nobody had foreseen this")
        return await super().run(run_id)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """All that this process logs, libraries included."""
    before, written = structlog.get_config(), io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("tailrace")
    kept = (root.handlers[:], root.level, ours.level)
    telemetry.configure("json", "debug", stream=written)
    root.setLevel(logging.DEBUG)
    yield written
    structlog.configure(**before)
    logging.captureWarnings(False)
    root.handlers[:], root.level, ours.level = kept


def dump(url: str) -> str:
    with psycopg.connect(url) as connection:
        return "\n".join(
            row[0] for (row,) in zip(connection.execute("SELECT k::text FROM tailrace.access_keys k"), strict=False)
        )


@pytest.mark.filterwarnings("ignore")
def test_no_credential_of_a_reader_is_anywhere(database_url: str, engine: sa.Engine, log: io.StringIO) -> None:
    own = new_key()
    keys = AccessKeys(engine)
    keys.add("mine", "default", hashed(own))
    revoked = new_key()
    keys.add("revoked", "default", hashed(revoked))
    keys.revoke("revoked")
    store, connections = Failing(), Connections()
    store.create_run("run_1")
    app = create_app_of(
        archive_access.archive_access(WORST, engine),
        lambda _: make_upstream(store, connections, timing=Timing(second_s=0.01)),
        connections,
        late_answers=LateAnswers(late_s=0.01, clock=itertools.count(0, 100).__next__),  # each tells
    )
    shown = [
        *(own, revoked, new_key(), SECRET, f"{SECRET}x", f"x{SECRET}", SECRET.lower()),
        *(token(SECRET, "read:all"), token(SECRET, exp=1), token(f"{SECRET}x", "read:all"), token(SECRET, aud="x")),
        *(token(SECRET, sub=None), f"{token(SECRET)}.x", "k" * 9_000),
    ]
    told = []
    with running(app) as server:
        for credential in shown:
            with plain_client(server.url, credential) as client:
                client.headers.update(MODERN)
                for route, run in itertools.product(ROUTES, ("run_1", "run_away", "run_odd")):
                    response = client.get(route.format(run=run))
                    told.append(f"{response.status_code} {response.headers} {response.text}")
                response = client.post("/" + "/".join(CLAIMS))
                told.append(f"{response.status_code} {response.headers} {response.text}")
    everything = "\n".join(told) + log.getvalue() + dump(database_url)
    assert "access_refused" in log.getvalue()
    assert "answering_failed" in log.getvalue()
    assert {each[:3] for each in told} >= {"200", "401", "403", "500"}
    for credential in shown:
        for part in credential.split(".")[1:] or [credential]:
            if len(part) > PIECE:
                assert part[-PIECE:].lower() not in everything.lower(), part
    assert SECRET[:PIECE].lower() not in everything.lower()
