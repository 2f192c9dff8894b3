"""What a clean end means: nothing by itself."""

from __future__ import annotations

import pytest

from tailrace.ingest.ending import UNANCHORED, UNANCHORED_SWEEPS, Claim, Clean, after_clean_end, claim_of
from tailrace.model import Doubt, Outcome, RunEnd, StreamState, Verdict

LIVE = RunEnd(over=False)
PARKED, SEALED = StreamState.PARKED, StreamState.SEALED


def over(swept_for_s: float | None = None) -> RunEnd:
    return RunEnd(over=True, over_for_s=100.0, swept_for_s=swept_for_s)


def clean(**fields: object) -> Clean:
    return Clean(**{"sweep": False, "brought": False, "silent_s": 0.0, **fields})  # type: ignore[arg-type]


@pytest.mark.trap(12)
@pytest.mark.trap(16)
@pytest.mark.parametrize(
    ("end", "run_end", "outcome"),
    [
        # The run goes on: so do we, or look again later.
        (clean(), LIVE, None),
        (clean(brought=True), LIVE, None),
        (clean(silent_s=299.9), LIVE, None),
        (clean(silent_s=300.0), LIVE, Outcome(PARKED, delay_s=10.0)),
        # The run is over, but was not when this connection was opened.
        (clean(), over(), None),
        (clean(silent_s=900.0), over(1_000.0), None),
        # A sweep.
        (clean(sweep=True), over(), Outcome(PARKED, delay_s=60.0, swept=True)),
        (clean(sweep=True, brought=True), over(1_000.0), Outcome(PARKED, delay_s=60.0, swept=True)),
        (clean(sweep=True), over(20.0), Outcome(PARKED, delay_s=40.0)),
        (clean(sweep=True), over(60.0), Outcome(SEALED, verdict=Verdict.COMPLETE)),
        # A run that was over and is not any more: nothing is swept.
        (clean(sweep=True), LIVE, None),
        # Nobody can be writing any more: the next sweep follows at once, and is the last when it brings nothing.
        (clean(sweep=True, brought=True, unwritten=True), over(), None),
        (clean(sweep=True, unwritten=True), over(), Outcome(SEALED, verdict=Verdict.COMPLETE)),
        (clean(unwritten=True), over(), None),
        (
            clean(sweep=True, anchored=False, unwritten=True),
            over(60.0),
            Outcome(PARKED, delay_s=60.0, attempt=1, error=UNANCHORED),
        ),
        # A sweep that ended before it came to what we hold.
        (clean(sweep=True, anchored=False), over(60.0), Outcome(PARKED, delay_s=60.0, attempt=1, error=UNANCHORED)),
        (
            clean(sweep=True, anchored=False, attempt=UNANCHORED_SWEEPS),
            over(),
            Outcome(PARKED, delay_s=60.0, swept=True),
        ),
        (
            clean(sweep=True, anchored=False, attempt=UNANCHORED_SWEEPS),
            over(60.0),
            Outcome(SEALED, verdict=Verdict.COMPLETE),
        ),
    ],
)
def test_how_a_stream_is_left(end: Clean, run_end: RunEnd, outcome: Outcome | None) -> None:
    assert after_clean_end(end, run_end, Claim(Verdict.COMPLETE), 60.0, 300.0, 10.0) == outcome


@pytest.mark.parametrize(
    ("lost", "unsure", "anchored", "claim"),
    [
        (False, None, True, Claim(Verdict.COMPLETE)),
        (False, Doubt.BACKLOG, True, Claim(Verdict.POSSIBLY_TRUNCATED, Doubt.BACKLOG)),
        (True, None, True, Claim(Verdict.COMPLETE_WITH_GAPS)),
        (True, Doubt.OLD, True, Claim(Verdict.COMPLETE_WITH_GAPS, Doubt.OLD)),
        (False, None, False, Claim(Verdict.POSSIBLY_TRUNCATED, Doubt.UNCONFIRMED)),
        (True, None, False, Claim(Verdict.POSSIBLY_TRUNCATED, Doubt.UNCONFIRMED)),
        (True, Doubt.OLD, False, Claim(Verdict.POSSIBLY_TRUNCATED, Doubt.UNCONFIRMED)),
    ],
)
def test_the_verdict_claims_no_more_than_is_proven(
    lost: bool, unsure: Doubt | None, anchored: bool, claim: Claim
) -> None:
    assert claim_of(lost=lost, unsure=unsure, anchored=anchored) == claim


def test_a_sealed_stream_keeps_why_it_may_be_truncated() -> None:
    claim = Claim(Verdict.POSSIBLY_TRUNCATED, Doubt.BACKLOG)
    for end in (clean(sweep=True), clean(sweep=True, unwritten=True)):
        assert after_clean_end(end, over(60.0), claim, 60.0, 300.0, 10.0) == Outcome(
            SEALED, verdict=claim.verdict, doubt=claim.doubt
        )
