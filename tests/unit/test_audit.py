"""No version is pinned that is older than the fix of a weakness that we know of."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def audit() -> ModuleType:
    spec = importlib.util.spec_from_file_location("audit_tool", ROOT / "tools" / "audit.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def fixes() -> dict[str, dict[str, list[str]]]:
    return tomllib.loads((ROOT / "tools" / "fixed.toml").read_text())


def test_no_pin_is_older_than_a_fix(audit: ModuleType, fixes: dict[str, dict[str, list[str]]]) -> None:
    assert [str(each) for each in audit.weak(audit.pins((ROOT / "constraints.txt").read_text()), fixes)] == []


def test_one_that_is_would_be_found(audit: ModuleType) -> None:
    pinned = audit.pins('H11==0.15.9\nredis==8.1.0\nh11==0.16.0 ; python_version < "3.12"\n')
    fixes = {"h11": {"0.9": ["GHSA-0"], "0.16.0": ["GHSA-1", "PYSEC-2"]}, "absent": {"1": ["GHSA-3"]}}
    (found,) = audit.weak(pinned, fixes)
    assert str(found) == (
        "h11 0.15.9 is older than 0.16.0: https://github.com/advisories/GHSA-1 https://osv.dev/vulnerability/PYSEC-2"
    )


def test_every_fix_is_of_something_that_is_pinned_and_has_its_source(
    audit: ModuleType, fixes: dict[str, dict[str, list[str]]]
) -> None:
    assert set(fixes) <= {name for name, _ in audit.pins((ROOT / "constraints.txt").read_text())}
    ids = [each for versions in fixes.values() for found in versions.values() for each in found]
    assert len(set(ids)) == len(ids)
    assert {each.partition("-")[0] for each in ids} <= set(audit.SOURCES)


def test_what_was_taken_back_is_said(audit: ModuleType) -> None:
    report = {
        "install": [
            {"is_yanked": False, "metadata": {"name": "h11", "version": "1"}},
            {"is_yanked": True, "metadata": {"name": "redis", "version": "2"}},
        ]
    }
    assert audit.yanked(report) == ["redis 2 was yanked"]
