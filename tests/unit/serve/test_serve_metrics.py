"""What a process that serves counts of what goes wrong."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tailrace.errors import StoreUnavailable
from tailrace.model import Wire
from tailrace.serve import metrics
from tailrace.serve.app import create_app_of
from tailrace.serve.archive.follower import Follower
from tailrace.serve.archive.threads import Threads
from tailrace.serve.connections import Connections
from tailrace.serve.late_answers import LateAnswers
from tailrace.serve.one_key import OneKey
from tests.unit.serve.looped import looped


def counted(name: str, **labels: str) -> float:
    return metrics.registry.get_sample_value(f"tailrace_serve_{name}", labels) or 0


class Away:
    """A database that does not answer."""

    def now(self) -> Any:
        raise StoreUnavailable("connection refused")


@looped
async def test_a_look_that_failed_is_counted() -> None:
    before, threads = counted("failed_looks_total", kind="streams"), Threads(1)
    follower = Follower(Away(), threads, pytest.fail)  # type: ignore[arg-type]
    with pytest.raises(StoreUnavailable):
        await follower.follow(1, Wire.V2)
    assert counted("failed_looks_total", kind="streams") == before + 1
    await follower.stop()
    threads.close()


@looped
async def test_answers_are_counted_by_route_and_code_and_refusals_by_why() -> None:
    def no_environment(_: str) -> Any:
        raise StoreUnavailable("connection refused")

    app = create_app_of(OneKey("right"), no_environment, Connections(), late_answers=LateAnswers(late_s=0))
    names = [
        ("answers_total", {"route": "stream", "code": "500"}),
        ("answers_total", {"route": "feed", "code": "401"}),
        ("answers_total", {"route": "run_list", "code": "401"}),
        ("answers_total", {"route": "other", "code": "404"}),
        ("refused_requests_total", {"reason": "wrong"}),
        ("refused_requests_total", {"reason": "missing"}),
    ]
    before = [counted(name, **labels) for name, labels in names]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here") as client:
        right, wrong = ({"authorization": f"Bearer {key}"} for key in ("right", "wrong"))
        for path, headers, status in [
            ("/realtime/v1/streams/run_1/ai", right, 500),
            ("/realtime/v1/runs/run_1", wrong, 401),
            ("/api/v1/runs", {}, 401),
            ("/realtime/v1/runs/run_1/whatever", right, 404),
        ]:
            assert (await client.get(path, headers=headers)).status_code == status
    assert [counted(name, **labels) for name, labels in names] == [each + 1 for each in before]
