"""The protocol of the run feed: what is asked, what an answer means, whether to ask again. Pure, and the only copy.

Facts (protocol §5): the feed is a log that is read from ``handle`` and ``offset`` on; one answer may be a part of what
there is, so it is asked until it says "up to date", in a header or a message; a 409 says that the log is gone and
begins anew. The handle has two names, and which ones upstream uses depends on a header of the question.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from urllib.parse import quote

from tailrace.errors import MalformedRecord, NotFound, SourceUnavailable
from tailrace.model import RunView
from tailrace.source.answers import elements_of, refuse
from tailrace.wire.feed import FeedRows
from tailrace.wire.run_fields import BadRow

SKIP_COLUMNS = "payload,payloadType,output,outputType,error"  # can be large, and none of our business
ANSWER_MAX_CHARS = 64 * 1_048_576  # of one answer: a run's metadata can change often, and each change is in the log
FEED_PAGES = 50  # a feed that is not up to date after so many answers is broken
BEGINNING = "-1"


class FeedCursor:
    """Where we are in one feed. Ask with `query`, hand each answer to `take`, until it says that this is all.

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

    def take(self, status: int, headers: Mapping[str, str], body: str | None) -> bool:
        """Take an answer in; False when more has to be asked for before the rows are of any use.

        Args:
            headers: in lower case, or found in any.
            body: None when it was too large to be read.

        Raises:
            SourceUnavailable: too large, or not up to date after `FEED_PAGES` answers.
            What `source.answers.refuse` says; MalformedRecord.
        """
        if body is None:
            raise SourceUnavailable(f"{self.name}: the answer is larger than {ANSWER_MAX_CHARS} characters")
        if status == 409:  # must-refetch: drop everything and begin again with the new handle
            self._forget(_handle(headers))
            return self._all(False)
        refuse(status, body, self.name)
        self._rows.feed(elements_of(body, "the run feed"))
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


def _handle(headers: Mapping[str, str]) -> str:
    return headers.get("electric-handle") or headers.get("electric-shape-id") or ""


def segment(text: str) -> str:
    """Encode text as exactly one path segment, whatever is in it: ``a/b`` → ``a%2Fb``, ``..`` → ``%2E%2E``."""
    return quote(text, safe="").replace(".", "%2E") if text.strip(".") == "" else quote(text, safe="")
