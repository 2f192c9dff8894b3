"""A guess is answered late, so many at once and no more; whoever leaves is not waited for."""

from __future__ import annotations

import asyncio

from starlette.types import Message
from structlog.testing import capture_logs

from tailrace.serve.admission import NotAdmitted
from tailrace.serve.late_answers import TOLD_EVERY_S, LateAnswers
from tests.unit.serve.virtual_time import run_virtually

GUESS = NotAdmitted("Invalid API key", guessed=True)
NO_GUESS = NotAdmitted("Invalid or Missing API key", guessed=False)


async def stays() -> Message:
    await asyncio.sleep(1_000_000)
    raise AssertionError


async def leaves() -> Message:
    return {"type": "http.disconnect"}


def test_a_guess_is_answered_late_and_what_is_none_at_once() -> None:
    async def both() -> tuple[float, float]:
        loop, late_answers = asyncio.get_running_loop(), LateAnswers(late_s=2)
        began = loop.time()
        assert (await late_answers.answer(NO_GUESS, stays)).status_code == 401
        between = loop.time()
        response = await late_answers.answer(GUESS, stays)
        assert (response.status_code, response.body) == (401, b'{"error":"Invalid API key"}')
        assert response.headers["access-control-allow-origin"] == "*"
        return between - began, loop.time() - between

    at_once, late = run_virtually(both())
    assert at_once == 0
    assert 2 <= late < 2.1


def test_so_many_wait_and_the_others_are_sent_away_at_once() -> None:
    async def flood() -> None:
        loop, late_answers = asyncio.get_running_loop(), LateAnswers(late_s=2, most_at_once=10)
        waiting = [asyncio.create_task(late_answers.answer(GUESS, stays)) for _ in range(10)]
        await asyncio.sleep(0)
        assert late_answers.waiting == 10
        began = loop.time()
        for _ in range(1_000):
            response = await late_answers.answer(GUESS, stays)
            assert (response.status_code, response.headers["connection"]) == (401, "close")
        assert loop.time() == began
        assert late_answers.waiting == 10
        for each in await asyncio.gather(*waiting):
            assert "connection" not in each.headers
        assert late_answers.waiting == 0

    run_virtually(flood())


def test_whoever_leaves_makes_room() -> None:
    async def leave() -> None:
        loop, late_answers = asyncio.get_running_loop(), LateAnswers(late_s=2, most_at_once=1)
        for _ in range(100):
            await late_answers.answer(GUESS, leaves)
        assert loop.time() == 0
        cancelled = asyncio.create_task(late_answers.answer(GUESS, stays))
        await asyncio.sleep(0)
        cancelled.cancel()
        await asyncio.gather(cancelled, return_exceptions=True)
        assert late_answers.waiting == 0

    run_virtually(leave())


def test_a_flood_is_one_line_a_minute_with_how_many_there_were() -> None:
    async def told() -> None:
        now = 0.0
        late_answers = LateAnswers(late_s=0, clock=lambda: now)
        with capture_logs() as lines:
            for _ in range(100):
                await late_answers.answer(GUESS, stays)
            now += TOLD_EVERY_S
            await late_answers.answer(NotAdmitted("Invalid Public Access Token", guessed=False, subject="id_1"), stays)
        assert [(line["event"], line["count"], line["reason"], line["subject"]) for line in lines] == [
            ("access_refused", 1, "Invalid API key", None),
            ("access_refused", 100, "Invalid Public Access Token", "id_1"),
        ]

    run_virtually(told())
