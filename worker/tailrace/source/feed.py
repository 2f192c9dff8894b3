"""The protocol of the run feed: what is asked, what an answer means, whether to ask again. Pure, and the only copy.

Facts (protocol §5): the feed is a log that is read from ``handle`` and ``offset`` on; one answer may be a part of what
there is, so it is asked until it says "up to date", in a header or a message; a 409 says that the log is gone and
begins anew. The handle has two names, and which ones upstream uses depends on a header of the question.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any
from urllib.parse import quote

import httpx

from tailrace.errors import MalformedRecord, NotFound, SourceUnavailable
from tailrace.model import RunView
from tailrace.source.answers import REFUSAL_MAX_CHARS, refuse
from tailrace.source.body import BodyText, WholeText
from tailrace.source.elements import Elements
from tailrace.wire.feed import FeedRows
from tailrace.wire.run_fields import BadRow

SKIP_COLUMNS = "payload,payloadType,output,outputType,error"  # can be large, and none of our business
FEED_PAGES = 50  # a feed that is not up to date after so many answers is broken
BEGINNING = "-1"


class FeedCursor:
    """Where we are in one feed. Ask with `query`, take each `answer` in, until one says that this is all.

    The first question asks for everything, the next ones only for what changed: an answer to the first may come from a
    cache and be minutes old.
    """

    def __init__(
        self,
        path: str,
        name: str,
        filters: Mapping[str, str] | None = None,
        wanted: Callable[[str], bool] = bool,
    ) -> None:
        """``name`` is for errors; ``filters`` are sent with each question; ``wanted``: see `FeedRows`."""
        self.path = path
        self.name = name
        self._wanted = wanted
        self._filters = {"skipColumns": SKIP_COLUMNS, **(filters or {})}
        self._answers = 0
        self._forget("")

    @classmethod
    def of_run(cls, run_id: str) -> FeedCursor:
        """Return a cursor at the beginning of the feed of one run."""
        return cls(f"/realtime/v1/runs/{segment(run_id)}", f"run {run_id}")

    def _forget(self, handle: str) -> None:
        self._rows = FeedRows(self._wanted)
        self._handle, self._offset, self._cursor = handle, BEGINNING, ""

    @property
    def begun(self) -> bool:
        """Upstream can tell us what changes from here on."""
        return bool(self._handle) and self._offset != BEGINNING

    def query(self, live: bool = False) -> dict[str, str]:
        """Return the query to send. ``live``: the answer may be held until something changes; not the first one."""
        query = {"offset": self._offset, **self._filters}
        if self._handle:
            query["handle"] = self._handle
        if live and self.begun:
            query["live"] = "true"
            if self._cursor:
                query["cursor"] = self._cursor
        return query

    def answer(self, response: httpx.Response) -> Answer:
        """Begin to take in an answer to `query`, its body unread."""
        return Answer(self, response)

    def take(self, response: httpx.Response) -> bool:
        """Read an answer to its end; see `Answer.end`."""
        answer = self.answer(response)
        for data in response.iter_raw():
            if not answer.feed(data):
                break
        return answer.end()

    def _begin(self) -> None:
        self._rows.begin()

    def _merge(self, message: Any) -> None:
        self._rows.merge(message)

    def _end(self, status: int, headers: Mapping[str, str], said: str) -> bool:
        if status == 409:  # must-refetch: drop everything and begin again with the new handle
            self._forget(_handle(headers))
            return self._all(False)
        refuse(status, said, self.name)
        self._rows.end()
        handle = _handle(headers)
        offset = headers.get("electric-offset") or headers.get("electric-chunk-last-offset") or BEGINNING
        self._handle, self._offset = handle, offset if handle else BEGINNING
        self._cursor = headers.get("electric-cursor", "")
        return self._all(self._rows.up_to_date or "electric-up-to-date" in headers)

    def _all(self, up_to_date: bool) -> bool:
        self._answers = 0 if up_to_date else self._answers + 1
        if self._answers >= FEED_PAGES:  # what is missing could be the stream keys
            self._answers = 0
            raise SourceUnavailable(f"{self.name}: its feed is not up to date after {FEED_PAGES} answers")
        return up_to_date

    @property
    def told_of(self) -> Collection[str]:
        """The ids of the runs that the feed tells of."""
        return self._rows.told_of

    def view(self, run_id: str) -> RunView:
        """Return a run of `told_of`."""
        return self._rows.view(run_id)

    def changes(self) -> tuple[list[RunView], list[BadRow]]:
        """Return the runs that have changed since the last call, and the rows that could not be read."""
        return self._rows.changes()

    def run(self, run_id: str) -> RunView:
        """Return what is known of one run.

        Raises:
            MalformedRecord: its row can't be read.
            NotFound: the feed does not have it.
        """
        runs, malformed = self._rows.read()
        found = [run for run in runs if run.run_id == run_id]
        if found:
            return found[-1]
        for row in malformed:
            if row.run_id in (run_id, None):
                raise MalformedRecord(f"{self.name}: {row.reason}", field=row.field)
        raise NotFound(f"upstream's feed has no run {run_id}")


class Answer:
    """One answer of a feed, taken in as it comes: all of an environment's runs can be hundreds of megabytes."""

    def __init__(self, cursor: FeedCursor, response: httpx.Response) -> None:
        """Raises SourceUnavailable for a compression that is unknown here."""
        self._cursor = cursor
        self._status, self._headers = response.status_code, response.headers
        self._body = BodyText(response)
        self._elements = Elements(cursor.name)
        self._refusal = None if self._status == 200 else WholeText(response, REFUSAL_MAX_CHARS)
        self._is_read = True
        if self._refusal is None:
            cursor._begin()

    def feed(self, data: bytes) -> bool:
        """Take some of the body in; False when the rest need not be read.

        Raises:
            MalformedRecord, SourceUnavailable.
        """
        if self._refusal is not None:
            self._is_read = self._refusal.feed(data)
            return self._is_read
        for text in self._body.feed(data):
            for message in self._elements.feed(text):
                self._cursor._merge(message)
        return True

    def end(self) -> bool:
        """Accept the end of the body; False when more has to be asked for before the rows are of any use.

        Raises:
            SourceUnavailable: the body was cut off; or not up to date after `FEED_PAGES` answers.
            What `source.answers.refuse` says; MalformedRecord.
        """
        said = ""
        if self._refusal is not None:
            said = self._refusal.text() if self._is_read else "(too long)"
        else:
            self._body.finish()
            for message in self._elements.finish():
                self._cursor._merge(message)
        return self._cursor._end(self._status, self._headers, said)


def _handle(headers: Mapping[str, str]) -> str:
    return headers.get("electric-handle") or headers.get("electric-shape-id") or ""


def segment(text: str) -> str:
    """Encode text as exactly one path segment, whatever is in it: ``a/b`` → ``a%2Fb``, ``..`` → ``%2E%2E``."""
    return quote(text, safe="").replace(".", "%2E") if text.strip(".") == "" else quote(text, safe="")
