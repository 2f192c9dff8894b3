"""What the tests of homes and programs share."""

from __future__ import annotations

from pathlib import Path

import pytest

from tailrace.devtools.servers import account


@pytest.fixture(autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory instead of the machine's own for what root's servers need."""
    place = tmp_path_factory.mktemp("shared")
    monkeypatch.setattr(account, "SHARED", place)
    return place
