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

# With :quiet_s, from when on the keys of a run are read for the last time (null: it has not ended): a quiet period
# after its end was first seen; ten minutes where upstream does not confirm the end, see above. A run that had ended an
# hour before it was first looked at needs none of its own: no key can be opened after the end, and an hour is more than
# two clocks differ by, and than anything between holds an answer back (protocol §3, §5).
SETTLES_AT = """(CASE
    WHEN r.finished_at IS NULL THEN r.terminal_at + greatest(:quiet_s * interval '1 second', interval '10 minutes')
    WHEN r.finished_at < r.terminal_at - interval '1 hour' THEN r.finished_at + :quiet_s * interval '1 second'
    ELSE r.terminal_at + :quiet_s * interval '1 second' END)"""
