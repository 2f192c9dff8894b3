"""The Makefile and the CI entry, on machines that lack this or that.

Each test has a PATH of its own, with stand-ins for the interpreters. A stand-in runs the Makefile's own questions in
the real Python, with other facts.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = {
    *("make", "sh", "bash", "cat", "chmod", "cksum", "cut", "dirname", "echo", "env"),
    *("grep", "mkdir", "mktemp", "rm", "tail", "tee", "touch"),
}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")

# argv: version, missing modules, code
FACTS = """
import importlib.util, sys
version, missing, code = sys.argv[1:4]
sys.version_info = (*map(int, version.split(".")), 0)
real = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name in missing.split() else real(name)
exec(code)
"""

# What `python -m venv` makes: an interpreter that writes down what pip is asked for.
VENV = """
mkdir -p "$3/bin"
echo "command = python -m venv $(pwd)/$3" > "$3/pyvenv.cfg"
cat > "$3/bin/python" <<'END'
#!/bin/sh
case "$1 $2 $3" in
    "-c "*) echo 1 ;;
    "-m pip --version") ;;
    "-m pip install") echo "$@" >> pip.log ;;
    "-m pytest "*) echo "2 passed in 0.01s" ;;
esac
END
cat > "$3/bin/tailrace" <<'END'
#!/bin/sh
echo "tailrace $@"
END
chmod +x "$3/bin/python" "$3/bin/tailrace"
"""


class Machine:
    """A checkout and the programs around it."""

    def __init__(self, place: Path) -> None:
        self.programs = place / "bin"
        self.checkout = place / "a checkout"
        for directory in (self.programs, self.checkout / ".ci"):
            directory.mkdir(parents=True)
        for name in ("Makefile", "pyproject.toml", "constraints.txt", ".ci/run"):
            shutil.copy(ROOT / name, self.checkout / name)
        for name in TOOLS:
            found = shutil.which(name)
            assert found, name
            (self.programs / name).symlink_to(found)
        self.program("uname", "echo Linux")
        self.program("id", "echo 1000")

    def program(self, name: str, script: str) -> None:
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def python(self, name: str, version: str, missing: str = "") -> None:
        facts = self.programs / "facts.py"
        facts.write_text(FACTS)
        ask = f"exec '{sys.executable}' '{facts}' '{version}' '{missing}' \"$2\""
        self.program(name, f'if [ "$1 $2" = "-m venv" ]; then {VENV}\nexit; fi\n{ask}')

    def apt(self, *available: str) -> None:
        self.program("apt-get", "exit 1")
        self.program("apt-cache", f'case " {" ".join(available)} " in *" $2 "*) exit 0 ;; esac; exit 100')

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        environ = {"PATH": str(self.programs), "LC_ALL": "C", "HOME": str(self.checkout)}
        return subprocess.run(
            command,
            cwd=self.checkout,
            env=environ,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def make(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("make", *arguments)

    def installs(self) -> list[str]:
        log = self.checkout / "pip.log"
        return [line.split()[-1] for line in log.read_text().splitlines()] if log.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


class TestWhichPython:
    """The newest that runs, is new enough and complete; else the command that mends it."""

    def test_the_newest_that_really_runs_is_taken(self, machine: Machine) -> None:
        machine.program("python3.14", "echo 'shim: 3.14 is not installed' >&2; exit 127")
        for version in ("3.13", "3.12", "3.11"):
            machine.python(f"python{version}", version)
        assert machine.make("which-python").stdout == "python3.13\n"

    def test_one_without_the_means_to_make_an_environment_is_passed_over(self, machine: Machine) -> None:
        machine.python("python3.13", "3.13", missing="ensurepip")
        machine.python("python3.11", "3.11")
        assert machine.make("which-python").stdout == "python3.11\n"

    def test_a_python3_that_is_new_enough_will_do(self, machine: Machine) -> None:
        machine.python("python3", "3.15")
        assert machine.make("which-python").stdout == "python3\n"

    def test_a_given_one_is_taken_blanks_and_all(self, machine: Machine) -> None:
        machine.python("my python", "3.11")
        machine.python("python3.14", "3.14")
        given = str(machine.programs / "my python")
        assert machine.make("which-python", f"PYTHON={given}").stdout == f"{given}\n"

    def test_a_given_one_that_does_not_run_is_named(self, machine: Machine) -> None:
        done = machine.make("which-python", "PYTHON=/nowhere/python")
        assert done.returncode != 0
        assert "PYTHON=/nowhere/python does not run" in done.stderr

    @pytest.mark.parametrize(
        ("system", "uid", "available", "line"),
        [
            ("Linux", 1000, ["python3.12-venv"], "    sudo apt install python3.12 python3.12-venv\n"),
            ("Linux", 0, ["python3.11-venv", "python3.13-venv"], "    apt install python3.13 python3.13-venv\n"),
            ("Darwin", 501, [], "    brew install python@3.13\n"),
        ],
    )
    def test_too_old_a_python_is_told_what_to_install(
        self, machine: Machine, system: str, uid: int, available: list[str], line: str
    ) -> None:
        machine.program("uname", f"echo {system}")
        machine.program("id", f"echo {uid}")
        machine.apt(*available)
        machine.python("python3", "3.9")
        done = machine.make("demo")
        assert done.returncode != 0
        assert "Tailrace needs Python 3.11 or newer; found: 3.9." in done.stderr
        assert line in done.stderr
        assert not (machine.checkout / ".venv").exists()

    @pytest.mark.parametrize(
        ("system", "line"),
        [("Linux", "    sudo apt install python3.12-venv\n"), ("Darwin", "    brew reinstall python@3.12\n")],
    )
    def test_a_missing_ensurepip_is_told_what_to_install(self, machine: Machine, system: str, line: str) -> None:
        machine.program("uname", f"echo {system}")
        machine.apt()
        machine.python("python3.12", "3.12", missing="ensurepip")
        done = machine.make("demo")
        assert done.returncode != 0
        assert "Python 3.12 without ensurepip" in done.stderr
        assert line in done.stderr

    def test_no_python_at_all_is_said(self, machine: Machine) -> None:
        done = machine.make("demo")
        assert done.returncode != 0
        assert "found: none" in done.stderr
        assert "make PYTHON=/path/to/python3" in done.stderr


class TestInstall:
    """Once, and only what is needed."""

    @pytest.fixture(autouse=True)
    def _python(self, machine: Machine) -> None:
        machine.python("python3.13", "3.13")

    def test_demo_installs_what_it_runs_with_and_test_adds_the_tools(self, machine: Machine) -> None:
        assert machine.make("demo").stdout.endswith("tailrace demo\n")
        assert machine.installs() == [".[worker,embedded]"]
        machine.make("test")
        assert machine.installs() == [".[worker,embedded]", ".[worker,embedded,dev]"]

    def test_a_second_run_installs_nothing(self, machine: Machine) -> None:
        for _ in range(2):
            assert machine.make("test").returncode == 0
            assert machine.make("demo").returncode == 0
        assert machine.installs() == [".[worker,embedded,dev]"]

    def test_new_versions_are_installed(self, machine: Machine) -> None:
        machine.make("demo")
        later = time.time() + 5
        os.utime(machine.checkout / "constraints.txt", (later, later))
        machine.make("demo")
        assert len(machine.installs()) == 2

    def test_a_checkout_that_was_moved_gets_a_new_environment(self, machine: Machine) -> None:
        machine.make("demo")
        machine.checkout = machine.checkout.rename(machine.checkout.with_name("moved"))
        assert "Making .venv" in machine.make("demo").stdout
        assert len(machine.installs()) == 2

    def test_an_environment_whose_python_is_gone_is_made_anew(self, machine: Machine) -> None:
        machine.make("demo")
        (machine.checkout / ".venv/bin/python").unlink()
        assert "Making .venv" in machine.make("demo").stdout

    def test_an_environment_that_is_there_and_works_is_kept(self, machine: Machine) -> None:
        machine.run("python3.13", "-m", "venv", ".venv")
        assert "Making .venv" not in machine.make("demo").stdout
        assert machine.installs() == [".[worker,embedded]"]

    def test_an_install_that_fails_is_tried_again(self, machine: Machine) -> None:
        machine.make("demo")
        for stamp in (machine.checkout / ".venv").glob(".runs-*"):
            stamp.unlink()
        interpreter = machine.checkout / ".venv/bin/python"
        working = interpreter.read_text()
        interpreter.write_text(working.replace('echo "$@" >> pip.log', "exit 1"))
        assert machine.make("demo").returncode != 0
        interpreter.write_text(working)
        assert machine.make("demo").returncode == 0

    def test_the_versions_are_held_by_the_constraints(self, machine: Machine) -> None:
        machine.make("demo")
        assert "-c constraints.txt -e" in (machine.checkout / "pip.log").read_text()


class TestCi:
    """`.ci/run` says what happened and its exit code is honest."""

    @pytest.mark.parametrize(
        ("lint", "tests", "exit_code"), [(0, 0, 0), (1, 0, 1), (0, 1, 1), (1, 1, 1)], ids=lambda value: str(value)
    )
    def test_the_exit_code_is_zero_only_when_all_passed(
        self, machine: Machine, lint: int, tests: int, exit_code: int
    ) -> None:
        closing = (
            "===== 1 failed, 2 passed in 0.10s ====="
            if tests
            else "===== 3 passed, 1 skipped in 61.20s (0:01:01) ====="
        )
        machine.program(
            "make", f'case "$1" in lint) exit {lint} ;; test) echo "{closing}"; echo "make: done"; exit {tests} ;; esac'
        )
        done = machine.run(".ci/run")
        assert done.returncode == exit_code
        assert done.stdout.splitlines()[-1] == closing
        assert ("lint: failed" in done.stdout) == bool(lint)

    def test_tests_that_break_off_are_not_taken_for_passed(self, machine: Machine) -> None:
        machine.program("make", 'case "$1" in test) echo "Killed"; exit 137 ;; esac')
        done = machine.run(".ci/run")
        assert done.returncode != 0
        assert done.stdout.splitlines()[-1] == "tests: did not run to the end"


def test_the_makefile_uses_nothing_newer_than_make_3_81() -> None:
    text = (ROOT / "Makefile").read_text()
    assert not re.search(r"\.ONESHELL|\$\(file |^\w+ *(!=|::=)|^undefine|\.EXTRA_PREREQS|&:", text, re.MULTILINE)


def test_the_constraints_are_names_versions_and_markers_only() -> None:
    marker = r"[a-z_]+ (==|!=|<|>=) \"[^\"]+\""
    line = re.compile(rf"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.]*( ; {marker}( (and|or) {marker})*)?")
    assert [text for text in (ROOT / "constraints.txt").read_text().splitlines() if not line.fullmatch(text)] == []
