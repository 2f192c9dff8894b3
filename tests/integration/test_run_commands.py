"""`tailrace cancel`, `retry` and `verify` as commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from tests.chaos.fleet import Archive


def tailrace(place: Path, database_url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {"PATH": os.environ["PATH"], "DATABASE_URL": database_url, "NO_COLOR": "1"}
    command = [sys.executable, "-P", "-m", "tailrace", *arguments]
    return subprocess.run(command, cwd=place, env=environ, capture_output=True, text=True, timeout=60, check=False)


def test_cancel_retry_verify(tmp_path: Path, database_url: str) -> None:
    archive = Archive(database_url)
    run = archive.request("run_1")
    archive.rows("INSERT INTO tailrace.streams (run, stream_key) VALUES (%s, 'a'), (%s, 'b')", run, run)
    done = tailrace(tmp_path, database_url, "cancel", "run_1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"run_id": "run_1", "environment": "default", "streams_stopped": 2}
    assert archive.rows("SELECT state FROM tailrace.streams") == [("cancelled",), ("cancelled",)]
    done = tailrace(tmp_path, database_url, "retry", "run_1")
    assert done.returncode == 0, done.stderr
    assert "2 streams are read again" in done.stderr
    assert archive.rows("SELECT state FROM tailrace.streams") == [("active",), ("active",)]
    assert tailrace(tmp_path, database_url, "cancel", "run_2").returncode == 2
    assert tailrace(tmp_path, database_url, "retry", "run_2").returncode == 2
    done = tailrace(tmp_path, database_url, "verify")
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert "2 streams checked" in done.stderr
    archive.rows("UPDATE tailrace.streams SET last_chunk_index = 4 WHERE stream_key = 'b'")
    done = tailrace(tmp_path, database_url, "verify", "run_1", "--json")
    assert done.returncode == 1
    ((violation),) = json.loads(done.stdout)["violations"]
    assert violation["stream_key"] == "b"
    assert violation["violation"] == "missing"
    assert "ahead of the archive" in tailrace(tmp_path, database_url, "verify").stdout
    assert tailrace(tmp_path, database_url, "verify", "run_2").returncode != 0
    archive.rows("UPDATE tailrace.streams SET last_chunk_index = -1")
    archive.close()
