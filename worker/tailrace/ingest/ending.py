"""What a clean end of a connection means for the stream. Pure.

A closed response means "nothing new for a while" and nothing else (protocol §3). Only the run's end, and final sweeps
that bring nothing over a quiet period, prove that a stream is over.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from tailrace.model import Doubt, Outcome, RunEnd, StreamState, Verdict

UNANCHORED_SWEEPS = 3
"""So often a sweep that does not show the newest chunk we hold is made again: something on the way may have ended it.
After that, upstream's copy must be gone."""
UNWRITTEN_AFTER_S = 26 * 3_600.0
"""A run that has been over for so long: nobody writes to its v2 streams any more. A writer's token is good for a day,
and no other is given once the run has ended (protocol §3); two hours are more than two clocks differ by."""
UNANCHORED = "the sweep ended before the newest chunk that we hold came back"


@dataclass(frozen=True, slots=True)
class Clean:
    """What is known at a clean end.

    ``sweep``: the run was already over when the connection was opened, with the shortest wait. ``brought``: it brought
    something that was not held. ``silent_s``: how long nothing new has come, over all connections. ``anchored``: it
    showed that what is held is up to where upstream is. ``attempt``: how many times in a row something went wrong.
    ``unwritten``: something is held, and nobody can be writing any more.
    """

    sweep: bool
    brought: bool
    silent_s: float
    anchored: bool = True
    attempt: int = 0
    unwritten: bool = False


class Claim(NamedTuple):
    """What the archive can claim about a stream, and why nobody can say that all else is there; None: it is."""

    verdict: Verdict
    doubt: Doubt | None = None


def after_clean_end(
    end: Clean, run_end: RunEnd, claim: Claim, quiet_s: float, park_after_s: float, park_s: float
) -> Outcome | None:
    """Return how to leave the stream, or None to connect again at once."""
    if not run_end.over:
        return Outcome(StreamState.PARKED, delay_s=park_s) if end.silent_s >= park_after_s else None
    if not end.sweep:
        return None
    if not end.anchored and end.attempt < UNANCHORED_SWEEPS:
        return Outcome(StreamState.PARKED, delay_s=quiet_s, attempt=end.attempt + 1, error=UNANCHORED)
    if end.anchored and end.unwritten:  # what this one brought, the next must confirm; there is nothing to wait for
        return None if end.brought else _sealed(claim)
    if end.brought or run_end.swept_for_s is None:
        return Outcome(StreamState.PARKED, delay_s=quiet_s, swept=True)
    if run_end.swept_for_s < quiet_s:
        return Outcome(StreamState.PARKED, delay_s=quiet_s - run_end.swept_for_s)
    return _sealed(claim)


def _sealed(claim: Claim) -> Outcome:
    return Outcome(StreamState.SEALED, verdict=claim.verdict, doubt=claim.doubt)


def claim_of(*, lost: bool, unsure: Doubt | None, anchored: bool) -> Claim:
    """Return what the archive can claim about a stream that is being sealed.

    ``anchored``: what is held is up to where upstream is. If it is not, that some loss is known does not make it all
    that is lost: the stream may have been made anew since.
    """
    if not anchored:
        return Claim(Verdict.POSSIBLY_TRUNCATED, Doubt.UNCONFIRMED)
    if lost:
        return Claim(Verdict.COMPLETE_WITH_GAPS, unsure)
    return Claim(Verdict.COMPLETE if unsure is None else Verdict.POSSIBLY_TRUNCATED, unsure)
