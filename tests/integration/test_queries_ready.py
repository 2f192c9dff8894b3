"""The ready queries of operate/queries: each form of each is run as its tool would run it, and answers the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import jinja2
import pytest

from tests.integration.schema_rows import EPOCH_MS, Archive
from tools import ready_queries

HOUR_MS = EPOCH_MS - EPOCH_MS % 3_600_000
HOUR = datetime.fromtimestamp(HOUR_MS / 1000, UTC)
FROM, TO = HOUR - timedelta(hours=1), HOUR + timedelta(hours=1)
VALUES = {"from": FROM.isoformat(), "to": TO.isoformat(), "input_price": "3", "output_price": "15"}


def write(archive: Archive, run_id: str, environment: str, status: str, at_s: float, chunks: dict[float, str]) -> None:
    """A sealed run whose stream has these chunks, at so many seconds after its start."""
    stream = archive.stream(run_id, environment=environment)
    start_ms = HOUR_MS + int(1000 * at_s)
    archive.segment(stream, list(chunks.values()), emitted_ms=[start_ms + int(1000 * each) for each in chunks])
    archive.settle(stream, len(chunks) - 1, list(chunks.values()))
    archive.run("UPDATE tailrace.streams SET verdict = 'complete' WHERE id = %s", stream)
    for state in ("active", "sealed"):
        archive.run("UPDATE tailrace.streams SET state = %s WHERE id = %s", state, stream)
    archive.run(
        """UPDATE tailrace.runs SET state = 'sealed', task_identifier = 'chat', status = %s,
           created_at = to_timestamp(%s), started_at = to_timestamp(%s) WHERE run_id = %s""",
        *(status, start_ms / 1000, start_ms / 1000, run_id),
    )


def text(words: str) -> str:
    return json.dumps({"type": "text-delta", "id": "0", "delta": words})


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    """Of one hour: an answer that stalled, and one that failed in another environment; and one of another day."""
    archive = Archive(database_url)
    archive.run("INSERT INTO tailrace.environments (name, api_url) VALUES ('prod', ''), ('dev', '')")
    usage = '{"type":"finish","totalUsage":{"inputTokens":1000,"outputTokens":2000}}'
    write(archive, "run_1", "prod", "COMPLETED", 60, {2.0: text("a"), 3.0: text("b"), 20.0: text("c"), 20.5: usage})
    failed = {
        1.0: '{"type":"message_start","message":{"usage":{"input_tokens":500,"output_tokens":1}}}',
        2.0: text("d"),
        3.0: '{"type":"message_delta","usage":{"output_tokens":100}}',
        4.0: '{"type":"response.completed","response":{"usage":{"input_tokens":10,"output_tokens":20}}}',
        5.0: '{"choices":[],"usage":{"prompt_tokens":7,"completion_tokens":8}}',
        6.0: '{"type":"finish","totalUsage":{"inputTokens":"many"}}',
        7.0: '{"type":"error","errorText":"no"}',
    }
    write(archive, "run_2", "dev", "FAILED", 120, failed)
    write(archive, "run_3", "prod", "CRASHED", 2 * 86_400, {1.0: text("later")})
    with archive.connection:
        yield archive


EXPECTED: dict[str, dict[str, list[tuple[Any, ...]]]] = {
    "tokens_per_second": {
        "prod": [(HOUR, "chat", pytest.approx(3 / 18.5), 3)],
        "": [(HOUR, "chat", pytest.approx(4 / 24.5), 4)],
    },
    "time_to_first_token": {"prod": [(HOUR, "chat", 2.0, 2.0, 1)], "": [(HOUR, "chat", 2.0, 2.0, 2)]},
    "stalls": {"prod": [(HOUR, "chat", 1, 1, 17.0)], "": [(HOUR, "chat", 1, 2, 17.0)]},
    "errors_by_task": {"prod": [("chat", 1, 0, 0, 0)], "": [("chat", 2, 1, 1, 0)]},
    "cost": {
        "prod": [(HOUR, "chat", 1000, 2000, Decimal("0.033"))],
        "": [(HOUR, "chat", 1517, 2128, Decimal("0.036471"))],
    },
}


def literal(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def as_psql(name: str, environment: str) -> str:
    """``:'name'`` is a quoted value, ``:name`` the value as it is."""
    values = VALUES | {"environment": environment}
    return re.sub(
        r"(?<!:):(?:'(\w+)'|(\w+))",
        lambda found: literal(values[found[1]]) if found[1] else values[found[2]],
        ready_queries.queries()[name],
    )


def as_metabase(name: str, environment: str) -> str:
    """Clauses in double brackets are left out when their variable has no value."""
    values = {key: value if "price" in key else literal(value) for key, value in VALUES.items()}
    if environment:
        values["environment"] = literal(environment)
    query = (ready_queries.HOME / "metabase" / f"{name}.sql").read_text()
    query = re.sub(r"\[\[(.*?\{\{(\w+)\}\}.*?)\]\]", lambda each: each[1] if each[2] in values else "", query)
    return re.sub(r"\{\{(\w+)\}\}", lambda found: values[found[1]], query)


def as_dbt(name: str, environment: str) -> str:
    values = {f"tailrace_{key}": value for key, value in VALUES.items()} | {"tailrace_environment": environment}
    model = (ready_queries.HOME / "dbt" / "models" / "tailrace" / f"tailrace_{name}.sql").read_text()
    return (
        jinja2.Environment(undefined=jinja2.StrictUndefined)
        .from_string(model)
        .render(
            config=lambda **_: "", source='"{}"."{}"'.format, var=lambda key, default=None: values.get(key, default)
        )
    )


@pytest.mark.parametrize("form", [as_psql, as_metabase, as_dbt])
def test_every_ready_query_answers(archive: Archive, form: Callable[[str, str], str]) -> None:
    for name, expected in EXPECTED.items():
        for environment in ("prod", "", "nowhere"):
            found = archive.connection.execute(form(name, environment)).fetchall()  # type: ignore[arg-type]
            assert found == expected.get(environment, []), name


def in_grafana(query: str, environments: list[str]) -> str:
    """What Grafana makes of a query: the macros of its PostgreSQL data source, and the dashboard's variables."""
    query = re.sub(
        r"\$__timeGroupAlias\((\S+), \$__interval\)", r'floor(extract(epoch from \1)/3600)*3600 AS "time"', query
    )
    query = query.replace("$__timeFrom()", f"'{FROM:%Y-%m-%dT%H:%M:%SZ}'").replace(
        "$__timeTo()", f"'{TO:%Y-%m-%dT%H:%M:%SZ}'"
    )
    query = query.replace("${environment:sqlstring}", ",".join(map(literal, environments)))
    query = re.sub(r"\$\{(\w+)\}", lambda found: VALUES[found[1]], query)
    assert "$_" not in query
    return query


def test_every_panel_of_grafana_answers(archive: Archive) -> None:
    made = json.loads((ready_queries.HOME / "grafana.json").read_text())
    [choose] = [each["query"] for each in made["templating"]["list"] if each["name"] == "environment"]
    environments = [name for (name,) in archive.connection.execute(choose).fetchall()]
    assert environments == ["dev", "prod"]
    answers = {}
    for panel in made["panels"]:
        [target] = panel["targets"]
        query = in_grafana(target["rawSql"], environments)
        answers[panel["title"]] = archive.connection.execute(query).fetchall()  # type: ignore[arg-type]
        assert archive.connection.execute(in_grafana(target["rawSql"], ["nowhere"])).fetchall() == []  # type: ignore[arg-type]
    seconds = HOUR_MS / 1000
    assert answers == {
        "Tokens per second": [(seconds, "chat", pytest.approx(4 / 24.5))],
        "Time to first token": [(seconds, "chat", 2.0, 2.0)],
        "Streams that stalled for more than 10 s": [(seconds, "chat", 1)],
        "Cost of the tokens that providers counted": [(seconds, "chat", Decimal("0.036471"))],
        "Errors by task": [("chat", 2, 1, 1, 0)],
    }
