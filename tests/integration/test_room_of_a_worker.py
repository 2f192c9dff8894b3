"""Many large lines that do not end: a real worker's memory stays within its bound, others go on, and all are stored."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.chaos.fleet import QUICK, Worker, fleet, wait_for
from tests.upstream.hostile import Response, hostile

MIB = 1 << 20
LINES = 30
LINE_BLOCKS = 4
BLOCK = b"x" * 1_000_000
BUFFER_BYTES = 4 * MIB
BOUND_BYTES = 100 * MIB
"""More than before: the buffer, copies of one line, and what 31 readers and their threads have of their own. The lines
together are 120 MB, and their copies as much again."""


def peak_bytes(worker: Worker) -> int:
    """The most that it ever had in memory."""
    for line in Path(f"/proc/{worker.pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmHWM")


class Lines:
    """Run 0 is live: small chunks without end. Each other run is one line, whose end comes when ``finish`` is set."""

    def __init__(self) -> None:
        self.finish = threading.Event()
        self.sent = 0

    def write(self, response: Response, run: int) -> None:
        if run == 0:
            number = 0
            while not response.ended.wait(0.02):
                number += 1
                response.event(number, b"%d" % number)
            return
        response.begin(1)
        response.write(b'"')
        for _ in range(LINE_BLOCKS):
            response.write(BLOCK)
            self.sent += 1
        response.drip(self.finish)
        response.write(b'"\n\n')
        response.ping()
        response.ended.wait()


@pytest.mark.timeout(240)
@pytest.mark.parametrize("pool", ["gevent", "threads"])
def test_lines_without_end_do_not_fill_the_memory_nor_hold_up_others(
    pool: str, tmp_path: Path, database_url: str, redis_url: str
) -> None:
    runs = [f"run_{number}" for number in range(LINES + 1)]
    lines = Lines()
    settings = QUICK | {
        "TAILRACE_BUFFER_MAX_BYTES": str(BUFFER_BYTES),
        "TAILRACE_STREAM_BUFFER_MAX_BYTES": str(MIB),
        "TAILRACE_LEASE_SECONDS": "15",
    }
    with (
        hostile(runs, lines.write) as upstream,
        fleet(tmp_path / "workers", database_url, redis_url, upstream.url, **settings) as workers,
    ):
        archive = workers.archive
        worker = workers.started(pool, LINES + 10)
        archive.request(runs[0])
        live = (
            "SELECT coalesce(max(chunk_count), 0) FROM tailrace.streams_now s JOIN tailrace.runs r ON r.id = s.run"
            " WHERE r.run_id = 'run_0'"
        )
        wait_for(lambda: archive.value(live) > 0, 30)
        before = peak_bytes(worker)
        for run in runs[1:]:
            archive.request(run)
        wait_for(lambda: lines.sent >= LINE_BLOCKS, 60, "one line is let over")
        reached = archive.value(live)
        wait_for(lambda: archive.value(live) >= reached + 50, 60, "others go on")
        lines.finish.set()
        whole = "SELECT count(*) FROM tailrace.streams_now WHERE byte_count > 4000000"
        wait_for(lambda: archive.value(whole) == LINES, 90, "every line is stored")
        peak = peak_bytes(worker)
        print(f"{pool}: {before >> 20} MiB before, {(peak - before) >> 20} MiB more at most")
        assert peak - before < BOUND_BYTES
        assert archive.value("SELECT max(chunk_count) FROM tailrace.streams_now WHERE byte_count > 4000000") == 1
        assert archive.value("SELECT count(*) FROM tailrace.quarantine") == 0
