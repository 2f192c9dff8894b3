"""What `tailrace status` says, as lines: the fleet in one, then one for each run or stream. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from tailrace.amounts import count, lag, rate, span
from tailrace.cli.columns import GAP, Column, Cut, Fitted, cells, fitted
from tailrace.cli.output import shown

if TYPE_CHECKING:
    from tailrace.store.overview import Fleet, RunProgress, StreamProgress

VERDICTS = {"complete_with_gaps": "gaps", "possibly_truncated": "truncated"}
"""Shorter words, where there is little room."""
APART = " · "
NAMES = frozenset({"run", "stream"})
"""Headings of what one asks with: needed in full."""

ENVIRONMENT = Column("environment", Cut.MIDDLE, least=11)
NUMBERS = (
    Column("chunks", right=True),
    Column("rate", right=True),
    Column("lag", right=True),
    Column("last", right=True),
)
NOTE = Column("worker, last error", Cut.END, least=18)
RUNS = (Column("run", Cut.MIDDLE), Column("verdict"), *NUMBERS, NOTE)
STREAMS = (Column("stream", Cut.MIDDLE), Column("state"), *NUMBERS, NOTE)


def fleet_lines(fleet: Fleet, width: int, failed_counted: int) -> list[str]:
    """Say how the fleet is: in one line, or in as many as it takes when nearly everything is wrong at once."""
    if fleet.workers:
        workers = f"{fleet.workers} worker{'s' if fleet.workers > 1 else ''}, beat {span(fleet.beat_s)}"
    elif fleet.beat_s is not None:
        workers = f"NO WORKER for {span(fleet.beat_s)}"
    else:
        workers = "NO WORKER"
    said = [workers]
    if fleet.lost_workers and fleet.workers:
        said.append(f"{fleet.lost_workers} lost")
    said.append(f"slots {count(fleet.reading)}/{count(fleet.slots)}" if fleet.workers else "")
    states = ((fleet.pending, "pending"), (fleet.active, "active"), (fleet.parked, "parked"))
    open_ = ", ".join(f"{count(number)} {word}" for number, word in states if number)
    said.append(open_ or "no open stream")
    said.append(f"lag {lag(fleet.lag, fleet.lag_s) or 'unknown'}" if open_ else "")
    said.append(f"{count(fleet.stuck)} STUCK" if fleet.stuck else "")
    said.append(f"{fleet.halted} HALTED" if fleet.halted else "")
    failed = ((fleet.failed_runs, "run"), (fleet.failed_streams, "stream"))
    words = [
        f"{number}{'+' if number >= failed_counted else ''} {word}{'s' if number > 1 else ''}"
        for number, word in failed
        if number
    ]
    said.append(f"failed: {', '.join(words)}" if words else "")
    lines = [""]
    for part in filter(None, said):
        longer = f"{lines[-1]}{APART}{part}" if lines[-1] else part
        if lines[-1] and cells(longer) > width:
            lines.append(f"{GAP}{part}")
        else:
            lines[-1] = longer
    return lines


def runs_lines(runs: Sequence[RunProgress], width: int) -> Fitted:
    """Say how each run goes."""
    several = len({run.environment for run in runs}) > 1
    rows = [[*([shown(run.environment)] if several else []), shown(run.run_id), *_of_run(run)] for run in runs]
    return fitted((ENVIRONMENT, *RUNS) if several else RUNS, rows, width)


def streams_lines(streams: Sequence[StreamProgress], width: int) -> Fitted:
    """Say how each stream of a run goes."""
    rows = [[shown(each.stream_key), *_of_stream(each)] for each in streams]
    return fitted(STREAMS, rows, width)


def run_note(run: RunProgress) -> str:
    """Say who reads a run's streams, and what is wrong with it."""
    readers = f"{len(run.workers)} workers" if len(run.workers) > 1 else "".join(run.workers)
    failed = f"{run.failed_streams} failed" if run.failed_streams else ""
    return _note(_stuck(run.stuck_s), readers, failed, *_losses(run.gaps, run.quarantined), run.last_error)


def stream_note(stream: StreamProgress) -> str:
    """Say who reads a stream, and what is wrong with it."""
    waits = stream.state in ("pending", "parked") and not stream.worker
    next_ = f"next {span(stream.next_attempt_s)}" if waits and stream.next_attempt_s >= 1 else ""
    attempt = f"attempt {stream.attempt}" if stream.attempt else ""
    losses = _losses(stream.gaps, stream.quarantined)
    return _note(_stuck(stream.stuck_s), stream.worker, next_, *losses, attempt, stream.last_error)


def _of_run(run: RunProgress) -> list[str]:
    verdict = VERDICTS.get(run.verdict, run.verdict)
    if run.state in ("requested", "cancelled"):
        verdict = run.state
    elif verdict == "open":
        verdict = f"open {run.sealed_streams}/{run.streams}"
    numbers = (count(run.chunks), rate(run.chunks_per_s), lag(run.lag, run.lag_s), span(run.last_chunk_s))
    return [verdict, *numbers, run_note(run)]


def _of_stream(each: StreamProgress) -> list[str]:
    state = VERDICTS.get(each.verdict, each.verdict) if each.state == "sealed" else each.state
    behind = lag(each.lag, each.lag_s) if each.chunks_per_s is not None else ""  # of one that is over, it means nothing
    return [state, count(each.chunks), rate(each.chunks_per_s), behind, span(each.last_chunk_s), stream_note(each)]


def _stuck(seconds: float | None) -> str:
    return "" if seconds is None else f"STUCK {span(seconds)}"


def _losses(gaps: int, quarantined: int) -> tuple[str, str]:
    return (
        f"{gaps} gap{'s' if gaps > 1 else ''}" if gaps else "",
        f"{quarantined} quarantined" if quarantined else "",
    )


def _note(*parts: str | None) -> str:
    return APART.join(shown(part) for part in parts if part)
