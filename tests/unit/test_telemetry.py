"""Logs hold no secrets and go to stderr."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from tailrace.errors import StoreUnavailable
from tailrace.telemetry import Failing, configure

S = "Xq7hiddenXq7"  # what must never be seen
JWT = f"eyJhbGciOiJIUzI1NiJ9.{S}.{S}"


# --- logs


@pytest.fixture(autouse=True)
def _put_logging_back() -> Iterator[None]:
    """Leave the logging of the whole process as it was."""
    root = logging.getLogger()
    ours = logging.getLogger("tailrace")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    yield
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])
    logging.captureWarnings(False)
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


def entries(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_entry_in_json() -> None:
    stream = io.StringIO()
    log = structlog.get_logger("tailrace")  # made before the set-up, as modules do
    configure("json", "info", stream=stream)
    log.bind(run_id="run_1", stream_key="ai-ü").info("batch_committed", position=7, lease_token=3, attempt=0)
    (entry,) = entries(stream)
    assert entry.pop("timestamp").endswith("Z")
    assert entry == {
        "event": "batch_committed",
        "level": "info",
        "logger": "tailrace",
        "run_id": "run_1",
        "stream_key": "ai-ü",
        "position": 7,
        "lease_token": 3,
        "attempt": 0,
    }


def test_an_entry_for_people() -> None:
    stream = io.StringIO()
    configure("console", "info", stream=stream)
    structlog.get_logger("tailrace").warning("lease_lost", run_id="run_1")
    assert "lease_lost" in stream.getvalue()
    assert "run_id=run_1" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()  # not a terminal


def test_auto_is_json_unless_somebody_looks() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for stream, shown in ((io.StringIO(), "{"), (Terminal(), "\x1b")):
        configure("auto", "info", stream=stream)
        structlog.get_logger("tailrace").info("worker_ready")
        assert stream.getvalue().startswith(shown)


def test_no_color_is_obeyed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = io.StringIO()
    stream.isatty = lambda: True  # type: ignore[method-assign]
    configure("auto", "info", stream=stream)
    structlog.get_logger("tailrace").info("worker_ready")
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "ours", "libraries"),
    [
        ("debug", {"debug", "info", "warning", "error"}, {"info", "warning", "error"}),
        ("info", {"info", "warning", "error"}, {"warning", "error"}),
        ("warning", {"warning", "error"}, {"warning", "error"}),
        ("error", {"error"}, {"error"}),
    ],
)
def test_levels(level: str, ours: set[str], libraries: set[str]) -> None:
    stream = io.StringIO()
    configure("json", level, stream=stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger("tailrace"), name)("spoken")
        getattr(logging.getLogger("library"), name)("spoken")
    spoken = [(entry["logger"], entry["level"]) for entry in entries(stream)]
    assert {level for name, level in spoken if name == "tailrace"} == ours
    assert {level for name, level in spoken if name == "library"} == libraries


class Odd:
    def __str__(self) -> str:
        return f"<odd tr_dev_{S}>"


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_no_entry_holds_a_secret(log_format: str) -> None:
    stream = io.StringIO()
    configure(log_format, "debug", stream=stream)
    log = structlog.get_logger("tailrace")
    url = f"redis://:{S}@h"
    structlog.contextvars.bind_contextvars(bound=url)
    log.info(f"at {url}", url=url, nested={"a": [url, {"b": (url,)}]}, odd=Odd(), raw=url.encode(), error=OSError(url))
    log.info("named", authorization=S, Password=S, headers={"Authorization": S, "public-access-token": S})
    log.info("at %s", url)
    library = logging.getLogger("library")
    library.warning("at %s", url, extra={"url": url})
    library.warning(url, stack_info=True)
    password = S  # a local variable of a frame in the traceback
    for speak in (log.exception, library.exception):
        try:
            try:
                raise ConnectionError(f"cannot reach {url} with {password[:3]}...")
            except ConnectionError as error:
                raise RuntimeError(f"tr_prod_{S}") from error
        except RuntimeError:
            speak("broke")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"deprecated {url}", UserWarning, stacklevel=1)
    text = stream.getvalue()
    assert S not in text
    assert text.count("ConnectionError") >= 2
    assert text.count("RuntimeError") >= 2
    assert "deprecated" in text


def test_a_long_value_is_cut() -> None:
    stream = io.StringIO()
    configure("json", "info", stream=stream)
    text = "x" * 19_990 + f" redis://:{S}@h " + "x" * 100_000
    structlog.get_logger("tailrace").info("chunk_quarantined", text=text)
    (entry,) = entries(stream)
    assert S[:3] not in entry["text"]
    assert entry["text"].endswith(f"... ({len(text)} characters)")
    assert len(entry["text"]) < 21_000


def test_a_second_call_replaces_the_first() -> None:
    first, second = io.StringIO(), io.StringIO()
    configure("json", "info", stream=first)
    configure("json", "info", stream=second)
    structlog.get_logger("tailrace").info("once")
    assert first.getvalue() == ""
    assert len(entries(second)) == 1


def test_logs_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    configure("json", "info")
    structlog.get_logger("tailrace").info("spoken")
    assert capsys.readouterr().out == ""


def test_importing_configures_nothing() -> None:
    code = (
        "import logging, sys; before = (sys.excepthook, logging.root.handlers[:], logging.root.level);"
        "import tailrace.telemetry, structlog;"
        "assert (sys.excepthook, logging.root.handlers[:], logging.root.level) == before;"
        "assert not structlog.is_configured()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- what fails again and again


def told(trouble: list[tuple[float, Exception | None]]) -> list[str]:
    """Return the events of work that ends so at these moments."""
    now = 0.0
    failing = Failing("work", calm_s=10.0, clock=lambda: now)
    with structlog.testing.capture_logs() as logs:
        for now, outcome in trouble:  # noqa: B007  the clock reads it
            with failing:
                if outcome is not None:
                    raise outcome
    return [line["event"] for line in logs]


def test_trouble_is_told_when_it_begins_and_when_it_is_over() -> None:
    assert told([(0, StoreUnavailable()), (1, StoreUnavailable()), (11, None), (12, None)]) == [
        "work_failed",
        "work_recovered",
    ]


def test_work_that_fails_every_other_time_is_told_once() -> None:
    flapping = [(second, StoreUnavailable() if second % 2 else None) for second in range(40)]
    assert told([*flapping, (60, None), (61, StoreUnavailable())]) == ["work_failed", "work_recovered", "work_failed"]


def test_each_kind_of_error_is_told_once_in_one_trouble() -> None:
    assert told([(0, StoreUnavailable()), (1, ValueError()), (2, StoreUnavailable()), (3, ValueError())]) == [
        "work_failed",
        "work_failed",
    ]
