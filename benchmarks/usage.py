"""CPU seconds and peak memory of processes, from /proc (Linux only)."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TICKS = os.sysconf("SC_CLK_TCK")
_EVERY_S = 0.25
_UTIME, _STIME, _CUTIME, _CSTIME = 11, 12, 13, 14  # after the name: proc(5) counts from 1 and the name is its second


def cpu_s(pid: int) -> float:
    """CPU seconds of a process, its living children and those that it has waited for."""
    fields = _stat(pid)
    own = sum(int(fields[at]) for at in (_UTIME, _STIME, _CUTIME, _CSTIME)) / _TICKS if fields else 0.0
    return own + sum(cpu_s(child) for child in children(pid))


def children(pid: int) -> list[int]:
    """The living children of a process."""
    found: list[int] = []
    with suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            found.extend(int(each) for each in (task / "children").read_text().split())
    return found


def memory_mb(pid: int, name: str = "VmRSS") -> float:
    """What a process has in memory now (``VmHWM``: had at most)."""
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) / 1024
    return 0.0


def family_mb(pid: int) -> float:
    """Memory of a process and its children; what they share is counted once, by the one that has most of it."""
    pids = [pid, *children(pid)]
    return sum(memory_mb(each, "RssAnon") for each in pids) + max(
        (memory_mb(each, "RssShmem") + memory_mb(each, "RssFile") for each in pids), default=0.0
    )


def load() -> float:
    """How many processes wanted to run during the last minute, on average."""
    return os.getloadavg()[0]


@dataclass(slots=True)
class Used:
    """What some processes used between two moments, by their name."""

    cpu_s: dict[str, float] = field(default_factory=dict)
    peak_mb: dict[str, float] = field(default_factory=dict)

    def add(self, cpu_s: dict[str, float], peak_mb: dict[str, float]) -> None:
        """Add what was used in another time: CPU seconds are added up, of peaks the higher counts."""
        for name, seconds in cpu_s.items():
            self.cpu_s[name] = self.cpu_s.get(name, 0.0) + seconds
            self.peak_mb[name] = max(self.peak_mb.get(name, 0.0), peak_mb.get(name, 0.0))

    def as_json(self) -> dict[str, Any]:
        return {
            name: {"cpu_s": round(self.cpu_s[name], 3), "peak_mb": round(self.peak_mb.get(name, 0.0), 1)}
            for name in self.cpu_s
        }


@contextmanager
def measured(pids: dict[str, int]) -> Iterator[Used]:
    """Measure what the processes use while the block runs."""
    used = Used()
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    ended = threading.Event()

    def sample() -> None:
        while True:
            for name, pid in pids.items():
                used.peak_mb[name] = max(used.peak_mb.get(name, 0.0), family_mb(pid))
            if ended.wait(_EVERY_S):
                return

    thread = threading.Thread(target=sample, daemon=True)
    thread.start()
    try:
        yield used
    finally:
        used.cpu_s.update({name: cpu_s(pid) - before[name] for name, pid in pids.items()})
        ended.set()
        thread.join()


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []
