"""A page in a real Chromium that hands in what it has seen: no driver, the page itself tells.

The page has a server of its own, so that what it asks of another is asked across origins, as a frontend does.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

WAIT_S = 200
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update"),
    *("--enable-logging=stderr", "--log-level=0"),
)

PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>A run</title><div id="root"></div>
<script>window.asked = %s;</script><script src="/page.js"></script></html>"""


def seen(chromium: str, script: bytes, asked: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return what the page handed in that runs ``script``. ``folder``: for the browser, which leaves things there.

    Raises:
        AssertionError: it handed in nothing; the message has what the browser logged.
    """
    handed_in: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    files = {"/": ("text/html", (PAGE % json.dumps(asked)).encode()), "/page.js": ("text/javascript", script)}
    with _serving(files, handed_in) as url, (folder / "log").open("wb") as log:
        command = [chromium, *_FLAGS, f"--user-data-dir={folder / 'profile'}", url]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log) as browser:
            try:
                found: dict[str, Any] = json.loads(handed_in.get(timeout=WAIT_S))
            except queue.Empty:
                raise AssertionError((folder / "log").read_text(errors="replace")[-5_000:]) from None
            finally:
                browser.terminate()
    return found


@contextmanager
def _serving(files: Mapping[str, tuple[str, bytes]], handed_in: queue.SimpleQueue[bytes]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, content = files.get(self.path, ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def do_POST(self) -> None:
            handed_in.put(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/"
        finally:
            server.shutdown()
            thread.join()
