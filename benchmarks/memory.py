"""What a worker's memory is under hostile loads: ``python -m benchmarks.memory [LOAD ...]``. Some minutes for all four.

Each load has a worker and an archive
of its own; the peak is the kernel's (``VmHWM``), told as MiB above what the worker had with nothing to read.
The last line of output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial

import psycopg

from benchmarks.scenarios.live import request_all
from benchmarks.stage import Failed, Stage, stage
from benchmarks.usage import memory_mb
from tests.upstream.hostile import Response, hostile

MIB = 1_048_576
BUFFER_BYTES = 16 * MIB
BLOCK = b"x" * 1_000_000
WIDE = "😀".encode() * 250_000
SETTLE_S = 2.0
"""Until a started worker has opened its connections and looked at its runs once: that is what is compared with."""


@dataclass
class Sent:
    """How far upstream is. ``go``: the part that hurts may begin; ``done``: the runs that have sent all of it."""

    go: threading.Event = field(default_factory=threading.Event)
    done: set[int] = field(default_factory=set)


# --- the loads


def unfinished(sent: Sent, response: Response, run: int) -> None:
    """A line of 15 MB that never ends."""
    _endless(sent, response, run, BLOCK, 15)


def wide(sent: Sent, response: Response, run: int) -> None:
    """A line of 15 million four-byte characters that never ends."""
    _endless(sent, response, run, WIDE, 60)


def _endless(sent: Sent, response: Response, run: int, block: bytes, times: int) -> None:
    response.begin(0)
    response.write(b'"')
    for _ in range(times):
        response.write(block)
    sent.done.add(run)
    response.drip(response.ended)


def stalled(sent: Sent, response: Response, run: int) -> None:
    """Events of 15.9 MB, one after the other, as soon as the database stalls."""
    response.event(0, b"0")
    response.ping()
    sent.go.wait()
    for number in range(1, 4):
        response.begin(number)
        for block in (b'"', *[BLOCK] * 15, BLOCK[:900_000], b'"\n\n'):
            response.write(block)
    sent.done.add(run)
    response.drip(response.ended)


def largest(sent: Sent, response: Response, run: int) -> None:
    """Small chunks all the time; the first run has one of 15.9 MB."""
    response.event(0, b"0")
    response.ping()
    sent.go.wait()
    if run == 0:
        response.event(1, b'"' + 15 * BLOCK + BLOCK[:900_000] + b'"')
        response.ping()
    number = 1
    while not response.ended.wait(0.02):
        number += 1
        response.event(number, b"[%d]" % number)


LOADS: dict[str, tuple[Callable[[Sent, Response, int], None], int]] = {
    "unfinished": (unfinished, 40),
    "wide": (wide, 20),
    "stalled": (stalled, 200),
    "largest": (largest, 51),
}


def measure(ready: Stage, name: str) -> dict[str, float]:
    """Return the worker's peak under one load in MiB above its start, and for `largest` how long the chunk took."""
    write, count = LOADS[name]
    sent, runs = Sent(), [f"run_{name}_{number:03d}" for number in range(count)]
    settings = {
        "TAILRACE_BUFFER_MAX_BYTES": str(BUFFER_BYTES if name != "largest" else 8 * MIB),
        "TAILRACE_STREAM_BUFFER_MAX_BYTES": str(MIB),
        "TAILRACE_DRAIN_SECONDS": "2",
    }
    with (
        hostile(runs, partial(write, sent)) as upstream,
        ready.worker(upstream, slots=count + 20, **settings) as worker,
    ):
        time.sleep(SETTLE_S)
        before = memory_mb(worker.pid, "VmRSS")
        request_all(ready, runs)
        found: dict[str, float] = {}
        if name in ("unfinished", "wide"):
            sent.go.set()
            _pass(worker.pid, 40, lambda: len(sent.done) == count)
        else:
            ready.wait(
                lambda: ready.database.value("SELECT count(*) FROM tailrace.streams WHERE chunk_count > 0") == count,
                120,
                "the first chunk of each stream",
            )
            before = memory_mb(worker.pid, "VmRSS")
        if name == "stalled":
            with psycopg.connect(ready.database.url) as holder:
                holder.execute("LOCK TABLE tailrace.streams IN EXCLUSIVE MODE")
                sent.go.set()
                _pass(worker.pid, 12, lambda: False)
                found["at_stall_mib"] = round(memory_mb(worker.pid, "VmHWM") - before)
            _pass(worker.pid, 30, lambda: len(sent.done) == count)
            found["large_chunks_stored"] = (
                int(ready.database.value("SELECT sum(chunk_count) FROM tailrace.streams_now")) - count
            )
        if name == "largest":
            sent.go.set()
            began = time.monotonic()
            try:
                ready.wait(
                    lambda: ready.database.value("SELECT max(byte_count) > 15e6 FROM tailrace.streams_now"), 60, "it"
                )
                found["stored_after_s"] = round(time.monotonic() - began, 2)
            except Failed:
                found["stored_after_s"] = float("inf")
            live = ready.database.value("SELECT min(chunk_count) FROM tailrace.streams_now WHERE byte_count < 15e6")
            found["least_chunks_of_others"] = live
        peak = memory_mb(worker.pid, "VmHWM") - before
        return {"before_mib": round(before), "above_mib": round(peak), "sent_whole": len(sent.done), **found}


def _pass(pid: int, seconds: float, over: Callable[[], bool]) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until and not over():
        if not memory_mb(pid):
            raise Failed("the worker is gone")
        time.sleep(0.1)


def main(arguments: Sequence[str]) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.memory", description="Memory under hostile loads.")
    parser.add_argument("loads", nargs="*", metavar="LOAD", help=f"of {', '.join(LOADS)}; all when none is named")
    chosen = parser.parse_args(arguments).loads or list(LOADS)
    found = {}
    with stage() as ready:
        for name in chosen:
            found[name] = measure(ready, name)
            print(f"{name:12s} {found[name]}", flush=True)
            ready.clear()
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
