"""Times as people give them: ``7d`` ago, or ISO 8601. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from tailrace.errors import BadSettings

_DURATION = re.compile(r"(\d+)\s*([smhdw])")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str, now: datetime | None = None) -> datetime:
    """Read a time: ``7d`` is seven days ago, anything else ISO 8601 (UTC when it names no zone).

    Raises:
        BadSettings: neither.
    """
    match = _DURATION.fullmatch(text.strip())
    if match:
        try:
            return (now or datetime.now(UTC)) - timedelta(**{_UNITS[match[2]]: int(match[1])})
        except OverflowError:
            raise BadSettings(f"{text!r} is too long ago.") from None
    try:
        read = datetime.fromisoformat(text.strip())
    except ValueError:
        raise BadSettings(f"{text!r} is no time: give 7d, 12h, 30m or 2026-11-01T12:00:00Z.") from None
    return read if read.tzinfo else read.replace(tzinfo=UTC)
