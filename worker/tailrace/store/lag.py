"""For how long a stream has been behind upstream's tail, in SQL: one meaning for who watches and who is alarmed."""

from __future__ import annotations

from typing import Final

__all__ = ["LAG_S", "RECENT_S", "ago_s"]

RECENT_S: Final = 60.0
"""A rate is that of the last minute, or of as much of it as a hundred segments hold."""


def ago_s(moment: str) -> str:
    """Return, in SQL, how long ago a moment was: not less than 0, whoever's clock it is by, and null for null."""
    return f"(CASE WHEN {moment} > now() THEN 0 ELSE extract(epoch FROM now() - {moment}) END)::float8"


_NEWEST: Final = "coalesce(p.emitted_at, s.last_chunk_at, s.created_at)"
LAG_S: Final = f"(CASE WHEN s.lag = 0 THEN 0 WHEN s.lag > 0 THEN {ago_s(_NEWEST)} END)"
"""Of a stream s of streams_now and p, what was recently stored of it: how long ago the newest chunk that is stored was
written; of one that holds nothing, how long it has been known. What is missing is younger."""
