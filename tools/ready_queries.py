"""Make the ready queries for Grafana, Metabase and dbt of those for psql. A test compares the files with this.

    python tools/ready_queries.py

`operate/queries/psql` is what to change: what a query asks stands there once, with psql's variables.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final, NamedTuple

HOME: Final = Path(__file__).parents[1] / "operate" / "queries"
SOURCE: Final = {"type": "grafana-postgresql-datasource", "uid": "${datasource}"}
ENVIRONMENT: Final = re.compile(r"AND \(:'environment' = '' OR (\S+) = :'environment'\)")
HOUR: Final = re.compile(r"date_trunc\('hour', (\S+)\) AS time\b")
PRICES: Final = ("input_price", "output_price")


class Panel(NamedTuple):
    """How Grafana shows a query: its title, the unit of its curves (None: a table), and the columns that are curves."""

    title: str
    unit: str | None
    curves: tuple[str, ...] = ()


PANELS: Final = {
    "tokens_per_second": Panel("Tokens per second", "short", ("tokens_per_second",)),
    "time_to_first_token": Panel("Time to first token", "s", ("median_s", "p95_s")),
    "stalls": Panel("Streams that stalled for more than 10 s", "short", ("stalled",)),
    "cost": Panel("Cost of the tokens that providers counted", "short", ("cost",)),
    "errors_by_task": Panel("Errors by task", None),
}


def queries() -> dict[str, str]:
    """Return the queries for psql by name."""
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted((HOME / "psql").glob("*.sql"))}


def for_grafana(query: str) -> str:
    """Time and grouping are those of the dashboard (macros of its PostgreSQL data source), the rest its variables."""
    query = ENVIRONMENT.sub(r"AND \1 IN (${environment:sqlstring})", _statement(query))
    query = HOUR.sub(r"$__timeGroupAlias(\1, $__interval)", query)
    query = query.replace(":'from'", "$__timeFrom()").replace(":'to'", "$__timeTo()")
    for price in PRICES:
        query = query.replace(f":{price}", f"${{{price}}}::numeric")
    return query


def for_metabase(query: str) -> str:
    """``from`` and ``to`` are date variables, the prices numbers; the environment is text, and may be left out."""
    query = ENVIRONMENT.sub(r"[[AND \1 = {{environment}}]]", query)
    query = query.replace(":'from'", "{{from}}").replace(":'to'", "{{to}}")
    for price in PRICES:
        query = query.replace(f":{price}", f"{{{{{price}}}}}")
    return query


def for_dbt(query: str) -> str:
    """A model over the views as sources; its variables may be left out: then it is everything, and costs nothing."""
    query = re.sub(r"\nORDER BY .*", "", _statement(query))
    chosen = """{% if var('tailrace_environment', '') %}AND \\1 = '{{ var("tailrace_environment") }}'{% endif %}"""
    query = ENVIRONMENT.sub(chosen, query)
    query = query.replace(":'from'", """'{{ var("tailrace_from", "2000-01-01") }}'""")
    query = query.replace(":'to'", """'{{ var("tailrace_to", "infinity") }}'""")
    for price in PRICES:
        query = query.replace(f":{price}", f"{{{{ var('tailrace_{price}', 0) }}}}")
    query = re.sub(r"\btailrace\.(\w+)(?= )", r"{{ source('tailrace', '\1') }}", query)
    return "{{ config(materialized='table') }}\n" + query + "\n"


def dashboard() -> dict[str, Any]:
    """Return the dashboard: a panel for each query."""
    panels = []
    for number, (name, panel) in enumerate(PANELS.items()):
        wide = panel.unit is None
        panels.append(
            {
                "id": number + 1,
                "type": "table" if wide else "timeseries",
                "title": panel.title,
                "description": _words(queries()[name]),
                "gridPos": {"x": 0 if wide else number % 2 * 12, "y": number // 2 * 9, "w": 24 if wide else 12, "h": 9},
                "datasource": SOURCE,
                "fieldConfig": {"defaults": {"unit": panel.unit or "short"}, "overrides": []},
                "options": {},
                "targets": [
                    {
                        "refId": "A",
                        "datasource": SOURCE,
                        "editorMode": "code",
                        "rawQuery": True,
                        "format": "table" if wide else "time_series",
                        "rawSql": _curves(for_grafana(queries()[name]), panel.curves),
                    }
                ],
            }
        )
    return {
        "uid": "tailrace-streams",
        "title": "Tailrace: what streams brought",
        "description": "Asked of the archive itself: needs a PostgreSQL data source whose role is a tailrace_reader.",
        "tags": ["tailrace"],
        "timezone": "browser",
        "schemaVersion": 39,
        "editable": True,
        "graphTooltip": 1,
        "refresh": "",
        "time": {"from": "now-24h", "to": "now"},
        "templating": {"list": [*_variables()]},
        "annotations": {"list": []},
        "panels": panels,
    }


def files() -> dict[Path, str]:
    """Return every file that is made, with its text."""
    made = {HOME / "grafana.json": json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"}
    models = HOME / "dbt" / "models" / "tailrace"
    views = set()
    for name, query in queries().items():
        made[HOME / "metabase" / f"{name}.sql"] = for_metabase(query)
        made[models / f"tailrace_{name}.sql"] = for_dbt(query)
        views |= set(re.findall(r"source\('tailrace', '(\w+)'\)", for_dbt(query)))
    made[models / "sources.yml"] = "\n".join(
        ["version: 2", "sources:", "  - name: tailrace", "    schema: tailrace", "    tables:"]
        + [f"      - name: {view}" for view in sorted(views)]
        + [""]
    )
    return made


def _statement(query: str) -> str:
    """Return a query without its comment and its semicolon."""
    return re.sub(r"^--.*\n", "", query, flags=re.MULTILINE).strip().removesuffix(";")


def _words(query: str) -> str:
    """Return what the comment of a query says."""
    return " ".join(line.removeprefix("-- ") for line in query.splitlines() if line.startswith("--"))


def _curves(query: str, curves: tuple[str, ...]) -> str:
    """Return a query with nothing but time, task and its curves: every other number would be one too."""
    return f"SELECT time, task AS metric, {', '.join(curves)} FROM (\n{query}\n) q ORDER BY 1, 2" if curves else query


def _variables() -> list[dict[str, Any]]:
    environment = "SELECT environment FROM tailrace.run_overview GROUP BY 1 ORDER BY 1"
    return [
        {
            "name": "datasource",
            "label": "PostgreSQL",
            "type": "datasource",
            "query": SOURCE["type"],
            "current": {},
            "refresh": 1,
        },
        {
            "name": "environment",
            "label": "Environment",
            "type": "query",
            "datasource": SOURCE,
            "query": environment,
            "definition": environment,
            "multi": True,
            "includeAll": True,
            "current": {"text": ["All"], "value": ["$__all"]},
            "refresh": 1,
        },
        *(
            {
                "name": price,
                "label": f"{price.partition('_')[0].capitalize()} price per million tokens",
                "type": "textbox",
                "query": "0",
                "current": {"text": "0", "value": "0"},
            }
            for price in PRICES
        ),
    ]


if __name__ == "__main__":
    for path, text in files().items():
        path.write_text(text, encoding="utf-8")
