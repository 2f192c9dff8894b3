"""`operate/drill`: an incident is made on a fleet of its own, seen, mended, and nothing is left."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path
from types import ModuleType

import pytest

from tests.acceptance.cli_runner import kept
from tests.operated import RUNBOOKS, alerts
from tests.unit.test_deploy_files import parse

SCRIPT = Path(__file__).parents[2] / "operate" / "drill"
NAMES = ["no-worker", "database-away", "key-refused", "stuck-stream", "slots-full", "upstream-away"]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    loader = SourceFileLoader("drill", str(SCRIPT))
    spec = spec_from_loader("drill", loader)
    assert spec is not None
    module = sys.modules["drill"] = module_from_spec(spec)
    loader.exec_module(module)
    return module


def test_every_drill_leads_to_an_alert_and_its_runbook(script: ModuleType) -> None:
    assert list(script.DRILLS) == NAMES
    runbooks = {alert["alert"]: alert["annotations"]["runbook"] for alert in alerts()}
    for name, drill in script.DRILLS.items():
        assert f"`operate/drill {name}`" in (RUNBOOKS / f"{drill.runbook}.md").read_text()
        assert runbooks[drill.alert] == f"docs/runbooks/{drill.runbook}.md"
        commands = [part.strip().split(".")[0] for part in drill.todo.split(";")]
        commands = [each for each in commands if each.startswith("tailrace ")]
        assert commands
        for command in commands:
            parse(tuple(shlex.split(command)))


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
