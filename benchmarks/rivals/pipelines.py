"""dlt with its Postgres destination, in a throwaway virtual environment.

dlt loads what a source yields after the source has ended, in one load: it can go on from a cursor at its next run, but
nothing is in Postgres before the end of the stream. `dlt_pipeline.py` runs in that environment.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from benchmarks.stage import Stage
from worker.replay.app import DEFAULT_KEY

REQUIREMENTS = ("dlt[postgres]", "httpx", "httpx-sse")
TIMEOUT_S = 600
PIPELINE = Path(__file__).with_name("dlt_pipeline.py")


def measure(
    stage: Stage, api_url: str, run_id: str, count: int, database_url: str, number: int
) -> tuple[float, float] | None:
    """Read and load ``count`` chunks; None when dlt can't be installed.

    The variable BENCH_DLT_PYTHON names an interpreter that has dlt already.
    """
    python = os.environ.get("BENCH_DLT_PYTHON") or _installed(stage.place / "dlt-venv")
    if python is None:
        return None
    done = subprocess.run(
        [python, str(PIPELINE), api_url, run_id, str(count), database_url, str(number)],
        cwd=stage.place,
        env={"PATH": os.environ["PATH"], "HOME": str(stage.place), "TRIGGER_KEY": DEFAULT_KEY, "DO_NOT_TRACK": "1",
             "RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"dlt: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.splitlines()[-1])
    return count / found["seconds"], 1e6 * found["cpu_s"] / count


def _installed(place: Path) -> str | None:
    python = place / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(place)], check=True)
        done = subprocess.run(
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS],
            capture_output=True,
            check=False,
        )
        if done.returncode:
            return None
    return str(python)
