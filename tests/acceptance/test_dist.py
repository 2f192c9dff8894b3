"""What is released: the same tree makes the same bytes, and what it brings with it is told in full."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]


def built(root: Path, target: Path, umask: int) -> dict[str, bytes]:
    """Build a tree as ``make dist`` does; return the files by name."""
    command = [sys.executable, str(root / "tools" / "dist.py"), str(target)]
    subprocess.run(command, check=True, capture_output=True, umask=umask)
    return {file.name: file.read_bytes() for file in target.iterdir()}


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    return built(ROOT, tmp_path_factory.mktemp("released") / "dist", 0o022)


def the(released: dict[str, bytes], ending: str) -> tuple[str, bytes]:
    (found,) = [(name, content) for name, content in released.items() if name.endswith(ending)]
    return found


def test_the_same_tree_makes_the_same_bytes_elsewhere(released: dict[str, bytes], tmp_path: Path) -> None:
    """Of what was released as source: in another folder, on another day, by somebody with other habits."""
    (tmp_path / "source.tar.gz").write_bytes(the(released, ".tar.gz")[1])
    with tarfile.open(tmp_path / "source.tar.gz") as archive:
        archive.extractall(tmp_path / "some where", filter="data")
    (tree,) = (tmp_path / "some where").iterdir()
    for place in (*tree.rglob("*"), tree):
        os.utime(place, (1_000_000_000, 1_000_000_000))
    again = built(tree, tmp_path / "again", 0o077)
    assert sorted(again) == sorted(released)
    assert [name for name in released if released[name] != again[name]] == []


def test_the_checksums_are_those_of_the_files(released: dict[str, bytes]) -> None:
    sums = dict(reversed(line.split("  ")) for line in released["SHA256SUMS"].decode().splitlines())
    assert sums == {
        name: hashlib.sha256(content).hexdigest() for name, content in released.items() if name != "SHA256SUMS"
    }


def test_what_it_brings_with_it_is_told_in_full(released: dict[str, bytes]) -> None:
    document = json.loads(the(released, ".cdx.json")[1])
    components: dict[str, Any] = {each["name"]: each for each in document["components"]}
    wheel = hashlib.sha256(the(released, ".whl")[1]).hexdigest()
    assert document["metadata"]["component"]["hashes"] == [{"alg": "SHA-256", "content": wheel}]
    # Everything that is pinned is either told, or only developers install it.
    assert {"celery", "kombu", "redis", "sqlalchemy", "psycopg", "gevent", "starlette", "pyarrow", "vine"} <= set(
        components
    )
    assert not {"pytest", "mypy", "ruff", "hatchling", "import-linter"} & set(components)
    assert {name for name, each in components.items() if each["scope"] == "required"} > {"celery", "kombu", "redis"}
    assert [each["value"] for each in components["structlog"]["properties"]] == ["worker"]
    assert [name for name, each in components.items() if not each["licenses"]] == []
    refs = {each["bom-ref"] for each in (*document["components"], document["metadata"]["component"])}
    assert len(refs) == len(components) + 1
    told = {each["ref"]: each["dependsOn"] for each in document["dependencies"]}
    assert set(told) == refs
    reached, waiting = set(), [document["metadata"]["component"]["bom-ref"]]
    while waiting:
        ref = waiting.pop()
        if ref not in reached:
            reached.add(ref)
            waiting += told[ref]
    assert reached == refs


def test_it_is_a_cyclonedx_document(released: dict[str, bytes]) -> None:
    """By the library of those who make the format; not among what developers install, for it brings twenty others."""
    pytest.importorskip("jsonschema", reason="needs cyclonedx-python-lib[json-validation]")
    validation = pytest.importorskip("cyclonedx.validation.json", reason="needs cyclonedx-python-lib[json-validation]")
    version = importlib.import_module("cyclonedx.schema").SchemaVersion.V1_6
    assert validation.JsonStrictValidator(version).validate_str(the(released, ".cdx.json")[1].decode()) is None


def test_every_pin_is_one_line_with_one_version() -> None:
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        (specifier,) = Requirement(line).specifier
        assert specifier.operator == "=="
