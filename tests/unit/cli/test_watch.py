"""What is watched is drawn again and again; a database that goes away is said, and asked again."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tailrace.cli import watch
from tailrace.errors import StoreUnavailable


def test_a_database_that_goes_away_is_said_beside_what_was_seen_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(watch, "EVERY_S", 0.0)
    drawn: list[int] = []

    def draw(width: int, height: int) -> Sequence[str]:
        drawn.append(len(drawn))
        if drawn == [0, 1]:
            raise StoreUnavailable("gone for a while")
        if len(drawn) == 4:
            raise KeyboardInterrupt
        return [f"picture {len(drawn)}"]

    watch.watched(draw)

    assert drawn == [0, 1, 2, 3]
    last = capsys.readouterr().out
    assert "picture 3" in last
    assert "gone for a while" not in last.rpartition("picture 3")[2]
