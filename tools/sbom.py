"""Say what a wheel of Tailrace brings with it, as a CycloneDX 1.6 document: ``make dist`` writes it beside the wheel.

Every package that an extra needs, in the version that constraints.txt pins and this environment has, with its licence
and what it needs itself. What only developers install is left out. The same tree makes the same bytes: there is no date
but SOURCE_DATE_EPOCH, and the serial number follows from the contents.

Source: https://cyclonedx.org/docs/1.6/json/; https://github.com/package-url/purl-spec (type pypi).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from email.message import Message
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path
from typing import Any
from zipfile import ZipFile

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

EPOCH = 1_580_601_600
"""The date that hatchling gives to files when SOURCE_DATE_EPOCH says none: 2020-02-02."""
DEVELOPERS = frozenset({"dev", "docs", "deploy"})
ITSELF = "tailrace"
LONGEST_LICENCE = 100
"""Characters of a licence's name; some packages have its whole text there."""
NAMESPACE = uuid.UUID("6b1c0a52-2f0e-4d57-9d0a-6f6b7a1e3c11")
"""Of our serial numbers; drawn once."""


class NotInstalled(Exception):
    """A package that Tailrace needs is not in this environment, or not in the version that is pinned."""


class Graph:
    """Which packages are needed: by which extras ("" is none), and what each needs itself."""

    def __init__(self, requirements: list[str], extras: list[str]) -> None:
        self.roots: set[str] = set()
        self.by: dict[str, set[str]] = {}
        self.needs: dict[str, set[str]] = {}
        for extra in ("", *extras):
            waiting = sorted(_needed(requirements, {extra}))
            self.roots |= {name for name, _ in waiting}
            seen: set[tuple[str, frozenset[str]]] = {(ITSELF, frozenset())}
            while waiting:
                name, wanted = waiting.pop()
                if name == ITSELF or (name, wanted) in seen:
                    continue
                seen.add((name, wanted))
                found = sorted(_needed(_requires(name), set(wanted)))
                self.by.setdefault(name, set()).add(extra)
                self.needs.setdefault(name, set()).update(each for each, _ in found)
                waiting += found
        self.roots.discard(ITSELF)


def sbom(wheel: Path, constraints: Path) -> dict[str, Any]:
    """Return the document for this wheel.

    Raises:
        NotInstalled: `make venv` makes it so.
    """
    about = _about(wheel)
    extras = sorted(set(about.get_all("Provides-Extra") or []) - DEVELOPERS)
    graph = Graph(about.get_all("Requires-Dist") or [], extras)
    pins = pinned(constraints)
    components = {name: _component(name, pins, graph.by[name]) for name in sorted(graph.needs)}
    refs = {name: component["bom-ref"] for name, component in components.items()}
    root = _purl(ITSELF, about["Version"])
    document: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(int(os.environ.get("SOURCE_DATE_EPOCH", EPOCH)), UTC).isoformat(),
            "tools": {
                "components": [{"type": "application", "name": "tailrace tools/sbom.py", "version": about["Version"]}]
            },
            "component": {
                "type": "library",
                "bom-ref": root,
                "name": ITSELF,
                "version": about["Version"],
                "description": about["Summary"],
                "purl": root,
                "licenses": [{"expression": about["License-Expression"]}],
                "hashes": [{"alg": "SHA-256", "content": hashlib.sha256(wheel.read_bytes()).hexdigest()}],
            },
        },
        "components": list(components.values()),
        "dependencies": [
            {"ref": root, "dependsOn": sorted(refs[name] for name in graph.roots)},
            *({"ref": refs[name], "dependsOn": sorted(refs[each] for each in graph.needs[name])} for name in refs),
        ],
    }
    number = uuid.uuid5(NAMESPACE, json.dumps(document, sort_keys=True))
    return {**document, "serialNumber": f"urn:uuid:{number}"}


def pinned(constraints: Path) -> dict[str, str]:
    """Return the versions that are pinned for this Python, by normal name."""
    found: dict[str, str] = {}
    for line in constraints.read_text().splitlines():
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate():
            (specifier,) = requirement.specifier
            found[canonicalize_name(requirement.name)] = specifier.version
    return found


def _about(wheel: Path) -> Message:
    with ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return HeaderParser().parsestr(archive.read(name).decode())


def _requires(name: str) -> list[str]:
    try:
        return metadata.requires(name) or []
    except metadata.PackageNotFoundError:
        raise NotInstalled(f"{name} is not installed here: run `make venv`") from None


def _needed(requirements: list[str], extras: set[str]) -> Iterator[tuple[str, frozenset[str]]]:
    """Yield what is needed here with these extras ("" is none), and with which extras of its own."""
    for text in requirements:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": extra}) for extra in extras or {""}):
            yield canonicalize_name(requirement.name), frozenset(requirement.extras)


def _component(name: str, pins: dict[str, str], needed_by: set[str]) -> dict[str, Any]:
    about = metadata.metadata(name)
    version = about["Version"]
    if pins.get(name) != version:
        raise NotInstalled(f"{name} is pinned to {pins.get(name)}, and {version} is installed: run `make venv`")
    component: dict[str, Any] = {
        "type": "library",
        "bom-ref": _purl(name, version),
        "name": name,
        "version": version,
        "purl": _purl(name, version),
        "scope": "required" if "" in needed_by else "optional",
    }
    if licence := _licence(about):
        component["licenses"] = [licence]
    if "" not in needed_by:
        component["properties"] = [{"name": "tailrace:extra", "value": extra} for extra in sorted(needed_by)]
    return component


def _purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name}@{version}"


def _licence(about: metadata.PackageMetadata) -> dict[str, Any] | None:
    """Return what the package says of it, in its own words when those are no SPDX expression."""
    if "License-Expression" in about:
        return {"expression": about["License-Expression"]}
    named = about["License"].strip() if "License" in about else ""
    if named and "\n" not in named and len(named) <= LONGEST_LICENCE:
        return {"license": {"name": named}}
    for classifier in about.get_all("Classifier") or []:
        if classifier.startswith("License :: "):
            return {"license": {"name": classifier.rpartition(" :: ")[2]}}
    return None


def write(wheel: Path) -> Path:
    """Write the document beside the wheel; return where it is."""
    document = sbom(wheel, Path(__file__).parents[1] / "constraints.txt")
    target = wheel.with_suffix(".cdx.json")
    target.write_text(json.dumps(document, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    return target


if __name__ == "__main__":
    try:
        write(Path(sys.argv[1]))
    except NotInstalled as error:
        raise SystemExit(f"sbom: {error}") from None
