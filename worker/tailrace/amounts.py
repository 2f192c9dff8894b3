"""Numbers for people, in five characters. Pure."""

from __future__ import annotations


def count(number: int) -> str:
    """``941``, ``12.3k``, ``1.2M``."""
    amount = float(number)
    if number < 10_000:
        return str(number)
    for unit in ("k", "M", "G"):
        amount /= 1000
        if amount < 999.5:
            return f"{amount:.1f}{unit}" if amount < 99.95 else f"{amount:.0f}{unit}"
    return f"{amount / 1000:.0f}T"


def span(seconds: float | None) -> str:
    """``45s``, ``12m``, ``3h``, ``5d``; nothing when it is not known."""
    if seconds is None:
        return ""
    for limit, length, unit in ((119.5, 1, "s"), (7_170, 60, "m"), (171_000, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds / 86_400:.0f}d"


def rate(per_s: float | None) -> str:
    """``0``, ``1.2/s``, ``12/s``, ``1.2k/s``."""
    if per_s is None:
        return ""
    if per_s == 0:
        return "0"
    if per_s < 9.95:
        return f"{max(per_s, 0.1):.1f}/s"
    return f"{count(round(per_s))}/s" if per_s < 999.5 else f"{per_s / 1000:.1f}k/s"


def lag(records: int | None, seconds: float | None) -> str:
    """``0``, ``145/45s``; nothing when it is not known."""
    if records is None:
        return ""
    return f"{count(records)}/{span(seconds)}" if records and seconds is not None else count(records)
