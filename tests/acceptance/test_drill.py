"""`operate/drill`: an incident for each runbook; one is made on a fleet of its own, seen, mended, and nothing is left."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from tests.acceptance.cli_runner import kept
from tests.operated import RUNBOOKS, alerts, known_series
from tests.unit.test_deploy_files import parse

SCRIPT = Path(__file__).parents[2] / "operate" / "drill"
PAGES = sorted(page.stem for page in RUNBOOKS.glob("*.md"))
ANSWERING = {"up_exporter", "up_workers"}


@pytest.fixture(scope="module")
def script() -> Iterator[ModuleType]:
    loader = SourceFileLoader("drill", str(SCRIPT))
    spec = spec_from_loader("drill", loader)
    assert spec is not None
    module = sys.modules["drill"] = module_from_spec(spec)
    sys.path.insert(0, str(SCRIPT.parent))  # as for the script itself
    try:
        loader.exec_module(module)
        yield module
    finally:
        sys.path.remove(str(SCRIPT.parent))


def test_every_runbook_has_its_drill_which_leads_to_its_alert(script: ModuleType) -> None:
    assert list(script.DRILLS) == PAGES
    runbooks = {alert["alert"]: alert["annotations"]["runbook"] for alert in alerts()}
    for name, drill in script.DRILLS.items():
        assert f"To practise: `operate/drill {name}`.\n" in (RUNBOOKS / f"{name}.md").read_text()
        assert runbooks[drill.alert] == f"docs/runbooks/{name}.md"


def test_every_drill_shows_figures_and_commands_that_there_are(script: ModuleType) -> None:
    known = {series.removeprefix("tailrace_") for series in known_series()} | ANSWERING
    for drill in script.DRILLS.values():
        assert {figure.partition("_streams_")[0] for figure in drill.shown} <= known | {"archive_closed"}
        commands = [line.format(exporter=9460) for line in drill.todo if line.startswith("tailrace ")]
        assert commands
        for command in commands:
            parse(tuple(shlex.split(command)))


def test_the_list_names_them_all(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["drill", "--list"])
    assert script.main() == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == PAGES


def test_a_worker_is_killed_missed_and_replaced(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "no-worker", "--show"],
        env={**kept(), "TMPDIR": str(tmp_path), "TAILRACE_SLOTS": "wrong: not for the drill"},
        capture_output=True,
        text=True,
        timeout=110,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = [line.split("s  ", 1)[1] for line in done.stdout.splitlines() if "s  " in line[:11]]
    events = [line for line in told if "  " not in line]
    assert events == [
        "all is read as it should be",
        "it is seen; Prometheus would tell of it as TailraceNoWorker",
        "it is over",
    ]
    assert os.listdir(tmp_path) == []  # noqa: PTH208  its folder, with its servers' files
