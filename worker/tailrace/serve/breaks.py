"""The ways in which a response body can end other than cleanly."""

from __future__ import annotations

from enum import StrEnum


class Break(StrEnum):
    """How it ends."""

    CUT = "cut"  # the connection is closed before the last chunk
    RESET = "reset"  # the connection is reset
    HANG = "hang"  # nothing more is sent, and nothing is closed


class BrokenOff(Exception):
    """Raised by the blocks of a body that is to end here and now."""

    def __init__(self, how: Break) -> None:
        super().__init__(how)
        self.how = how
