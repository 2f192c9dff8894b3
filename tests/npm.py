"""What tests take from npm: installed once from a package-lock.json, where Node is and npm can install it."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def installed(config: pytest.Config, here: Path, what: str, timeout_s: float) -> Iterator[Path]:
    """Return a folder of pytest's cache (``make clean`` takes it away) with what ``here`` has a lock of; the lock's checksum
    names it. Within the block no other process of a parallel run is in it. Without Node, or when npm can't install it,
    whoever asks is skipped.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip(f"{what} needs Node and npm")
    assert config.cache is not None
    lock = hashlib.sha256((here / "package-lock.json").read_bytes()).hexdigest()[:12]
    folder = config.cache.mkdir(f"tailrace-{here.name}-{lock}")
    with (folder / "lock").open("w") as one_at_a_time:
        fcntl.flock(one_at_a_time, fcntl.LOCK_EX)
        if not (folder / "installed").exists():
            for name in ("package.json", "package-lock.json", ".npmrc"):
                shutil.copy(here / name, folder / name)
            try:
                subprocess.run(["npm", "ci"], cwd=folder, check=True, capture_output=True, timeout=timeout_s)
            except (subprocess.SubprocessError, OSError) as error:
                pytest.skip(f"npm can't install {what} here: {error}")
            (folder / "installed").touch()
        yield folder
