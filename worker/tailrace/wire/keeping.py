"""How long upstream keeps a stream: facts of the wire, not settings of ours."""

from __future__ import annotations

from typing import Final

from tailrace.model import Wire

KEPT_S: Final = {Wire.V1: 86_400.0, Wire.V2: 7 * 86_400.0}
"""Seconds after its last record. v1: ``REALTIME_STREAM_TTL`` (protocol §1.5). v2: what the bundled S2 keeps (trap 21);
the cloud's plans keep a day more or some weeks."""
V1_FORGETTING_S: Final = KEPT_S[Wire.V1] - 3_600.0
"""A v1 stream is not looked at any more so long after its end: upstream is about to forget it."""
