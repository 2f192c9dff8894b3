"""`operate/drill`: an incident for each alert; one is made on a fleet of its own, seen, mended, and nothing is left."""

from __future__ import annotations

import os
import re
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


def test_every_alert_has_one_drill_which_leads_to_its_runbook(script: ModuleType) -> None:
    led = {alert: drill.page or name for name, drill in script.DRILLS.items() for alert in drill.alerts}
    assert {alert: f"docs/runbooks/{page}.md" for alert, page in led.items()} == {
        alert["alert"]: alert["annotations"]["runbook"] for alert in alerts()
    }
    assert len(led) == sum(len(drill.alerts) for drill in script.DRILLS.values())
    assert all(drill.alerts for drill in script.DRILLS.values())


@pytest.mark.parametrize("page", PAGES)
def test_a_runbook_names_its_drills_and_no_others(script: ModuleType, page: str) -> None:
    its = {name for name, drill in script.DRILLS.items() if (drill.page or name) == page}
    assert page in its
    [line] = re.findall(r"^To practise: (.*)\.$", (RUNBOOKS / f"{page}.md").read_text(), re.MULTILINE)
    named = line.split(", ")
    assert named[0] == f"`operate/drill {page}`"
    assert sorted(named) == sorted(f"`operate/drill {name}`" for name in its)


def test_every_drill_shows_figures_and_commands_that_there_are(script: ModuleType) -> None:
    worked_out = sys.modules["drills.figures"].MADE_OF
    assert set(worked_out.values()) <= known_series()
    known = {series.removeprefix("tailrace_") for series in known_series()} | ANSWERING | set(worked_out)
    for drill in script.DRILLS.values():
        assert {figure.partition("_streams_")[0] for figure in drill.shown} <= known | {"archive_closed"}
        typed = [re.sub(r"^(TAILRACE_\w+=\S+ )+", "", line.format(exporter=9460)) for line in drill.todo]
        commands = [line for line in typed if line.startswith("tailrace ")]
        assert commands
        for command in commands:
            parse(tuple(shlex.split(command)))


def test_the_list_names_them_all(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["drill", "--list"])
    assert script.main() == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(script.DRILLS)


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
