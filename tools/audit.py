"""Look for known weaknesses in what constraints.txt pins: ``make audit``.

Three things, each as far as it can be had: no pin is older than a fix in tools/fixed.toml (always; tests hold it too);
no pinned version was yanked, as pip says of what it would install (needs the package index, through pip as it is set
up); and ``pip-audit``, when it is installed and its data can be had. Ends with 1 when one of them finds something, and
says which could not be asked.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[1]
CONSTRAINTS = ROOT / "constraints.txt"
FIXES = Path(__file__).with_name("fixed.toml")
SOURCES = {"GHSA": "https://github.com/advisories/", "PYSEC": "https://osv.dev/vulnerability/"}
PATIENCE_S = 600


class Weak(NamedTuple):
    """A pin that is older than a fix."""

    name: str
    pinned: str
    fixed: str
    ids: tuple[str, ...]

    def __str__(self) -> str:
        where = " ".join(SOURCES[each.partition("-")[0]] + each for each in self.ids)
        return f"{self.name} {self.pinned} is older than {self.fixed}: {where}"


def pins(text: str) -> list[tuple[str, str]]:
    """Return name and version of every line, for whichever Python it is."""
    found: list[tuple[str, str]] = []
    for line in text.splitlines():
        requirement = Requirement(line)
        (specifier,) = requirement.specifier
        found.append((canonicalize_name(requirement.name), specifier.version))
    return found


def weak(pinned: list[tuple[str, str]], fixes: Mapping[str, Mapping[str, list[str]]]) -> list[Weak]:
    """Return the pins that are older than a fix; ``fixes``: by package, by the first version that has it."""
    return [
        Weak(name, version, fixed, tuple(ids))
        for name, version in pinned
        for fixed, ids in fixes.get(name, {}).items()
        if Version(version) < Version(fixed)
    ]


def yanked(report: Mapping[str, list[Mapping[str, object]]]) -> list[str]:
    """Return what was taken back by its makers, of pip's report of what it would install."""
    found = []
    for each in report["install"]:
        about = each["metadata"]
        assert isinstance(about, dict)
        if each.get("is_yanked"):
            found.append(f"{about['name']} {about['version']} was yanked")
    return found


def _report() -> dict[str, list[Mapping[str, object]]] | None:
    """Ask pip what it would install for the pins; None: it can't say."""
    options = (
        "install",
        "--dry-run",
        "--ignore-installed",
        "--no-deps",
        "--quiet",
        "--report",
        "-",
        "-r",
        str(CONSTRAINTS),
    )
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pip", *options], capture_output=True, timeout=PATIENCE_S, check=False
        )
        return json.loads(done.stdout) if done.returncode == 0 else None
    except (subprocess.TimeoutExpired, ValueError):
        return None


def main() -> int:
    """Say what was found; return the exit code."""
    found = [str(each) for each in weak(pins(CONSTRAINTS.read_text()), tomllib.loads(FIXES.read_text()))]
    said = [f"{FIXES.name}: {len(found)} pins are older than their fixes"]
    report = _report()
    if report is None:
        said.append("yanked versions: the package index could not be asked")
    else:
        taken_back = yanked(report)
        found += taken_back
        said.append(f"yanked versions: {len(taken_back)} of {len(report['install'])}")
    if importlib.util.find_spec("pip_audit") is None:
        said.append("pip-audit: not installed")
    else:
        command = [sys.executable, "-m", "pip_audit", "--disable-pip", "--no-deps", "-r", str(CONSTRAINTS)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        said.append(f"pip-audit: {done.stderr.strip().rpartition(chr(10))[2]}")
        if done.returncode != 0:
            found.append(done.stdout.strip() or "pip-audit could not finish")
    sys.stdout.write("".join(f"{line}\n" for line in (*said, *found)))
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
