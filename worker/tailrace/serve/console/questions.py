"""What a page is asked for in its address: every state of it can be sent as a link. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final

from tailrace.store.search import Wanted

__all__ = ["FIELDS", "BadQuestion", "moment", "number", "wanted"]

LONGEST: Final = 500
LARGEST: Final = 9_223_372_036_854_775_807
FIELDS: Final = ("q", "tag", "task", "status", "verdict", "since", "until", "environment")
"""What runs can be looked for by; ``q``: an id, else words of the text."""
SPANS: Final = {"h": 3_600, "d": 86_400, "m": 60}
RUN_PREFIX: Final = "run_"


class BadQuestion(Exception):
    """Something in the address can't be meant; the message says what."""


def wanted(asked: Mapping[str, str], environment: str | None, now: datetime) -> Wanted:
    """Return which runs are looked for. ``environment``: the only one that may be seen; None: any.

    Raises:
        BadQuestion: a value can't be meant.
    """
    given = {name: _text(name, asked.get(name, "")) for name in FIELDS}
    words = given["q"]
    is_id = words is not None and words.startswith(RUN_PREFIX) and " " not in words
    return Wanted(
        environment=environment if environment is not None else given["environment"],
        run_id=words if is_id else None,
        text=None if is_id else words,
        tag=given["tag"],
        task=given["task"],
        status=given["status"],
        verdict=given["verdict"],
        since=moment("since", given["since"], now),
        until=moment("until", given["until"], now),
        before=number("before", asked.get("before", ""), None),
    )


def number(name: str, given: str, default: int | None) -> int | None:
    """Read an index, or a place.

    Raises:
        BadQuestion: it is none.
    """
    if not given:
        return default
    if not (given.isascii() and given.isdigit()) or len(given) > 19 or int(given) > LARGEST:
        raise BadQuestion(f"{name} must be a number")
    return int(given)


def moment(name: str, given: str | None, now: datetime) -> datetime | None:
    """Read a moment: ``2026-11-28``, ``2026-11-28 14:30``, or how long ago: ``30m``, ``2h``, ``7d``. Without a zone it
    is UTC.

    Raises:
        BadQuestion: it is none.
    """
    if given is None:
        return None
    digits, unit = given[:-1], given[-1]
    if unit in SPANS and digits.isascii() and digits.isdigit() and len(digits) <= 6:
        try:
            return now - timedelta(seconds=int(digits) * SPANS[unit])
        except OverflowError:
            raise BadQuestion(f"{name} is too long ago") from None
    try:
        found = datetime.fromisoformat(given)
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        raise BadQuestion(f"{name} must be like 2026-11-28, 2026-11-28 14:30, or 2h, 7d for how long ago") from None
    if not 2000 <= found.year <= 2200:
        raise BadQuestion(f"{name} must be in this century or the next")
    return found


def _text(name: str, given: str) -> str | None:
    if len(given) > LONGEST or "\0" in given:
        raise BadQuestion(f"{name} is too long" if len(given) > LONGEST else f"{name} holds a NUL")
    return given.strip() or None
