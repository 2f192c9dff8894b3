"""Follow a feed of runs: what upstream says of one run or of many, asked again and again, or held until it changes.

`FeedCursor` is the protocol of these feeds (protocol §5), and pure. `RunFeed` follows one run's,
`source.aio.AsyncRunFeed` does so without blocking; `client.Upstream.run` and `listing.ManyRunsFeed` ask by it too.
"""

from __future__ import annotations

from collections.abc import Mapping

import httpx

from tailrace.errors import NotFound, SourceUnavailable
from tailrace.model import RunView
from tailrace.source.answers import ANSWER_MAX_CHARS, json_of, refuse, segment, translated
from tailrace.source.body import read_text
from tailrace.source.interrupt import Interruptible
from tailrace.wire.feed import FeedRows

SKIP_COLUMNS = "payload,payloadType,output,outputType,error"  # can be large, and none of our business
FEED_PAGES = 50  # a feed that is not up to date after so many answers is broken


class FeedCursor:
    """Where we are in a feed.

    The first question asks for everything, the next ones only for what changed: an answer to the first may come from a
    cache and be minutes old.
    """

    def __init__(self, path: str, name: str, **asked: str) -> None:
        """``name``: what to call it in errors. ``asked``: parameters of every question."""
        self.path = path
        self.name = name
        self._asked = {"skipColumns": SKIP_COLUMNS, **asked}
        self._rows = FeedRows()
        self._handle = ""
        self._offset = "-1"
        self._cursor = ""

    @property
    def begun(self) -> bool:
        """Upstream can tell us what changes from here on."""
        return bool(self._handle) and self._offset != "-1"

    def query(self, *, live: bool = False) -> dict[str, str]:
        """Return the query to send. ``live``: the answer may be held until something changes; not the first one."""
        query = {"offset": self._offset, **self._asked}
        if self._handle:
            query["handle"] = self._handle
        if live and self.begun:
            query["live"] = "true"
            if self._cursor:
                query["cursor"] = self._cursor
        return query

    def take(self, status: int, headers: Mapping[str, str], body: str | None) -> bool:
        """Take an answer in; False when more has to be asked for before `runs` is of any use.

        ``body`` None: it was too large to be read.

        Raises:
            What `answers.refuse` says; MalformedRecord.
        """
        if body is None:
            raise SourceUnavailable(f"{self.name}: the answer is larger than {ANSWER_MAX_CHARS} characters")
        if status == 409:  # must-refetch: drop everything and begin again with the new handle
            self._rows = FeedRows()
            self._handle, self._offset, self._cursor = headers.get("electric-handle", ""), "-1", ""
            return False
        refuse(status, body, self.name)
        self._rows.feed(json_of(body, self.name))
        self._handle = headers.get("electric-handle", "")
        self._offset = headers.get("electric-offset", "-1")
        self._cursor = headers.get("electric-cursor", "")
        return self._rows.up_to_date or "electric-up-to-date" in headers

    def runs(self) -> list[RunView]:
        """Return what is known of every run of the feed."""
        return self._rows.runs()

    def endless(self) -> SourceUnavailable:
        """Return the error of a feed that still has more after `FEED_PAGES` answers: what is missing could matter."""
        return SourceUnavailable(f"{self.name}: its feed is not up to date after {FEED_PAGES} answers")


class RunCursor(FeedCursor):
    """Where we are in the feed of one run."""

    def __init__(self, run_id: str) -> None:
        super().__init__(f"/realtime/v1/runs/{segment(run_id)}", f"run {run_id}")
        self._run_id = run_id

    def view(self) -> RunView:
        """Return what is known of the run.

        Raises:
            NotFound: the feed does not have it.
        """
        runs = [run for run in self.runs() if run.run_id == self._run_id]
        if not runs:
            raise NotFound(f"upstream's feed has no run {self._run_id}")
        return runs[-1]


class RunFeed(Interruptible):
    """The feed of one run. Use it as a context manager, from one thread at a time."""

    def __init__(self, client: httpx.Client, run_id: str) -> None:
        super().__init__()
        self._client = client
        self._cursor = RunCursor(run_id)

    def __enter__(self) -> RunFeed:
        return self

    def __exit__(self, *exc: object) -> None:
        self._client.close()

    def look(self, live: bool) -> RunView:
        """Ask for the run. ``live``: after the first time, upstream holds the answer until it changes (about 20 s).

        Raises:
            NotFound: upstream does not know the run (yet).
            Unauthorized, RequestRefused, MalformedRecord, SourceUnavailable, StreamStalled.
        """
        cursor = self._cursor
        for _ in range(FEED_PAGES):
            query, extensions = cursor.query(live=live), {"trace": self._trace}
            with (
                translated(cursor.name),
                self._client.stream("GET", cursor.path, params=query, extensions=extensions) as response,
            ):
                body = read_text(response, ANSWER_MAX_CHARS)
            if cursor.take(response.status_code, response.headers, body):
                return cursor.view()
        raise cursor.endless()
