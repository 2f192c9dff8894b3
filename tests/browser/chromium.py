"""A real Chromium, driven over a pipe by its own protocol (Chrome DevTools Protocol): no driver, no package.

Commands are JSON texts, each ended by NUL, on the browser's descriptor 3; answers and events come back on 4
(``--remote-debugging-pipe``). Waiting is for a named moment of the page, never for a time.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

__all__ = ["Browser", "Page", "browsing", "chromium"]

WAIT_S = 60.0
"""Far more than anything here takes, on a machine that is busy."""
_NAMES = ("chromium", "chromium-browser", "google-chrome")
_FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"),
    *("--no-first-run", "--disable-extensions", "--disable-background-networking", "--disable-component-update"),
    *("--hide-scrollbars", "--force-color-profile=srgb", "--remote-debugging-pipe"),
)


def chromium() -> str | None:
    """Return where a Chromium is; None: there is none."""
    return next((found for name in _NAMES if (found := shutil.which(name))), None)


class Browser:
    """One Chromium. Pages of it share nothing."""

    def __init__(self, commands: int, answers: int) -> None:
        self._commands = commands
        self._answers = answers
        self._number = 0
        self._waiting: dict[int, queue.SimpleQueue[dict[str, Any]]] = {}
        self._pages: dict[str, Page] = {}
        self._guard = threading.Lock()
        self.reader = threading.Thread(target=self._read, name="chromium-answers")
        self.reader.start()

    def page(self) -> Page:
        """Open a page, with cookies of its own."""
        context = self.call("Target.createBrowserContext")["browserContextId"]
        target = self.call("Target.createTarget", url="about:blank", browserContextId=context)["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = Page(self, session)
        with self._guard:
            self._pages[session] = page
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        return page

    def call(self, method: str, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        """Have something done, and return what came of it.

        Raises:
            AssertionError: the browser refuses, or does not answer.
        """
        answer: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        with self._guard:
            self._number += 1
            number = self._number
            self._waiting[number] = answer
            command = {"id": number, "method": method, "params": parameters} | (
                {"sessionId": session} if session else {}
            )
            os.write(self._commands, json.dumps(command).encode() + b"\0")
        try:
            got = answer.get(timeout=WAIT_S)
        except queue.Empty:
            raise AssertionError(f"the browser does not answer {method}") from None
        assert "error" not in got, f"{method}: {got.get('error')}"
        result: dict[str, Any] = got["result"]
        return result

    def _read(self) -> None:
        held = b""
        while True:
            part = os.read(self._answers, 1 << 16)
            if not part:
                return
            *whole, held = (held + part).split(b"\0")
            for text in whole:
                self._take(json.loads(text))

    def _take(self, told: dict[str, Any]) -> None:
        if "id" in told:
            with self._guard:
                answer = self._waiting.pop(told["id"])
            answer.put(told)
            return
        with self._guard:
            page = self._pages.get(told.get("sessionId", ""))
        if page is not None:
            page.hear(told["method"], told["params"])


class Page:
    """One page of it. ``complaints``: what the browser said against what the page does: errors, and what its policy
    forbade."""

    def __init__(self, browser: Browser, session: str) -> None:
        self._browser = browser
        self._session = session
        self._loads = 0
        self._loaded = threading.Condition()
        self.complaints: list[str] = []
        self.asked: list[str] = []

    def hear(self, event: str, told: dict[str, Any]) -> None:
        """Take an event."""
        if event == "Page.loadEventFired":
            with self._loaded:
                self._loads += 1
                self._loaded.notify_all()
        elif event == "Runtime.exceptionThrown":
            self.complaints.append(str(told["exceptionDetails"].get("exception", told["exceptionDetails"])))
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.complaints.append(told["entry"]["text"])
        elif event == "Network.requestWillBeSent":
            self.asked.append(told["request"]["url"])

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **parameters)

    def open(self, url: str) -> None:
        """Go to an address, and wait until all of it is there."""
        before = self._loads
        gone = self.call("Page.navigate", url=url)
        assert not gone.get("errorText"), gone["errorText"]
        self._wait(before + 1)

    def following(self, script: str, pages: int = 1) -> None:
        """Do something that leads to another page, or through several, and wait until the last is there."""
        before = self._loads
        self.do(script)
        self._wait(before + pages)

    def _wait(self, loads: int) -> None:
        with self._loaded:
            assert self._loaded.wait_for(lambda: self._loads >= loads, WAIT_S), "no page came"

    def do(self, script: str) -> Any:
        """Run a script in the page, as its console does, and return what it says; a promise is waited for."""
        got = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in got, got["exceptionDetails"]
        return got["result"].get("value")

    def until(self, condition: str) -> None:
        """Wait until a condition holds in the page."""
        held = self.do(
            f"new Promise(done => {{ const end = Date.now() + {int(WAIT_S * 1000)};"
            f" const look = () => ({condition}) ? done(true) : Date.now() > end ? done(false) : setTimeout(look, 20);"
            " look(); })"
        )
        assert held, f"{condition} never came true; the page says: {self.text()[:2_000]}"

    def text(self) -> str:
        """Return what a person reads."""
        return str(self.do("document.body.innerText"))

    def press(self, *keys: str) -> None:
        """Press keys, one after the other."""
        for key in keys:
            more = {"text": "\r" if key == "Enter" else key} if len(key) == 1 or key == "Enter" else {}
            code = {"Enter": 13, "Escape": 27}.get(key, 0)
            self.call("Input.dispatchKeyEvent", type="keyDown", key=key, windowsVirtualKeyCode=code, **more)
            self.call("Input.dispatchKeyEvent", type="keyUp", key=key, windowsVirtualKeyCode=code)

    def look(self, *, width: int = 1280, height: int = 800, dark: bool = False, phone: bool = False) -> None:
        """Be looked at on such a screen."""
        scale = 2 if phone else 1
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=scale, mobile=phone
        )
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)

    def picture(self, path: Path, *, whole: bool = False) -> None:
        """Write what is seen as PNG; ``whole``: what is below too."""
        got = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(got["data"]))


@contextmanager
def browsing(program: str, folder: Path) -> Iterator[Browser]:
    """Start a Chromium that keeps its things in ``folder``, and end it."""
    to_browser, commands = os.pipe()
    answers, from_browser = os.pipe()

    def place() -> None:
        """In the child: the two ends at the numbers that Chromium looks at, whatever they were."""
        first, second = os.dup(to_browser), os.dup(from_browser)
        os.dup2(first, 3)
        os.dup2(second, 4)

    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            preexec_fn=place,
            close_fds=False,
        )
    os.close(to_browser)
    os.close(from_browser)
    browser = Browser(commands, answers)
    try:
        yield browser
    finally:
        with suppress(AssertionError, OSError):
            browser.call("Browser.close")
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        os.close(commands)
        browser.reader.join()
        os.close(answers)
