"""Which trace a request belongs to, as W3C Trace Context writes it. Pure, and OpenTelemetry is never imported here.

Only ``traceparent`` is carried: ``tracestate`` is a vendor's own and may be left out.
Source: https://www.w3.org/TR/trace-context/, "traceparent header".
"""

from __future__ import annotations

import re
import sys
from hashlib import sha256
from typing import Final, NamedTuple

__all__ = ["HEADER", "Context", "current", "parsed"]

HEADER: Final = "traceparent"
_SHAPE: Final = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})")
"""Version 00, the only one there is. The same rule as ``tailrace.is_traceparent`` in SQL."""
SAMPLED: Final = 1


class Context(NamedTuple):
    """A span, from outside: its trace, its own number in it, and whether the trace is kept."""

    trace_id: int
    span_id: int
    sampled: bool

    def __str__(self) -> str:
        return f"00-{self.trace_id:032x}-{self.span_id:016x}-{int(self.sampled):02x}"

    def of_lease(self, stream_id: int, token: int) -> Context:
        """Return the span of a lease in this trace.

        Its number follows from the stream and the token, so whoever reads the stream next can link to it, although
        nothing is kept of it and its worker may have died.
        """
        number = sha256(f"{self.trace_id:032x} {stream_id} {token}".encode()).digest()[:8]
        return self._replace(span_id=int.from_bytes(number, "big") or 1)


def parsed(given: object) -> Context | None:
    """Return what a traceparent says; None for whatever is none, which anybody may have sent."""
    found = _SHAPE.fullmatch(given) if isinstance(given, str) else None
    if found is None:
        return None
    trace_id, span_id, flags = (int(part, 16) for part in found.groups())
    return Context(trace_id, span_id, bool(flags & SAMPLED))


def current() -> str | None:
    """Return the traceparent of the span that the caller is in; None: in none.

    Who never imported OpenTelemetry can't be in one, and need not have it.
    """
    trace = sys.modules.get("opentelemetry.trace")
    if trace is None:
        return None
    found = trace.get_current_span().get_span_context()
    if not found.is_valid:
        return None
    return str(Context(found.trace_id, found.span_id, bool(found.trace_flags & SAMPLED)))
