"""What upstream sent, in the form in which it can be stored. Pure."""

from __future__ import annotations

TOO_LARGE = "too_large"
"""Why something is in quarantine by its head only."""
MAX_INT8 = (1 << 63) - 1


def as_sent(text: str) -> bytes:
    """Return the very bytes that upstream sent: what was not UTF-8 came through as surrogates (see `source.body`)."""
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that stood in v2's JSON as an escape
        return text.encode("utf-8", "surrogatepass")


def storable(emitted_ms: list[int]) -> list[int]:
    """Bring times that are none into what 64 bits hold: upstream's own are larger by a bit."""
    if emitted_ms and (max(emitted_ms) > MAX_INT8 or min(emitted_ms) < 0):
        return [min(max(ms, 0), MAX_INT8) for ms in emitted_ms]
    return emitted_ms
