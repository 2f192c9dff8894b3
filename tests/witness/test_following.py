"""The official client follows a run that goes on: by the stand-in upstream, and by an archive that is written meanwhile."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tailrace.config.settings import Settings
from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tailrace.serve.archive import Archive, ArchiveStore
from tailrace.service.local import LocalIngestion
from tests.ingestion import TIMING
from tests.upstream import LiveStore, create_app, running
from tests.wirecases import plain_client

pytestmark = pytest.mark.timeout(300)

RUN, KEY, TAG = "run_live", "ai", "live"
LONG_S = 60.0
"""A wait that is over only when something is broken."""


class Following:
    """``follow.mjs`` at work, and what it has said."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._reading = threading.Thread(target=self._read)
        self._reading.start()
        self.said: list[tuple[str, Any]] = []

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line)

    def of(self, what: str) -> list[Any]:
        """What it has said of one thing."""
        return [value for name, value in self.said if name == what]

    def until(self, holds: Callable[[], bool]) -> None:
        """Listen until this holds."""
        while not holds():
            what, value = json.loads(self._lines.get(timeout=LONG_S))
            self.said.append((what, value))

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reading.join()


@contextmanager
def following(client: Path, url: str, chunks: int) -> Iterator[Following]:
    asked = {"url": url, "key": DEFAULT_KEY, "runId": RUN, "streamKey": KEY, "tag": TAG, "chunks": chunks}
    with subprocess.Popen(
        ["node", "follow.mjs"],
        cwd=client,
        env={"PATH": os.environ["PATH"]},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        found = Following(process)
        try:
            assert process.stdin is not None
            process.stdin.write(json.dumps(asked).encode())
            process.stdin.close()
            yield found
        finally:
            found.end()


@contextmanager
def archived(store: LiveStore, database_url: str) -> Iterator[str]:
    """An archive of the run, while it is ingested."""
    with running(create_app(store, timing=TIMING)) as upstream:
        settings = Settings(
            secret_key=DEFAULT_KEY, api_url=upstream.url, watch_seconds=0.1, control_seconds=0.1, batch_max_age_ms=5
        )
        ingestion = LocalIngestion(settings, database_url)
        archive = Archive(database_url)
        try:
            ingestion.begin(RUN, None)
            with running(create_app(ArchiveStore(archive, "default"))) as server:
                until = time.monotonic() + LONG_S
                with plain_client(
                    server.url
                ) as client:  # the official one does not ask again for a run that is unknown
                    while client.get(f"/api/v3/runs/{RUN}").status_code != 200:
                        assert time.monotonic() < until
                yield server.url
        finally:
            ingestion.stop()
            archive.let_go()


@pytest.mark.parametrize("wire", list(Wire), ids=str)
def test_upstream_is_followed(official_client: Path, wire: Wire) -> None:
    store = begun(wire)
    with running(create_app(store)) as server:
        follow_to_the_end(official_client, store, server.url)


@pytest.mark.parametrize("wire", list(Wire), ids=str)
def test_an_archive_is_followed(official_client: Path, wire: Wire, database_url: str) -> None:
    store = begun(wire)
    with archived(store, database_url) as url:
        follow_to_the_end(official_client, store, url)


def begun(wire: Wire) -> LiveStore:
    store = LiveStore()
    store.create_run(RUN, wire, tags=[TAG])
    store.append_chunks(RUN, KEY, ["0", "1"])
    return store


def follow_to_the_end(client: Path, store: LiveStore, url: str) -> None:
    with following(client, url, chunks=9) as found:
        found.until(lambda: found.of("chunk") == [0, 1] and bool(found.of("run")) and bool(found.of("tagged")))
        for n in range(2, 8):  # each once the one before was seen
            store.append_chunk(RUN, KEY, str(n))
            found.until(lambda n=n: found.of("chunk") == list(range(n + 1)))
        store.open_stream(RUN, "progress")
        found.until(lambda: found.of("run")[-1] == ["EXECUTING", [KEY, "progress"]])
        store.append_chunk(RUN, KEY, "8")
        store.finish_run(RUN)
        found.until(lambda: bool(found.of("over")))
    assert found.of("chunk") == list(range(9))
    assert found.of("run")[-1] == ["COMPLETED", [KEY, "progress"]]
    assert found.of("tagged")[-1] == [RUN, "COMPLETED"]
    assert found.of("run")[0][0] == found.of("tagged")[0][1] == "EXECUTING"
