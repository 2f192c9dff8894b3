"""Runs a script with the official client in a Node of its own, and gives what it printed."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from tests.witness.recorded import NAMED


def run_script(client: Path, name: str, asked: Any, *, timeout_s: float = 200) -> Any:
    """Return the JSON that a script prints when ``asked`` is its input."""
    done = subprocess.run(
        ["node", name],
        cwd=client,
        input=json.dumps(asked).encode(),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr == b"", done.stderr.decode()
    return json.loads(done.stdout)


def called(client: Path, url: str, key: str) -> dict[str, Any]:
    """Return what each call of ``calls.mjs`` gives, of a server that has the runs of `recorded`."""
    results: dict[str, Any] = run_script(client, "calls.mjs", {"url": url, "key": key, "runs": NAMED})
    return results
