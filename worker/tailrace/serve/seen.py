"""What each reader of the feed of many runs has been told of them, so that it is told only what is news to it. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from datetime import datetime

from tailrace.serve.runs import Run

_MOST = 100_000  # runs of all readers together: some 20 MB


class Seen:
    """By the handles of readers: when each of their runs was updated last.

    Bounded: the readers who asked longest ago are forgotten first. Then the offset of a reader has to do, by which a
    change can be missed that became visible after a later one.
    """

    def __init__(self, most: int = _MOST) -> None:
        """``most``: so many runs, of all readers together."""
        self._most = most
        self._readers: OrderedDict[str, dict[str, datetime]] = OrderedDict()
        self._size = 0

    def put(self, handle: str, runs: Iterable[Run]) -> None:
        """These are the runs that the reader has been told of, as they are now, and no others."""
        self._size -= len(self._readers.pop(handle, ()))
        told = self._readers[handle] = {run.row_id: run.updated_at for run in runs}
        self._size += len(told)
        while self._size > self._most or len(self._readers) > self._most:
            _, forgotten = self._readers.popitem(last=False)
            self._size -= len(forgotten)

    def news(self, handle: str, runs: Iterable[Run], offset_time: datetime) -> list[tuple[Run, str]]:
        """Return what of these is news to the reader, with what is to be called: from now on it has been told.

        For a reader that is not known: what was updated after ``offset_time``.
        """
        told = self._readers.get(handle)
        if told is None:
            return [(run, "update") for run in runs if run.updated_at > offset_time]
        self._readers.move_to_end(handle)
        news = []
        for run in runs:
            before = told.get(run.row_id)
            if before is None or run.updated_at > before:
                news.append((run, "insert" if before is None else "update"))
                self._size += before is None
                told[run.row_id] = run.updated_at
        return news
