"""The vendor's own client in Node, reading the same stream: only counting, and writing batches with `pg`.

Its packages are installed on first use into benchmarks/rivals/node/node_modules, by npm, as package.json says.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from benchmarks import rivals
from benchmarks.stage import Failed
from tailrace.serve.app import DEFAULT_KEY

PLACE = Path(__file__).parent / "node"


def count(api_url: str, run_id: str, chunks: int) -> rivals.Found:
    """Read all and only count."""
    return _run("count.mjs", api_url, run_id, chunks, "")


def write(api_url: str, run_id: str, chunks: int, database_url: str) -> rivals.Found:
    """Read all and write batches of 500 rows, each with its checkpoint in one transaction."""
    return _run("write.mjs", api_url, run_id, chunks, database_url)


def _run(script: str, api_url: str, run_id: str, chunks: int, database_url: str) -> rivals.Found:
    _install()
    command = ["node", script, api_url, run_id, str(chunks), database_url]
    environ = {"PATH": os.environ["PATH"], "TRIGGER_KEY": DEFAULT_KEY}
    return rivals.measure(command, chunks, environ=environ, cwd=PLACE)


def _install() -> None:
    if (PLACE / "node_modules" / "pg").exists():
        return
    if not shutil.which("npm"):
        raise Failed("the official client needs Node and npm")
    subprocess.run(["npm", "ci", "--no-audit", "--no-fund"], cwd=PLACE, check=True, capture_output=True)
