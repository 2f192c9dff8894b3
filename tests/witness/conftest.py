"""The official client and the AI SDK are asked where Node is and npm can install it; elsewhere the tests that need it are skipped.

It is installed once, from package-lock.json, into pytest's cache (``make clean`` takes it away), in a folder that the
lock's checksum names, together with its hooks and what makes a page of them.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.npm import installed

HERE = Path(__file__).parent
INSTALL_S = 150


@pytest.fixture(scope="session")
def official_client(pytestconfig: pytest.Config) -> Path:
    """The folder to run our scripts for Node in; what package.json names is installed there."""
    with installed(pytestconfig, HERE, "the official client", INSTALL_S) as folder:
        for script in (*HERE.glob("*.mjs"), *HERE.glob("*.jsx")):
            shutil.copy(script, folder / script.name)
    return folder
