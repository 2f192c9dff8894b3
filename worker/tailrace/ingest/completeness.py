"""How sure we can be that v1 dropped nothing before we saw it. Pure.

Upstream keeps about the last 1 000 entries of a v1 stream, forgets all of it a day after its last writer, and says
neither (protocol §1.5). Three things prove that nothing is missing, each in its case:

- At our first visit: the stream can't be older than a day, and few entries were there. The rest we saw being written.
- At a later visit: the newest line that we hold came back, so nothing after it was dropped (`v1_order` looks for it).
- While we read: whenever lines reached us, few entries were waiting behind them.

Whatever is not proven is a doubt, and a doubt stays: the stream's verdict is then `possibly_truncated`.
"""

from __future__ import annotations

from typing import Any

from tailrace.model import Doubt

KEPT_ENTRIES = 900
"""Fewer than this are there: nothing was trimmed. A little less than the 1 000 that upstream keeps."""
PIECE_BYTES = 1_400
"""A line can be stored as several entries, one for each piece in which the writer's request arrived. We count one for
so many bytes, about what a packet holds."""
SKEW_MS = 500
"""The clocks of upstream's servers differ by less, as far as we reckon with it."""
CLOCK_SLACK_MS = 1_000 + SKEW_MS
"""The ``Date`` of an answer is cut to the second, and may come from another clock than the entries' ids."""
FORGOTTEN_MS = 23 * 3_600_000
"""Upstream forgets a stream a day after its last writer."""
SPAN_ENTRIES = 64
"""Moments closer than this are one, the later of them, so that only a few have to be kept."""
FOREVER_MS = 1 << 62


class Completeness:
    """The doubts about one generation of one stream. Times are upstream's, in ms since 1970.

    At some *moments* (when we came first, and whenever lines came) all entries of that moment's past that we see only
    afterwards had been waiting. ``_moments`` has those whose past we have not seen all of, as time and the number of
    entries since, oldest first: the oldest has the most.
    """

    def __init__(self, cursor: dict[str, Any], not_before_ms: int | None) -> None:
        """``not_before_ms``: nothing of the stream can have been written before; None when nobody knows."""
        self._not_before_ms = not_before_ms
        self._known = Doubt(cursor["doubted"]) if "doubted" in cursor else None
        self._moments: list[tuple[int, int]] = [(at_ms, count) for at_ms, count in cursor.get("moments", ())]
        self._opened_ms = self._now_ms = FOREVER_MS

    @property
    def doubt(self) -> Doubt | None:
        """Why something may be missing, the first reason that there was; None: nothing is."""
        return self._known

    def add(self, doubt: Doubt) -> None:
        """Something may be missing for a reason that is not seen here."""
        self._known = self._known or doubt

    def cursor(self) -> dict[str, Any]:
        """Return what has to be kept."""
        return {"doubted": self._known} if self._known else {"moments": self._moments}

    def opened(self, date_ms: int | None, holding: bool) -> None:
        """A connection was opened when upstream's clock said so. ``holding``: something of the stream is held."""
        self._opened_ms = self._now_ms = FOREVER_MS if date_ms is None else date_ms + CLOCK_SLACK_MS
        if not holding:
            self._moments = [(self._now_ms, 0)]
            self._known = self._first_visit()

    def _first_visit(self) -> Doubt | None:
        if self._not_before_ms is None:
            return Doubt.OLD
        if self._opened_ms == FOREVER_MS:
            return Doubt.UNDATED
        return Doubt.OLD if self._opened_ms - self._not_before_ms > FORGOTTEN_MS else None

    def passed(self, ms: int) -> None:
        """Note how long the connection has been open."""
        self._now_ms = self._opened_ms + ms

    def watched(self, written_ms: int) -> bool:
        """Return whether a line was written while this connection was open.

        One from upstream's future shows that the answer's ``Date`` was older than the answer, and proves nothing.
        """
        return self._opened_ms < written_ms <= self._now_ms

    def saw(self, entries: int, size_bytes: int, first_ms: int, *, anchored: bool) -> None:
        """New lines came: of at least so many entries, the oldest of this time.

        ``anchored``: together with the newest line that we held, which proves that none before them is missing.
        """
        if self._known:
            return
        self._correct(first_ms)
        entries += size_bytes // PIECE_BYTES
        moments = [(at_ms, count + entries) for at_ms, count in self._moments if at_ms >= first_ms]
        if not anchored:
            if moments and moments[-1][1] - entries < SPAN_ENTRIES:
                moments[-1] = (self._now_ms, moments[-1][1])
            else:
                moments.append((self._now_ms, entries))
        self._moments = moments
        if moments and moments[0][1] >= KEPT_ENTRIES:
            self._known = Doubt.BACKLOG

    def _correct(self, written_ms: int) -> None:
        """No line comes before it was written: if one seems to, the answer's ``Date`` was older than the answer.

        A server that is busy gives out the ``Date`` of some seconds ago; what waited for us would look as if it had
        been written since we came.
        """
        if written_ms <= self._now_ms:
            return
        behind_ms = written_ms + SKEW_MS - self._now_ms
        self._moments = [
            (at_ms + behind_ms if self._opened_ms <= at_ms <= self._now_ms else at_ms, count)
            for at_ms, count in self._moments
        ]
        self._opened_ms += behind_ms
        self._now_ms += behind_ms

    def snapshot(self) -> object:
        return self._known, self._moments

    def restore(self, snapshot: object) -> None:
        self._known, self._moments = snapshot  # type: ignore[misc]
