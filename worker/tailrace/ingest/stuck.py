"""When a stream is stuck: its reader lives, there is more, and nothing of it comes. Pure but for the clock it is given.

Two signs, while nothing new is stored: upstream says that its tail is ahead of all that it gave (v2), and bytes arrive
that never become an event. A sign that lasts has upstream asked again, on a fresh connection; when that brings nothing
either, the stream is *stuck*, and its row, the metrics and the log say so until something comes, or upstream's tail is
no longer ahead. It is read on all the while, with a fresh connection now and then.

A connection that ends cleanly behind upstream's tail is no sign: what it should have brought is looked for again, and
is a gap if three in a row lack it (`tailrace.ingest.v2_order`). Chunks that came and can't be committed are another
matter too: the Writer knows them, and they are nobody's fault upstream.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Final

__all__ = ["Sign", "Stuck"]


class Sign(StrEnum):
    """What makes a stream suspicious, in a sentence."""

    AHEAD = "upstream says that the stream goes on, and gives nothing of it"
    UNFINISHED = "bytes arrive that never become an event"


GRACE_S: Final = {Sign.AHEAD: 15.0, Sign.UNFINISHED: 120.0}
"""How long a sign may last on one connection. Upstream tells its tail in each ping, and gives a record within a second;
the largest event that is allowed, over the slowest link that can follow (`tailrace.room`), takes some two minutes."""
GRACE_CAP_S: Final = 3_600.0
CONNECTIONS: Final = 2
"""So many in a row must have shown a sign and brought nothing."""


class Stuck:
    """What one reader has seen. ``reason``: why its stream is stuck; None: it is not."""

    def __init__(
        self, tell: Callable[[str | None], None], clock: Callable[[], float], reason: str | None = None
    ) -> None:
        """``tell`` is called with the reason when the stream begins to be stuck, and with None when that is over.

        ``reason``: why it is already, as its row says.
        """
        self.reason = reason
        # Trouble that came meanwhile has put its own words into the row: then it is the one that is seen most.
        self._sign = next((sign for sign in Sign if sign == reason), Sign.AHEAD)
        self._tell = tell
        self._clock = clock
        self._since: dict[Sign, float] = {}  # on this connection
        # Connections in a row that showed a sign and brought nothing. Of a stream that is stuck already, so many that
        # the next is left alone for as long as its reader stays.
        self._fruitless = 0 if reason is None else CONNECTIONS + 4

    def connected(self) -> None:
        """A fresh connection begins."""
        self._since.clear()

    def moved(self) -> None:
        """Something new came."""
        self._since.clear()
        self._fruitless = 0
        self._end()

    def shows(self, sign: Sign) -> bool:
        """Note a sign; return whether to leave this connection and ask again on a fresh one."""
        now = self._clock()
        since = self._since.setdefault(sign, now)
        if now - since < min(GRACE_CAP_S, GRACE_S[sign] * 2.0 ** max(0, self._fruitless - 1)):
            return False
        self._fruitless += 1
        if self._fruitless >= CONNECTIONS and self.reason is None:
            self.reason, self._sign = sign.value, sign
            self._tell(self.reason)
        return True

    def lacks(self, sign: Sign) -> None:
        """Note that a sign is not, or no longer, there."""
        if self._since.pop(sign, None) is not None or (self.reason is not None and self._sign is sign):
            self._fruitless = 0
            self._end()

    def _end(self) -> None:
        if self.reason is not None:
            self.reason = None
            self._tell(None)
