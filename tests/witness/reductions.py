"""``python -m tests.witness.reductions``: write tests/data/messages/reductions.json anew, as the AI SDK has it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests import messagestreams

HERE = Path(__file__).parent
KEPT = range(60)
"""The random streams that the file holds."""


def answers(folder: Path, streams: list[list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Ask the AI SDK, in a folder where it is installed, what it makes of these chunks."""
    done = subprocess.run(
        ["node", "messages.mjs"],
        cwd=folder,
        input=json.dumps(streams).encode(),
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return [json.loads(line) for line in done.stdout.splitlines()]


def write() -> None:
    streams = messagestreams.streams(KEPT)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file in ("package.json", "package-lock.json", ".npmrc", "messages.mjs"):
            shutil.copy(HERE / file, folder / file)
        subprocess.run(["npm", "ci"], cwd=folder, check=True)
        answered = answers(folder, [messagestreams.last_attempt(chunks) for chunks in streams.values()])
    lines = []
    for (name, chunks), answer in zip(streams.items(), answered, strict=True):
        found = messagestreams.reduced(chunks, answer)
        said = {"chunks": found.chunks, "parts": found.parts, "refused": found.refused}
        lines.append(f"{json.dumps(name)}: {json.dumps(said, separators=(',', ':'))}")
    messagestreams.REDUCTIONS.write_text("{\n" + ",\n".join(lines) + "\n}\n")


if __name__ == "__main__":
    write()
