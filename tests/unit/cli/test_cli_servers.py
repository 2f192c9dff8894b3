"""Where a command's servers are: the embedded ones of its folder count only where no variable does."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailrace.cli import servers
from tailrace.devtools.servers.home import Endpoints
from tailrace.errors import BadSettings


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Path]:
    """Which homes were looked at. Servers run in the one called ``running``."""
    found: list[Path] = []

    def find(home: Path) -> Endpoints | None:
        found.append(home)
        return Endpoints("postgresql://home", "redis://home") if home.name == "running" else None

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(servers, "find", find)
    for name in ("TAILRACE_DATABASE_URL", "TAILRACE_REDIS_URL"):
        monkeypatch.setenv(name, "")  # so that what is set meanwhile is taken back
    return found


def test_without_any_they_are_missing(asked: list[Path], tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="No database"):
        servers.database()
    assert asked == [tmp_path / ".tailrace"]


def test_those_that_run_are_used_by_this_process_and_what_it_becomes(
    asked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_HOME", "running")
    assert servers.database() == "postgresql://home"
    assert servers.broker() == "redis://home"
    assert os.environ["TAILRACE_DATABASE_URL"] == "postgresql://home"
    assert os.environ["TAILRACE_REDIS_URL"] == "redis://home"


def test_a_variable_counts_before_them(asked: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_HOME", "running")
    monkeypatch.setenv("DATABASE_URL", "postgresql://named")
    assert servers.database() == "postgresql://named"
    assert asked == []
