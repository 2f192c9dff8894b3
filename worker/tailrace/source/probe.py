"""What answers at an address, looked at closely enough to tell upstream from whatever else could be there."""

from __future__ import annotations

import time
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

from tailrace.redaction import excerpt
from tailrace.source.client import Upstream
from tailrace.source.feed import segment

__all__ = ["Answer", "ask_for_run"]

SAID_MAX_CHARS = 200


@dataclass(frozen=True, slots=True)
class Answer:
    """What was answered. ``kind``: the media type, "" for none. ``location``: where a redirect leads. ``said``: the
    beginning of the body. ``ahead_s``: how far the clock of whoever answered is before this machine's; None: it did
    not say its time."""

    status: int
    kind: str
    location: str
    said: str
    ahead_s: float | None

    @property
    def redirects(self) -> bool:
        return 300 <= self.status < 400 and bool(self.location)

    @property
    def is_html(self) -> bool:
        return self.kind in ("text/html", "application/xhtml+xml") or self.said.lstrip().lower().startswith(
            ("<!doctype html", "<html")
        )

    @property
    def is_json(self) -> bool:
        return self.kind == "application/json" or self.kind.endswith("+json")


def ask_for_run(upstream: Upstream, run_id: str) -> Answer:
    """Ask for the feed of a run, and return whatever comes.

    Raises:
        SourceUnavailable, StreamStalled: nothing did.
    """
    asked_at = time.time()
    response, body = upstream.get(f"/realtime/v1/runs/{segment(run_id)}", {"offset": "-1"})
    return Answer(
        response.status_code,
        response.headers.get("content-type", "").partition(";")[0].strip().lower(),
        response.headers.get("location", ""),
        excerpt(body, SAID_MAX_CHARS),
        _ahead_s(response.headers.get("date", ""), asked_at, time.time()),
    )


def _ahead_s(date: str, asked_at: float, answered_at: float) -> float | None:
    """Compare a ``Date`` header, which leaves out parts of a second, with when the question was on its way."""
    try:
        said = parsedate_to_datetime(date).timestamp()
    except (ValueError, TypeError, OverflowError):
        return None
    if said > answered_at:
        return said - answered_at
    return min(0.0, said + 1.0 - asked_at)
