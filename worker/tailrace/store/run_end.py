"""When a run is over, in SQL: the one place of the rule, for statements with ``r`` a run and ``s`` a stream of it."""

from __future__ import annotations

# A run is over when its status is terminal and upstream has confirmed the end by giving its time. A cancelled run gets
# its status before its worker has stopped; a status without a time is believed after ten minutes (protocol §3).
OVER = "(r.terminal_at IS NOT NULL AND (r.finished_at IS NOT NULL OR r.terminal_at < now() - interval '10 minutes'))"

# The columns of a `model.RunEnd`: is the run over, for how long, and how long ago a final sweep ended at the present
# checkpoint (null: none did).
RUN_END = f"""
{OVER} AS over,
coalesce(extract(epoch FROM now() - coalesce(r.finished_at, r.terminal_at)), 0)::float8 AS over_for_s,
CASE WHEN s.swept_index = s.last_chunk_index THEN extract(epoch FROM now() - s.swept_at)::float8 END AS swept_for_s
"""
