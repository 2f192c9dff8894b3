"""What KEDA asks of the database, operate/kubernetes/keda: one whole number, whatever the archive holds."""

from __future__ import annotations

import psycopg
import pytest

from tests.deployfiles import named


@pytest.fixture
def queries() -> dict[str, str]:
    triggers = named("ScaledObject")["tailrace-worker"]["spec"]["triggers"]
    return {trigger["name"]: trigger["metadata"]["query"] for trigger in triggers}


@pytest.mark.unbalanced
def test_streams_that_want_a_reader_are_counted_and_so_is_what_they_are_behind(
    database_url: str, queries: dict[str, str]
) -> None:
    with psycopg.connect(database_url, autocommit=True) as connection:

        def answers() -> dict[str, object]:
            found = {}
            for name, query in queries.items():
                [[found[name]]] = connection.execute(query).fetchall()  # type: ignore[call-overload]
            return found

        assert answers() == {"streams": 0, "lag": 0}
        connection.execute(
            "INSERT INTO tailrace.runs (environment_id, run_id) SELECT id, 'run_1' FROM tailrace.environments"
        )
        connection.execute(
            """
            INSERT INTO tailrace.streams (run, stream_key, state, lag, worker_id, next_attempt_at)
            SELECT r.id, v.* FROM tailrace.runs r, (VALUES
                ('due', 'pending', NULL::bigint, NULL::uuid, now()),
                ('read', 'active', 40, gen_random_uuid(), now()),
                ('due again', 'parked', 2, NULL, now() - interval '1 s'),
                ('waits', 'parked', 100, NULL, now() + interval '1 h'),
                ('failed', 'failed', 7, NULL, now())
            ) v
            """
        )
        assert answers() == {"streams": 3, "lag": 142}
