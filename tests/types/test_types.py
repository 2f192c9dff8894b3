"""What type checkers infer of the Streams API: each line of uses.py that ends with ``# wrong`` is refused, no other is.

mypy is a dependency of development; pyright, which editors use, is asked where Node is and npm can install it, once,
from package-lock.json, into pytest's cache.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.npm import installed

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
USES = HERE / "uses.py"
LINES = USES.read_text().splitlines()
WRONG = [number for number, line in enumerate(LINES, 1) if line.endswith("  # wrong")]
INSTALL_S = 100


@pytest.fixture(scope="session")
def pyright(pytestconfig: pytest.Config) -> Path:
    """Its program, to be run by Node."""
    with installed(pytestconfig, HERE, "pyright", INSTALL_S) as folder:
        return folder / "node_modules" / "pyright" / "index.js"


def test_mypy_infers_what_is_said_and_refuses_what_is_wrong() -> None:
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--hide-error-context", str(USES)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert refused(re.findall(r"^[^:\n]*uses\.py:(\d+): error: (.*)$", done.stdout, re.MULTILINE)) == WRONG


def test_pyright_infers_what_is_said_and_refuses_what_is_wrong(pyright: Path) -> None:
    """Its settings are the default ones of an editor."""
    command = ["node", str(pyright), "--outputjson", "--pythonpath", sys.executable, "--project", str(HERE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(done.stdout)
    assert found["summary"]["filesAnalyzed"] == 1
    errors = [each for each in found["generalDiagnostics"] if each["severity"] == "error"]
    assert refused([(each["range"]["start"]["line"] + 1, each["message"]) for each in errors]) == WRONG


def refused(errors: list[tuple[str | int, str]]) -> list[int]:
    """The lines with errors; those that ought to have none are printed, with what is said of them."""
    for number, message in errors:
        if int(number) not in WRONG:
            print(f"{LINES[int(number) - 1].strip()}: {message}")
    return sorted({int(number) for number, _ in errors})
