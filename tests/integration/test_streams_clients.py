"""Five hundred browsers on one asyncio process: each its own read of a live stream, and no thread for any of them.

Three processes: the stand-in upstream (this one), uvicorn with the page's Starlette example, and the browsers. The
writer writes the next chunk when all browsers have the one before. `pytest -rP` shows the figures.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

from tailrace.model import Wire
from tailrace.serve.app import DEFAULT_KEY
from tests.upstream import RunningServer, create_app, running
from tests.upstream.live import LiveStore

ROOT = Path(__file__).parents[2]
CLIENTS = 500
CHUNKS = 20
IDLE_S = 3.0
LONG_S = 60.0

APP = """
import os, resource, socket, sys
import uvicorn
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route
from tailrace.streams import aio as streams

most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_384) if most > 0 else 16_384, most))
os.environ["TRIGGER_API_URL"], os.environ["TRIGGER_SECRET_KEY"] = sys.argv[1:3]
ai = streams.define("ai-output", type=dict)


async def stream(request):
    run_id = request.query_params.get("runId")
    if not run_id:
        return PlainTextResponse("Missing runId", 400)
    body = ai.as_sse(run_id, timeout_in_seconds=300, end_event="end")
    return StreamingResponse(body, headers=body.headers)


listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(2048)
print(listener.getsockname()[1], flush=True)
app = Starlette(routes=[Route("/stream", stream)])
uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off")).run(sockets=[listener])
"""

BROWSERS = """
import asyncio, json, resource, sys

most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (min(most, 16_384) if most > 0 else 16_384, most))
port, count = int(sys.argv[1]), int(sys.argv[2])
have = {}


def tell(what, **more):
    print(json.dumps({"what": what, **more}), flush=True)


async def browse(number):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"GET /stream?runId=run_%d HTTP/1.1\\r\\nHost: x\\r\\n\\r\\n" % (number % 10))
    numbers, ended = [], False
    async for line in reader:
        if line.startswith(b"data: {\\"chunk\\""):
            n = json.loads(line[6:])["chunk"]["n"]
            numbers.append(n)
            have[n] = have.get(n, 0) + 1
            if have[n] == count:
                tell("all", n=n)
        elif line.startswith(b"event: end"):
            ended = True
        elif ended and line in (b"0\\r\\n", b"0\\n"):
            break
    writer.close()
    return numbers, ended


async def main():
    found = await asyncio.gather(*(browse(number) for number in range(count)))
    tell("done", right=sum(numbers == list(range(len(have))) and ended for numbers, ended in found), seen=len(have))


asyncio.run(main())
"""


@contextmanager
def process(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True, cwd=ROOT
    ) as started:
        try:
            yield started
        finally:
            started.kill()


def heard(browsers: subprocess.Popen[str], what: str) -> dict[str, Any]:
    assert browsers.stdout is not None
    said = json.loads(browsers.stdout.readline())
    assert said["what"] == what, said
    return dict(said)


def write(store: LiveStore, number: int) -> None:
    for run in range(10):
        store.append_chunk(f"run_{run}", "ai-output", f'{{"n":{number}}}')


def cpu_s(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def test_five_hundred_clients_in_one_asyncio_process() -> None:
    store = LiveStore()
    for run in range(10):
        store.create_run(f"run_{run}", Wire.V2)
    with running(create_app(store)) as upstream, process(APP, upstream.url, DEFAULT_KEY) as app:
        assert app.stdout is not None
        port = app.stdout.readline().strip()
        server = psutil.Process(app.pid)
        before_kb = server.memory_info().rss / 1024
        with process(BROWSERS, port, str(CLIENTS)) as browsers:
            began = time.monotonic()
            everybody_reads(upstream)
            opened_s = time.monotonic() - began

            rounds: list[float] = []
            began_cpu = cpu_s(server)
            for number in range(CHUNKS):
                began = time.monotonic()
                write(store, number)
                assert heard(browsers, "all")["n"] == number
                rounds.append(time.monotonic() - began)
            chunk_ms = 1000 * (cpu_s(server) - began_cpu) / (CHUNKS * CLIENTS)

            threads, memory_kb = server.num_threads(), server.memory_info().rss / 1024
            began_cpu, looks = cpu_s(server), upstream.traffic.total
            assert not upstream.traffic.wait_until(lambda: upstream.traffic.streams_read() != CLIENTS, IDLE_S)
            idle_share = (cpu_s(server) - began_cpu) / IDLE_S
            looks = upstream.traffic.total - looks

            began = time.monotonic()
            for run in range(10):
                store.finish_run(f"run_{run}")
            done = heard(browsers, "done")
            ended_s = time.monotonic() - began
        assert done == {"what": "done", "right": CLIENTS, "seen": CHUNKS}
        assert upstream.traffic.wait_until(lambda: upstream.traffic.streams_read() == 0, LONG_S)
    sys.stdout.write(
        f"{CLIENTS} clients: opened in {opened_s:.1f} s; {threads} threads; "
        f"{(memory_kb - before_kb) / CLIENTS:.0f} kB and {chunk_ms:.2f} ms of CPU a chunk each;\n"
        f"a chunk reached all of them in {1000 * statistics.median(rounds):.0f} ms (median of {CHUNKS}, "
        f"worst {1000 * max(rounds):.0f} ms); silent they took {100 * idle_share:.0f} % of a core "
        f"({looks} looks at runs in {IDLE_S:g} s);\nall had ended {ended_s:.1f} s after their runs\n"
    )
    assert threads <= 3
    assert (memory_kb - before_kb) / CLIENTS < 400


def everybody_reads(upstream: RunningServer) -> None:
    assert upstream.traffic.wait_until(lambda: upstream.traffic.streams_read() == CLIENTS, LONG_S)
