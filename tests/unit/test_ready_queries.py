"""The files of operate/queries are those that tools/ready_queries.py makes, and the page names each."""

from __future__ import annotations

from pathlib import Path

from tools import ready_queries

PAGE = Path(__file__).parents[2].joinpath("docs", "sql.md").read_text(encoding="utf-8")


def test_the_ready_queries_are_what_their_script_makes() -> None:
    made = ready_queries.files()
    there = {path for path in ready_queries.HOME.rglob("*") if path.is_file() and path.parent.name != "psql"}
    assert there == set(made)
    for path, text in made.items():
        assert path.read_text(encoding="utf-8") == text, "run python tools/ready_queries.py"


def test_every_query_has_a_panel_and_a_row_of_the_page() -> None:
    assert set(ready_queries.queries()) == set(ready_queries.PANELS)
    for name in ready_queries.queries():
        assert f"| `{name}` |" in PAGE
