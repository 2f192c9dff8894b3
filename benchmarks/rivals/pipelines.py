"""dlt with its Postgres destination, in a throwaway virtual environment.

dlt loads what a source yields after the source has ended, in one load: it can go on from a cursor at its next run, but
nothing is in Postgres before the end of the stream. `dlt_pipeline.py` runs in that environment.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from benchmarks import rivals
from benchmarks.stage import Stage
from tailrace.serve.app import DEFAULT_KEY

REQUIREMENTS = ("dlt[postgres]", "httpx", "httpx-sse")
PIPELINE = Path(__file__).with_name("dlt_pipeline.py")


def measure(stage: Stage, api_url: str, run_id: str, count: int, database_url: str, number: int) -> rivals.Found | None:
    """Read and load ``count`` chunks; None when dlt can't be installed.

    The variable BENCH_DLT_PYTHON names an interpreter that has dlt already.
    """
    python = os.environ.get("BENCH_DLT_PYTHON") or _installed(stage.place / "dlt-venv")
    if python is None:
        return None
    command = [python, str(PIPELINE), api_url, run_id, str(count), database_url, str(number)]
    environ = {"PATH": os.environ["PATH"], "HOME": str(stage.place), "TRIGGER_KEY": DEFAULT_KEY, "DO_NOT_TRACK": "1",
               "RUNTIME__DLTHUB_TELEMETRY": "false", "RUNTIME__LOG_LEVEL": "ERROR"}  # fmt: skip
    return rivals.measure(command, count, environ=environ, cwd=stage.place)


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
