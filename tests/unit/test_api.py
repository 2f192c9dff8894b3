"""docs/api.md names what is public, no more and no less."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

from tailrace.store.views import ReadModel
from tailrace.tasks import app

ROOT = Path(__file__).parents[2]

MODULES = [
    "tailrace.tasks",
    "tailrace.celery",
    "tailrace.requests",
    "tailrace.streams",
    "tailrace.streams.aio",
    "tailrace.runs",
    "tailrace.runs.aio",
    "tailrace.frames",
    "tailrace.store.views",
]


def sections() -> dict[str, str]:
    text = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    return {
        heading.strip("`"): body for heading, body in re.findall(r"^## (.+)\n((?:(?!## ).*\n)*)", text, re.MULTILINE)
    }


def named(section: str) -> list[str]:
    """What a section names: the first cells of its table, or, where it has none, everything in backticks."""
    first_cells = re.findall(r"^\| `([\w.]+)` \|", section, re.MULTILINE)
    return first_cells or re.findall(r"`(\w+)`", section)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_the_names_that_the_page_gives_it(module: str) -> None:
    assert sorted(named(sections()[module])) == sorted(importlib.import_module(module).__all__)


def test_every_module_with_a_section_is_compared() -> None:
    assert [heading for heading in sections() if heading.startswith("tailrace")] == MODULES


def test_the_tasks_that_the_page_names_are_tasks() -> None:
    tasks = named(sections()["Celery, by name"])
    assert len(tasks) > 4
    assert set(tasks) | {"tailrace.ingest_stream"} == {name for name in app.tasks if name.startswith("tailrace.")}


def test_the_objects_in_sql_are_those_of_models_and_migrations() -> None:
    objects = named(sections()["SQL"])
    views = {f"tailrace.{mapper.local_table.name}" for mapper in ReadModel.registry.mappers}  # type: ignore[attr-defined]
    sources = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROOT / "migrations").rglob("*.sql")))
    functions = set(re.findall(r"FUNCTION (tailrace\.\w+)", sources))
    assert views <= set(objects)
    assert set(objects) - views <= functions
