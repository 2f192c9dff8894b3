"""The official client reads what we read: where its result differs from ours, docs/fidelity.md says why ours is right."""

from __future__ import annotations

import json
import os
import random
import subprocess
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tailrace.ingest.reader import Reader, Timing
from tailrace.ingest.signal import Signal
from tailrace.model import Outcome, StreamRef, Wire
from tailrace.serve.app import DEFAULT_KEY
from tailrace.serve.records import Draft, data_draft
from tailrace.source.client import Endpoint, Upstream
from tailrace.source.connection import Tail
from tests.ingestion import TIMING
from tests.simulation.archive import Archive, read_until_settled
from tests.upstream import LiveStore, RunningServer, create_app, running
from tests.wirecases import case_names, load_case, running_case

DOCUMENT = Path(__file__).parents[2] / "docs" / "fidelity.md"
UNDEFINED = {"$undefined": True}
POLICY = Timing(quiet_s=0.0, retry_base_s=0.01, retry_cap_s=0.05, reconnect_s=0.0)


@dataclass(frozen=True)
class Place:
    """A stream that is being served, and how its key stands in the path of its route."""

    url: str
    ref: StreamRef
    in_path: str


def theirs(client: Path, places: dict[str, Place]) -> dict[str, list[Any]]:
    """What the official client hands over, by name."""
    asked = [
        {
            "name": name,
            "url": place.url,
            "runId": place.ref.run_id,
            "key": place.in_path,
            "timeoutMs": 5_000,
        }
        for name, place in places.items()
    ]
    done = subprocess.run(
        ["node", "read.mjs"],
        cwd=client,
        input=json.dumps(asked).encode(),
        env={"PATH": os.environ["PATH"], "WITNESS_KEY": DEFAULT_KEY},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert [answer["name"] for answer in answers] == list(places)
    return {answer["name"]: answer["chunks"] for answer in answers}


def ours(places: dict[str, Place]) -> dict[str, list[Any]]:
    """What Tailrace makes of them, by name."""
    with ThreadPoolExecutor(len(places)) as pool:
        return dict(zip(places, pool.map(archived, places.values()), strict=True))


def archived(place: Place) -> list[Any]:
    """What Tailrace makes of one: the real reader over HTTP, and an archive in memory."""
    archive = Archive(random.Random(0), kill=0.0)
    archive.over = True
    upstream = Upstream(Endpoint(place.url, lambda: DEFAULT_KEY))

    def read(archive: Archive) -> Outcome:
        with upstream.stream(place.ref) as source:
            reader = Reader(
                *(archive.lease(), Tail(source, 1 << 24), archive, archive, POLICY, Signal()), random=lambda: 0.0
            )
            return reader.run()

    read_until_settled(archive, read, times=50)
    upstream.close()
    return [json.loads(text) for _, _, text in archive.texts]


# --- the recordings

# What the client hands over and we do not, or the other way round. Everything else is the same.
RECORDED: dict[str, tuple[list[Any], list[Any]]] = {
    "v1_c_resume_after_entry0": (['second line is split over three entries"}'], []),
    "v1_c_resume_inside_split": (['it over three entries"}'], []),
    "v1_i_sentinel_and_oddities": (["<<CLOSE_STREAM>>", "undefined", "not json at all"], []),
}


def difference(left: list[Any], right: list[Any]) -> tuple[list[Any], list[Any]]:
    """What only one of the two has; order counts, so what is out of order is in both."""
    left_texts, right_texts = [json.dumps(each) for each in left], [json.dumps(each) for each in right]
    only_left = [each for each, text in zip(left, left_texts, strict=True) if text not in right_texts]
    only_right = [each for each, text in zip(right, right_texts, strict=True) if text not in left_texts]
    shared = [text for text in left_texts if text in right_texts] == [
        text for text in right_texts if text in left_texts
    ]
    return (only_left, only_right) if shared else (left, right)


@pytest.mark.timeout(180)
def test_every_recording_is_read_alike(official_client: Path) -> None:
    cases = {name: load_case(name) for name in case_names()}
    with ExitStack() as stack:
        served = {name: stack.enter_context(running_case(case, timing=TIMING)) for name, case in cases.items()}
        places = {name: Place(served[name].url, case.ref, case.path.split("/", 5)[5]) for name, case in cases.items()}
        their = theirs(official_client, places)
    with ExitStack() as stack:  # the first answer of each is the recording
        served = {name: stack.enter_context(running_case(case, timing=TIMING)) for name, case in cases.items()}
        our = ours({name: Place(served[name].url, case.ref, "") for name, case in cases.items()})
    differences = {name: difference(their[name], our[name]) for name in cases}
    assert {name: found for name, found in differences.items() if found != ([], [])} == RECORDED


# --- what no recording shows: bodies that break off, streams that are made anew, writers that repeat themselves

Scene = Callable[[LiveStore, RunningServer], None]
RUN, KEY = "run_1", "ai"


def lines_share_an_id(store: LiveStore, server: RunningServer) -> None:
    """v1: one entry holds three lines, and the body is cut after the first."""
    store.create_run(RUN, Wire.V1)
    store.append_entry(RUN, KEY, "1\n2\n3\n", "1795000000000-0")
    store.append_entry(RUN, KEY, "4\n", "1795000000001-0")
    server.faults.stream(RUN, KEY).cut(after_bytes=len("id: 1795000000000-0\ndata: 1\n\n"))


def line_over_entries(store: LiveStore, server: RunningServer) -> None:
    """v1: a line begins in the entry that ends the one before; the body is cut between the two."""
    store.create_run(RUN, Wire.V1)
    store.append_entry(RUN, KEY, '"a"\n"b', "1795000000000-0")
    store.append_entry(RUN, KEY, 'c"\n"d"\n', "1795000000001-0")
    server.faults.stream(RUN, KEY).cut(after_bytes=len('id: 1795000000000-0\ndata: "a"\n\n'))


def half_line(store: LiveStore, server: RunningServer) -> None:
    """v1: the last line has not ended when upstream closes for inactivity."""
    store.create_run(RUN, Wire.V1)
    store.append_entry(RUN, KEY, '"a"\n{"half":', "1795000000000-0")


def carriage_return(store: LiveStore, server: RunningServer) -> None:
    """v1: a CR between two tokens of a chunk."""
    store.create_run(RUN, Wire.V1)
    store.append_entry(RUN, KEY, "[1,\r2]\n", "1795000000000-0")


def end_without_done(store: LiveStore, server: RunningServer) -> None:
    """v2: something on the way ends the body cleanly after the first batch."""
    store.create_run(RUN, Wire.V2)
    store.append_chunks(RUN, KEY, ["1", "2"])
    server.faults.stream(RUN, KEY).answer(
        200,
        body=b'event: batch\nid: 0,1,1\ndata: {"records":[{"seq_num":0,"timestamp":1,"body":"%b"}]}\n\n'
        % store.records(RUN, KEY)[0].body.replace(b'"', b'\\"'),
        headers=(("Content-Type", "text/event-stream"), ("X-Stream-Version", "v2")),
    )


def undefined_chunk(store: LiveStore, server: RunningServer) -> None:
    """v2: an envelope without data, a body that is no envelope, and one that is no JSON."""
    store.create_run(RUN, Wire.V2)
    store.append_records(
        RUN, KEY, [data_draft("1", "a"), Draft(b'{"id":"b"}'), Draft(b"[1]"), Draft(b"no JSON"), data_draft("2", "c")]
    )


def same_id_other_text(store: LiveStore, server: RunningServer) -> None:
    """v2: two chunks of the same id, as chance brings about in a long stream."""
    store.create_run(RUN, Wire.V2)
    store.append_records(RUN, KEY, [data_draft("1", "abcdefg"), data_draft("2", "abcdefg")])


TRIES = 5
"""Node drops what it has received and not handed on when a body breaks off. Where that is all of it, the client begins at
the beginning again and loses nothing, as it would have by a moment's delay."""

# Scene → what they hand over, what we archive.
SCENES: dict[str, tuple[Scene, list[Any], list[Any]]] = {
    "lines_share_an_id": (lines_share_an_id, [1, 4], [1, 2, 3, 4]),
    "line_over_entries": (line_over_entries, ["a", 'c"', "d"], ["a", "bc", "d"]),
    "half_line": (half_line, ["a", '{"half":'], ["a"]),
    "carriage_return": (carriage_return, ["[1,"], [[1, 2]]),
    "end_without_done": (end_without_done, [1], [1, 2]),
    "undefined_chunk": (undefined_chunk, [1, UNDEFINED, UNDEFINED, UNDEFINED, 2], [1, 2]),
    "same_id_other_text": (same_id_other_text, [1], [1, 2]),
}


@pytest.mark.timeout(180)
@pytest.mark.trap(1)
@pytest.mark.trap(4)
@pytest.mark.trap(14)
@pytest.mark.trap(15)
@pytest.mark.trap(30)
def test_what_the_client_loses_we_keep(official_client: Path) -> None:
    def served(stack: ExitStack) -> dict[str, Place]:
        places = {}
        for name, (scene, _, _) in SCENES.items():
            store = LiveStore()
            server = stack.enter_context(running(create_app(store, timing=TIMING)))
            scene(store, server)
            store.finish_run(RUN)
            places[name] = Place(server.url, StreamRef(RUN, KEY), KEY)
        return places

    with ExitStack() as stack:
        our = ours(served(stack))
    assert our == {name: ours_ for name, (_, _, ours_) in SCENES.items()}
    lossy = {name: theirs_ for name, (_, theirs_, _) in SCENES.items()}
    for _ in range(TRIES):
        with ExitStack() as stack:
            their = theirs(official_client, served(stack))
        if their == lossy:
            break
    assert their == lossy


def test_the_document_says_why_we_differ() -> None:
    text = DOCUMENT.read_text(encoding="utf-8")
    assert [name for name in [*RECORDED, *SCENES] if f"`{name}`" not in text] == []
