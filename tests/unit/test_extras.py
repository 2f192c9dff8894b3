"""What each extra installs, and what a caller's import costs: docs/fit-in.md says both."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PAGE = Path(__file__).parents[2] / "docs" / "fit-in.md"
MB = 1_000_000


def stated() -> dict[str, tuple[int, int]]:
    """Return for each extra how many distributions it installs besides Tailrace and how many MB these have at most."""
    rows = re.findall(r"^\| `tailrace(?:\[(\w+)\])?` \| .*? \| (\d+) \| (\d+) MB \|$", PAGE.read_text(), re.MULTILINE)
    return {extra: (int(count), int(size)) for extra, count, size in rows}


def needed(found: Distribution, extras: frozenset[str]) -> Iterator[Requirement]:
    for text in found.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in (extras or {""})):
            yield requirement


def installed(extra: str) -> dict[str, Distribution]:
    """Return what `pip install` brings with Tailrace for an extra, as it is installed here."""
    seen: dict[str, Distribution] = {}
    extras: dict[str, set[str]] = {"tailrace": {extra}}
    waiting = ["tailrace"]
    while waiting:
        name = waiting.pop()
        seen[name] = distribution(name)
        for each in needed(seen[name], frozenset(extras[name])):
            child = canonicalize_name(each.name)
            known = extras.setdefault(child, set())
            if child not in seen or not each.extras <= known:
                known |= each.extras
                waiting.append(child)
    del seen["tailrace"]
    return seen


def size_bytes(found: Distribution) -> int:
    paths = [Path(str(each.locate())) for each in found.files or [] if not each.match("*.pyc")]
    return sum(path.stat().st_size for path in paths if path.is_file())


def test_every_extra_that_people_install_has_its_row() -> None:
    given = set(distribution("tailrace").metadata.get_all("Provides-Extra") or [])
    assert stated().keys() == {""} | given - {"dev", "docs", "deploy"}


@pytest.mark.parametrize("extra", stated())
def test_an_extra_installs_as_much_as_is_said(extra: str) -> None:
    count, most = stated()[extra]
    found = installed(extra)
    assert abs(len(found) - count) <= 2, sorted(found)  # some are needed by some versions of Python only
    size = sum(map(size_bytes, found.values())) / MB
    assert most * 0.6 < size <= most, {name: round(size_bytes(each) / MB, 1) for name, each in found.items()}


def test_plain_tailrace_brings_nothing_that_reads_streams() -> None:
    assert installed("").keys().isdisjoint({"httpx", "httpx-sse", "msgspec", "gevent", "alembic", "typer", "pydantic"})


def test_of_a_callers_import_little_is_ours() -> None:
    """As a share, taken in one process, so that a busy machine is as slow with all of it."""
    (share,) = re.findall(r"of which (\d+) % at most is Tailrace's own", PAGE.read_text())
    shares = [_ours("tailrace.tasks") for _ in range(3)]
    assert min(shares) <= int(share) / 100, shares


@pytest.mark.parametrize(
    ("name", "times"),
    re.findall(r"^\| `(tailrace[.\w]+)` \| `\w+` \| (\d+) \|$", PAGE.read_text(), re.MULTILINE),
)
def test_an_extra_is_imported_in_as_many_times_as_long_as_is_said(name: str, times: str) -> None:
    """Of what a caller imports, and in CPU time: others have the machine, too."""
    ratios = [_import_s(name) / _import_s("tailrace.tasks") for _ in range(2)]
    assert min(ratios) <= int(times), ratios


def _import_s(name: str) -> float:
    """Return the CPU time that importing this takes."""
    program = f"import time; began_s = time.process_time(); import {name}; print(time.process_time() - began_s)"
    return float(_python("-c", program).stdout)


def _ours(name: str) -> float:
    """Return how much of the time that importing this takes goes into modules of ours, as a share."""
    rows = re.findall(
        r"^import time: +(\d+) \| +\d+ \| +(\S+)$",
        _python("-X", "importtime", "-c", f"import {name}").stderr,
        re.MULTILINE,
    )
    ours = sum(int(own) for own, module in rows if module.partition(".")[0] == "tailrace")
    return ours / sum(int(own) for own, _ in rows)


def _python(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-P", *arguments],
        capture_output=True,
        text=True,
        check=True,
        # Else our modules, and not the installed ones, would be compiled each time.
        env={name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
    )
