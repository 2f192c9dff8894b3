"""What Tailrace is compared with, each in a process of its own.

limit: what the parts can do alone · naive: the recipe of the documentation in Python · node: the vendor's own client ·
pipelines: dlt. Each process prints one JSON object as its last line: seconds, cpu_s and peak_mb.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from benchmarks.stage import ROOT, Failed
from benchmarks.usage import memory_mb


class Found(NamedTuple):
    """What a rival reached, and what its own process used for it."""

    chunks_per_s: float
    cpu_us: float
    """A chunk."""
    peak_mb: float


def measure(
    arguments: Sequence[str], chunks: int, *, environ: dict[str, str], cwd: Path = ROOT, timeout_s: float = 300.0
) -> Found:
    """Run a rival's process. Raises Failed when it fails or takes too long."""
    name = " ".join(arguments[:3])
    try:
        done = subprocess.run(
            arguments, cwd=cwd, env=environ, capture_output=True, text=True, timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Failed(f"{name}: not within {timeout_s:g} s") from error
    if done.returncode:
        raise Failed(f"{name}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return Found(chunks / found["seconds"], 1e6 * found["cpu_s"] / chunks, found["peak_mb"])


def ours(module: str, *arguments: str) -> tuple[list[str], dict[str, str]]:
    """Return the command and the environment of a rival that is a module of this package."""
    return [sys.executable, "-m", module, *arguments], {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}


@contextmanager
def reported() -> Iterator[None]:
    """In a rival's process: measure the block and print what `measure` reads."""
    began, cpu = time.perf_counter(), time.process_time()
    yield
    result = {
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "peak_mb": memory_mb(os.getpid(), "VmHWM"),  # ru_maxrss would count the process that forked this one
    }
    print(json.dumps(result), flush=True)
