"""The official client with nothing changed but its base URL: each of its calls that reads, and its hooks in a Chromium.

Asked are the stand-in upstream, which has recordings, and an archive that was made of them. One Node makes all calls of
a server (`calls.mjs`), one Chromium shows a page of both; each test looks at some of what they got.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tailrace.devtools.servers.postgres import Postgres
from tests.tokens import token
from tests.upstream import RunningServer
from tests.witness.browser import seen
from tests.witness.recorded import (
    AI,
    BROKEN,
    BROKEN_LINES,
    BROKEN_V1,
    BROKEN_V2,
    EVEN,
    NAMED,
    NUMBERS,
    ODD,
    ODD_CHUNKS,
    OTHER,
    PAGES,
    REPORT,
    WAITING,
    chunks,
)
from tests.witness.scripts import called, run_script
from tests.witness.servers import KEY, TIMING, archive_served, recordings_served

pytestmark = pytest.mark.timeout(300)

ALL = [AI, REPORT, NUMBERS, WAITING, ODD, OTHER, *PAGES, BROKEN, BROKEN_LINES]  # as they were created
NEWEST_FIRST = ALL[::-1]

Got = dict[str, Any]
STORES = ("recordings", "archive")


@pytest.fixture(scope="module")
def servers(postgres_server: Postgres, template_database: str) -> Iterator[dict[str, RunningServer]]:
    with recordings_served() as replay, archive_served(postgres_server, template_database, replay) as archive:
        yield dict(zip(STORES, (replay, archive), strict=True))


@pytest.fixture(scope="module")
def answers(official_client: Path, servers: dict[str, RunningServer]) -> dict[str, Got]:
    """What each call gave, by the store that it was asked of."""
    with ThreadPoolExecutor(len(servers)) as pool:
        urls = [server.url for server in servers.values()]
        return dict(zip(servers, pool.map(lambda url: called(official_client, url, KEY), urls), strict=True))


@pytest.fixture(params=STORES)
def got(request: pytest.FixtureRequest, answers: dict[str, Got]) -> Got:
    """What each call gave: of either store."""
    return answers[request.param]


# --- both

UNKNOWN = ("metadata", "updatedAt")
"""What the archive does not keep of a run, and what it has seen itself."""

OWN: dict[str, tuple[str, ...]] = {
    "parts v1": ("id",),  # Redis' ids are not kept: it has its own, stable ones
    **{f"parts {name}": ("recordId",) for name in ("v2", "resumed v2", "odd")},
    "parts broken": ("recordId", "timestamp"),  # of what is no chunk no time is kept
    "runs.subscribeToRunsWithTag held": ("seconds",),
}


def differences(one: Any, other: Any, ignored: tuple[str, ...], path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Where two answers are not the same, but for fields of the names that are ignored."""
    if isinstance(one, dict) and isinstance(other, dict):
        for name in sorted({*one, *other} - {*ignored}):
            yield from differences(one.get(name), other.get(name), ignored, f"{path}.{name}")
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for at, (left, right) in enumerate(zip(one, other, strict=True)):
            yield from differences(left, right, ignored, f"{path}[{at}]")
    elif one != other:
        yield path, one, other


def test_call_by_call_the_archive_gives_what_upstream_gives(answers: dict[str, Got]) -> None:
    recorded, archived = answers.values()
    assert set(archived) == set(recorded)
    found = {
        name: list(differences(one, archived[name], (*UNKNOWN, *OWN.get(name, ())), name))
        for name, one in recorded.items()
    }
    assert {name: where for name, where in found.items() if where} == {}


# --- streams


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        ("streams.read v2", chunks(AI, "ai-output")),
        ("streams.read v1", chunks(REPORT, "report")),
        ("streams.read default key", list(range(10))),
        ("streams.read startIndex 0", list(range(10))),
        ("streams.read startIndex 1", list(range(1, 10))),  # the client sends 0, which upstream takes for "after 0"
        ("streams.read startIndex 7", [7, 8, 9]),
        ("streams.read startIndex beyond", []),
        ("streams.read startIndex v1", chunks(REPORT, "report")),  # a Redis id of long ago
        ("streams.read from latest", [9]),
        ("streams.read from latest v1", chunks(REPORT, "report")),
        ("streams.read from latest of none", []),
        ("streams.read from and startIndex", [8, 9]),
        ("streams.read odd chunks", ODD_CHUNKS),
        ("streams.read broken", BROKEN_V2),
        ("streams.read broken v1", BROKEN_V1),
        ("streams.read a key never written", []),
        ("streams.read signal", ["first", "second"]),
        ("streams.read without a limit", list(range(10))),
        ("streams.define().read", chunks(AI, "progress")[3:]),
        ("runs.fetchStream", 10),
    ],
)
def test_streams(got: Got, call: str, expected: Any) -> None:
    assert got[call] == expected


def test_a_stream_of_no_run_is_an_error_that_is_not_tried_again(got: Got) -> None:
    assert got["streams.read unknown run"]["$error"]["status"] == 404


def test_parts_have_their_places_and_times(got: Got) -> None:
    parts = got["parts v2"]
    assert [(part["id"], part["chunk"]) for part in parts] == [(str(n), n) for n in range(10)]
    assert [part["timestamp"] - parts[0]["timestamp"] for part in parts] == [n * 10 for n in range(10)]
    assert len({part["recordId"] for part in parts}) == 10
    assert got["parts resumed v2"] == parts[5:]
    assert [part["chunk"] for part in got["parts odd"]] == ODD_CHUNKS
    first, *_, last = got["parts v1"]
    assert (first["timestamp"], last["timestamp"]) == (1793523900080, 1793523908040)


# --- a run


def test_a_run_is_retrieved(got: Got) -> None:
    statuses = {run_id: got[f"runs.retrieve {run_id}"]["status"] for run_id in NAMED.values()}
    assert statuses == {
        AI: "COMPLETED",
        REPORT: "COMPLETED",
        NUMBERS: "COMPLETED",
        WAITING: "EXECUTING",
        ODD: "FAILED",
        OTHER: "CANCELED",
        BROKEN: "COMPLETED",
        BROKEN_LINES: "COMPLETED",
    }
    run = got[f"runs.retrieve {ODD}"]
    assert (run["createdAt"], run["finishedAt"]) == ("2026-11-01T09:10:02.000Z", "2026-11-01T09:10:02.150Z")
    assert (run["taskIdentifier"], run["tags"]) == ("count", [])
    assert run.get("metadata", {"a": [1, None]}) == {"a": [1, None]}
    assert got["runs.retrieve unknown"]["$error"]["status"] == 404
    assert got["runs.poll"] == "COMPLETED"
    assert got["another key"]["$error"] == {"name": "TriggerApiError", "status": 401, "message": "Invalid API key"}


def test_a_subscription_to_a_run_that_is_over_ends_with_it(got: Got) -> None:
    (run,) = got["runs.subscribeToRun"]
    assert (run["id"], run["status"], run["realtimeStreams"]) == (AI, "COMPLETED", ["ai-output", "progress"])
    assert run["tags"] == ["demo", "model:mill-1"]
    assert run["finishedAt"] is not None
    assert [run["status"] for run in got["runs.subscribeToRun v1"]] == ["COMPLETED"]
    (lean,) = got["runs.subscribeToRun skipColumns"]
    assert lean == {name: value for name, value in run.items() if name not in ("payload", "metadata")}
    assert got["runs.subscribeToRun stopOnCompletion"] == [run]
    assert [run["status"] for run in got["runs.subscribeToRun not over"]] == ["EXECUTING"]


@pytest.mark.parametrize(("call", "run_id"), [("withStreams", AI), ("withStreams v1", REPORT)])
def test_with_streams_a_run_brings_all_that_they_hold(got: Got, call: str, run_id: str) -> None:
    found = got[call]
    assert [run["id"] for run in found.pop("run")] == [run_id]
    assert found == {key: chunks(run_id, key) for key in found}
    assert found


def test_with_streams_nothing_is_left_to_wait_for_after_a_run(got: Got) -> None:
    """The client's iterator itself stays open, whatever the server says: 4.8.3 stops asking, and closes nothing.

    So this is what a server owes: all is there, every stream ends, and the process could end.
    """
    counts = {key: len(chunks(AI, key)) for key in ("ai-output", "progress")}
    assert got["withStreams left alone"] == {"got": {"run": 1, **counts}, "ended": False}


# --- many runs


def test_the_list_has_every_run_newest_first(got: Got) -> None:
    listed = got["runs.list"]
    assert [run["id"] for run in listed["data"]] == NEWEST_FIRST
    assert listed["pagination"] == {}
    assert got["runs.list without a window"] == listed  # none is a week old
    by_id = {run["id"]: run for run in listed["data"]}
    for run_id in NAMED.values():
        retrieved = got[f"runs.retrieve {run_id}"]
        shared = set(by_id[run_id]) & set(retrieved)
        assert {"status", "taskIdentifier", "tags", "createdAt", "startedAt", "isCompleted"} <= shared
        assert {name: by_id[run_id][name] for name in shared} == {name: retrieved[name] for name in shared}


def test_pages_go_there_and_back(got: Got) -> None:
    assert got["runs.list every page"] == NEWEST_FIRST
    assert got["runs.list there and back"] == [
        {"ids": NEWEST_FIRST[:4], "next": True, "previous": False},
        {"ids": NEWEST_FIRST[4:8], "next": True, "previous": True},
        {"ids": NEWEST_FIRST[:4], "next": True, "previous": False},
    ]


FAILED = [ODD, *PAGES[1::4]]
CANCELED = [OTHER, *PAGES[2::4]]
COUNTED = [run_id for run_id in ALL if run_id not in (AI, REPORT)]

FILTERED: dict[str, list[str]] = {
    "status": FAILED,
    "statuses": [*FAILED, *CANCELED, WAITING],
    "status of none": [],
    "task": COUNTED,
    "tasks": [*COUNTED, REPORT],
    "tag": EVEN,
    "tags, any of them": [*EVEN, AI, REPORT],
    "a tag and a task": EVEN,
    "from": [OTHER, *PAGES, BROKEN, BROKEN_LINES],
    "to": [AI, REPORT, NUMBERS, WAITING, ODD, OTHER],
    "from and to": [ODD, OTHER, PAGES[0]],
    "period": [run_id for run_id in ALL if run_id != AI],
    "no tests": ALL,
    **{name: [] for name in ("only tests", "version", "schedule", "batch", "bulkAction", "queue", "machine", "region")},
}


@pytest.mark.parametrize("name", FILTERED)
def test_filters_of_the_list(got: Got, name: str) -> None:
    expected = sorted(FILTERED[name], key=ALL.index, reverse=True)
    assert got[f"runs.list {name}"] == {"ids": expected}


def test_a_filter_that_upstream_refuses(got: Got) -> None:
    assert got["runs.list refused"]["$error"]["status"] == 400


def test_a_subscription_to_tags_has_the_runs_with_all_of_them(got: Got) -> None:
    assert {run["id"] for run in got["runs.subscribeToRunsWithTag"]} == set(EVEN)
    assert {run["id"] for run in got["runs.subscribeToRunsWithTag all of them"]} == set(PAGES[::6])
    assert {run["id"] for run in got["runs.subscribeToRunsWithTag createdAt"]} == set(PAGES[6::2])
    assert all("payload" not in run for run in got["runs.subscribeToRunsWithTag createdAt"])


def test_a_subscription_to_tags_is_held_while_nothing_changes(got: Got) -> None:
    held = got["runs.subscribeToRunsWithTag held"]
    assert (held["runs"], held["updates"]) == (len(EVEN), len(EVEN))
    assert held["seconds"] >= 2 * TIMING.live_poll_s * (1 - TIMING.live_poll_jitter)


# --- keys


def test_a_public_token_reads_its_run_and_no_other(got: Got) -> None:
    token = got["auth.createPublicToken"]
    assert token["claims"] == {
        "pub": True,
        "scopes": [f"read:runs:{AI}"],
        "iss": "https://id.trigger.dev",
        "sub": "string",
        "lasts": 300,
    }
    assert (token["run"], token["chunks"], token["other"]) == (AI, len(chunks(AI, "ai-output")), 403)


# --- in a browser


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("the hooks are shown by Chromium")


def test_a_page_shows_a_run_and_its_streams(
    servers: dict[str, RunningServer], official_client: Path, chromium: str, tmp_path: Path
) -> None:
    assert run_script(official_client, "bundle.mjs", None) == "made"
    streams = {key: chunks(AI, key) for key in ("ai-output", "progress")}
    asked = {
        "urls": {store: server.url for store, server in servers.items()},
        "token": token(KEY, f"read:runs:{AI}", "read:tags:even"),
        "runId": AI,
        "streamKey": "ai-output",
        "tag": "even",
        "expected": {"streams": {key: len(written) for key, written in streams.items()}, "tagged": len(EVEN)},
    }
    found = seen(chromium, (official_client / "page.js").read_bytes(), asked, tmp_path)
    assert set(found) == set(STORES)
    for each in found.values():
        assert each["errors"] == []
        assert each["over"] == {"id": AI, "status": "COMPLETED"}
        assert each["withStreams"]["streams"] == streams
        assert each["withStreams"]["run"] == each["run"]
        assert (each["run"]["id"], each["run"]["realtimeStreams"]) == (AI, list(streams))
        assert each["stream"] == streams["ai-output"]
        assert each["lastEventId"] == str(len(streams["ai-output"]) - 1)
        assert each["latest"] == streams["ai-output"][-1:]
        assert set(each["tagged"]) == set(EVEN)
        assert each["shown"].startswith(f"{AI} COMPLETED")
        assert "".join(part.get("delta", "") for part in streams["ai-output"])[:40] in each["shown"]
    assert list(differences(*(found[store] for store in STORES), ignored=UNKNOWN)) == []
