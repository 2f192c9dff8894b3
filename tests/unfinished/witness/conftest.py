"""The official client is asked where Node is, and only there: elsewhere the tests of this folder are not selected.

It is installed once, from package-lock.json, into a folder of the user's cache that the lock's checksum names.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALL_S = 120


def witness_folder() -> Path:
    """Where the client is installed, or would be."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / f"tailrace-witness-{hashlib.sha256((HERE / 'package-lock.json').read_bytes()).hexdigest()[:12]}"


def installed() -> bool:
    """Install the client unless it is there. False when that can't be done here: no Node, no npm, or no registry."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return False
    folder = witness_folder()
    if not (folder / "installed").exists():
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("package.json", "package-lock.json", ".npmrc", "read.mjs"):
            shutil.copy(HERE / name, folder / name)
        try:
            subprocess.run(["npm", "ci"], cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
        except (subprocess.SubprocessError, OSError):
            return False
        (folder / "installed").touch()
    shutil.copy(HERE / "read.mjs", folder / "read.mjs")
    return True


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    ours = [item for item in items if item.path.is_relative_to(HERE)]
    if ours and not installed():
        items[:] = [item for item in items if item not in ours]
        config.hook.pytest_deselected(items=ours)
