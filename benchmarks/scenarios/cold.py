"""P10: how long a worker takes to be there, and what a caller of ``.delay()`` pays for the import."""

from __future__ import annotations

import subprocess
import sys
import time

from benchmarks.scenarios import Row, Size
from benchmarks.stage import ROOT, Stage
from benchmarks.usage import Used, cpu_s, family_mb, load

IMPORT = "import time; t = time.perf_counter(); import tailrace.tasks; print(time.perf_counter() - t)"


def run(stage: Stage, size: Size) -> Row:
    """Start workers one after the other; import in fresh interpreters."""
    row = Row("P10", "cold start")
    stage.clear()
    total = Used()
    ready = []
    with stage.upstream() as upstream:
        for _ in range(max(3, size.repeats)):
            began = time.perf_counter()
            worker = stage.start_worker(upstream)
            ready.append(time.perf_counter() - began)
            total.add({"worker, until ready": cpu_s(worker.pid)}, {"worker, until ready": family_mb(worker.pid)})
            worker.end()
    row.used = total.as_json()
    imports = []
    for _ in range(max(5, size.repeats)):
        done = subprocess.run(
            [sys.executable, "-c", IMPORT], cwd=ROOT, env=stage.environ, capture_output=True, text=True, check=True
        )
        imports.append(1e3 * float(done.stdout))
    row.figure("tailrace worker, to ready", ready, "s")
    row.figure("import tailrace.tasks", imports, "ms")
    row.at_most("tailrace worker, to ready", 2)
    row.at_most("import tailrace.tasks", 300)
    row.notes.append(
        "Ready: the worker's row is in the database, from then on it reads. The interpreter's start is in."
    )
    row.load = load()
    return row
