"""The stand-in upstream as a process and in a thread."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from tailrace.devtools.recordings import bundled_recordings
from tailrace.errors import MalformedRecord
from tailrace.serve.app import upstream_of
from tailrace.serve.server import main
from tailrace.serve.timing import Timing
from tests.upstream import create_app, half_of, running
from tests.upstream.live import LiveStore
from tests.wirecases import plain_client

RUN = """
import sys
from pathlib import Path
from tailrace.serve.server import main
main([Path(name) for name in sys.argv[2:]], 0, float(sys.argv[1]), "secret")
"""


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_as_a_process_it_prints_its_url_serves_recordings_and_stops_at_a_signal(ending: signal.Signals) -> None:
    command = [sys.executable, "-c", RUN, "0", *map(str, bundled_recordings())]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2] / "worker")}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+", url)
        with plain_client(url, "secret") as client:
            body = client.get("/realtime/v1/streams/run_demo_ai/ai-output", headers={"Timeout-Seconds": "0"}).content
            assert body.count(b'"seq_num"') == 726
            assert body.endswith(b"data: [DONE]\n\n")
            row = client.get("/realtime/v1/runs/run_demo_report?offset=-1").json()[0]["value"]
            assert (row["status"], row["realtimeStreams"]) == ("COMPLETED_SUCCESSFULLY", '{"report"}')
            with client.stream("GET", "/realtime/v1/streams/run_demo_report/report") as open_stream:
                assert open_stream.status_code == 200
                process.send_signal(ending)
                assert process.wait(20) in (0, -ending)  # the open stream would last for a minute
        assert process.stderr is not None
        assert process.stderr.read() == ""


def test_what_is_no_recording_is_refused_before_anything_is_served(tmp_path: Path) -> None:
    (tmp_path / "bad.jsonl").write_text("{}")
    with pytest.raises(MalformedRecord, match=r"bad\.jsonl, line 1"):
        main([tmp_path / "bad.jsonl"], 0, 1.0, "secret")


def test_servers_start_and_stop_quickly_and_leave_nothing_behind() -> None:
    began_s = time.monotonic()
    for _ in range(20):
        store = LiveStore()
        store.create_run("run_1")
        with running(create_app(store)) as server, plain_client(server.url) as client:
            assert client.get("/realtime/v1/runs/run_1").status_code == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(server.address)
    assert time.monotonic() - began_s < 50  # none waited for its client: that would be five seconds each


def test_a_taken_port_is_an_error_at_once() -> None:
    with running(create_app(LiveStore())) as server:
        again = running(create_app(LiveStore()), port=server.address[1])
        with pytest.raises(OSError, match="in use"):
            again.__enter__()


def test_any_application_can_be_run_but_only_ours_has_parts() -> None:
    with running(Starlette()) as server:
        assert httpx.get(server.url, trust_env=False).status_code == 404
        with pytest.raises(TypeError):
            upstream_of(server.app)
        with pytest.raises(TypeError):
            half_of(server.app)


def test_under_another_server_a_body_still_breaks_off() -> None:
    """Without our protocol class a reset is a cut; either way the client is not shown a clean end."""
    store = LiveStore()
    store.create_run("run_1")
    app = create_app(store, timing=Timing().scaled(0.01))
    half_of(app).faults.stream("run_1", "s").reset(after_bytes=5)
    server = uvicorn.Server(uvicorn.Config(app, http="h11", lifespan="off", log_level="critical", log_config=None))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
        thread.start()
        try:
            with plain_client(f"http://127.0.0.1:{port}") as client, pytest.raises(httpx.RemoteProtocolError):
                client.get("/realtime/v1/streams/run_1/s", headers={"Timeout-Seconds": "1"})
        finally:
            server.should_exit = True
            thread.join()
