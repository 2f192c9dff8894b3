"""`runs.subscribe_to_run(…).with_streams()` beside the official client's, event by event, of the same recordings."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from tailrace import runs
from tailrace.devtools.recordings import bundled_recordings
from tailrace.serve.app import DEFAULT_KEY
from tailrace.serve.recorded import RecordedStore
from tailrace.serve.recording import Recording, read_recording
from tailrace.streams import Client
from tests.leaks import lasting
from tests.streamcases import PACE, TIMING
from tests.upstream import create_app, running

RECORDINGS = {recording.run_id: recording for recording in map(read_recording, bundled_recordings())}
FAST = 30.0
LINGER_S = 1.0
Event = list[Any]


@contextmanager
def served(speed: float) -> Iterator[str]:
    """Serve the recordings; each run begins when it is first asked for, and with speed 0 it is over then."""
    with (
        running(create_app(RecordedStore(list(RECORDINGS.values()), speed=speed), timing=TIMING)) as server,
        lasting(server.url.removeprefix("http://")),
    ):
        yield server.url


def theirs(client: Path, url: str, ours: dict[str, list[Event]]) -> dict[str, tuple[list[Event], str]]:
    """What the official client gives of each run, until so many chunks came, and how it ended."""
    asked = [
        {"name": run_id, "url": url, "runId": run_id, "chunks": sum(name != "run" for name, _ in events)}
        for run_id, events in ours.items()
    ]
    env = {
        "PATH": os.environ["PATH"],
        "WITNESS_KEY": DEFAULT_KEY,
        "WITNESS_LINGER_MS": str(int(LINGER_S * 1000)),
        "TRIGGER_API_URL": url,
    }
    shutil.copy(Path(__file__).with_name("subscribe.mjs"), client)
    done = subprocess.run(
        ["node", "subscribe.mjs"],
        cwd=client,
        input=json.dumps(asked).encode(),
        env=env,
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return {each["name"]: (each["events"], each["end"]) for each in map(json.loads, done.stdout.splitlines())}


def ours(url: str, run_id: str) -> list[Event]:
    """What we give; the iteration ends by itself."""
    events: list[Event] = []
    for update in runs.subscribe_to_run(run_id, client=Client(DEFAULT_KEY, api_url=url, timing=PACE)).with_streams():
        events.append(["run", update.run.status] if isinstance(update, runs.RunUpdate) else [update.type, update.chunk])
    return events


def by_source(events: list[Event]) -> dict[str, list[Any]]:
    """What came of the run, a status that is repeated once, and of each stream, each in its order."""
    names = {name for name, _ in events}
    found = {name: [value for other, value in events if other == name] for name in names}
    found["run"] = [status for status, _ in groupby(found["run"])]
    return found


@pytest.mark.timeout(180)
@pytest.mark.parametrize("speed", [0.0, FAST], ids=["over", "going on"])
def test_both_give_the_same_events(official_client: Path, speed: float) -> None:
    found: dict[str, list[Event]] = {}
    for run_id in RECORDINGS:
        with served(speed) as url:
            found[run_id] = ours(url, run_id)
    with served(speed) as url:
        their = theirs(official_client, url, found)
    for run_id, events in found.items():
        their_events, their_end = their[run_id]
        assert by_source(events) == by_source(their_events), run_id
        assert events[0][0] == their_events[0][0] == "run"
        assert by_source(events)["run"][-1] == "COMPLETED"
        assert set(by_source(events)) - {"run"} == keys_of(RECORDINGS[run_id])
        assert their_end == "left", "it never ends by itself; ours has"


def keys_of(recording: Recording) -> set[str]:
    return {moment.key for moment in recording.moments if moment.key}
