"""The control loop says once that it can't do its work, not at every turn."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from structlog.testing import capture_logs

from tailrace.errors import StoreUnavailable
from tailrace.service.control import ControlLoop

TURNS = 5


class Away:
    """A runtime whose database does not answer; its maintenance is not due."""

    def __init__(self) -> None:
        self.environments = SimpleNamespace(follow=lambda _: None, enrol_missed=lambda: None)
        self.turns = 0
        self.enough = threading.Event()

    def claim(self, *_: Any) -> list[int]:
        self.turns += 1
        if self.turns >= TURNS:
            self.enough.set()
        raise StoreUnavailable

    def maintenance(self) -> None: ...


def test_an_outage_is_one_line_in_the_log() -> None:
    runtime = Away()
    control = ControlLoop(runtime, lambda: 1, lambda _: None, every_s=0.001, run=1)  # type: ignore[arg-type]
    with capture_logs() as logs:
        control.start()
        assert runtime.enough.wait(10)
        control.stop()
    assert [line["event"] for line in logs] == ["control_turn_failed"]


class Checked:
    """An environment in which there is always a run to check late. Notes which threads ask."""

    def __init__(self) -> None:
        self.name = "default"
        self.retired = threading.Event()
        self.enough = threading.Event()
        self.threads: list[int] = []

    def watch(self, *_: Any) -> tuple[int, bool]:
        return 0, False

    def check_late(self, limit: int) -> int:
        self.threads.append(threading.get_ident())
        if len(self.threads) >= 400:
            self.enough.set()
        return limit


def test_late_checks_are_made_by_four_at_once_of_each_environment() -> None:
    """Each has one connection at a time, which no limit of connections counts."""
    environment, runtime = Checked(), Away()
    runtime.environments.follow = lambda attend: attend(environment)
    control = ControlLoop(runtime, lambda: 1, lambda _: None, every_s=10.0)  # type: ignore[arg-type]
    control.start()
    assert environment.enough.wait(10)
    control.stop()
    assert 1 <= len(set(environment.threads)) <= 4
