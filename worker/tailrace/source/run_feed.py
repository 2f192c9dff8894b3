"""Follow the feed of one run: asked again and again, or held until it changes."""

from __future__ import annotations

import httpx

from tailrace.model import RunView
from tailrace.source.answers import translated
from tailrace.source.asking import asked
from tailrace.source.client import Interruptible
from tailrace.source.feed import FeedCursor


class RunFeed(Interruptible):
    """The feed of one run. Use it as a context manager, from one thread at a time."""

    def __init__(self, client: httpx.Client, run_id: str) -> None:
        super().__init__()
        self._client = client
        self._run_id = run_id
        self._cursor = FeedCursor.of_run(run_id)

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
        while True:
            query, extensions = cursor.query(live), {"trace": self._trace}
            with (
                translated(cursor.name),
                asked(self._client, cursor.path, params=query, extensions=extensions) as response,
            ):
                up_to_date = cursor.take(response)
            if up_to_date:
                return cursor.run(self._run_id)
