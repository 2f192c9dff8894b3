"""The official client and the AI SDK are asked where Node is and npm can install it; elsewhere the tests that need it are skipped.

It is installed once, from package-lock.json, into pytest's cache (``make clean`` takes it away), in a folder that the
lock's checksum names, together with its hooks and what makes a page of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
INSTALL_S = 150


@pytest.fixture(scope="session")
def official_client(pytestconfig: pytest.Config) -> Path:
    """The folder to run our scripts for Node in; what package.json names is installed there."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("the official client needs Node and npm")
    assert pytestconfig.cache is not None
    lock = hashlib.sha256((HERE / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = pytestconfig.cache.mkdir(f"tailrace-witness-{lock}")
    with (folder / "lock").open("w") as one_at_a_time:  # the processes of a parallel run
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            _install(folder)
        for script in (*HERE.glob("*.mjs"), *HERE.glob("*.jsx")):
            shutil.copy(script, folder / script.name)
    return folder


def _install(folder: Path) -> None:
    for name in ("package.json", "package-lock.json", ".npmrc"):
        shutil.copy(HERE / name, folder / name)
    try:
        subprocess.run(["npm", "ci"], cwd=folder, check=True, capture_output=True, timeout=INSTALL_S)
    except (subprocess.SubprocessError, OSError) as error:
        pytest.skip(f"npm can't install the official client here: {error}")
    (folder / "installed").touch()
