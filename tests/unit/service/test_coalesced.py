"""Many callers share a question; one that comes alone does not wait for others."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tailrace.service import coalesced
from tailrace.service.coalesced import Coalesced


class Question:
    """Answers each key with itself; holds back until it may go on."""

    def __init__(self) -> None:
        self.asked: list[list[int]] = []
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self, keys: list[int]) -> dict[int, int]:
        self.asked.append(keys)
        assert self.may_answer.wait(10)
        if 13 in keys:
            raise ValueError(keys)
        return {key: key for key in keys if key >= 0}


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    found: list[float] = []
    monkeypatch.setattr(coalesced.time, "sleep", found.append)
    return found


def test_one_after_the_other_nobody_waits(slept: list[float]) -> None:
    """However soon the next one comes; neither before its question nor after its answer."""
    question = Question()
    asking = Coalesced(question, clock=lambda: 0.0)
    assert [asking.get(key) for key in range(5)] == list(range(5))
    assert question.asked == [[key] for key in range(5)]
    assert slept == []


def test_those_who_come_meanwhile_go_along_with_the_next_and_that_waits_for_others(slept: list[float]) -> None:
    question = Question()
    question.may_answer.clear()
    asking = Coalesced(question, clock=lambda: 0.0)
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(asking.get, 0)
        while not question.asked:
            pass
        others = [threads.submit(asking.get, key) for key in range(1, 6)]
        while len(asking._waiting) < 5:
            pass
        question.may_answer.set()
        assert [each.result(10) for each in (first, *others)] == list(range(6))
    assert [sorted(keys) for keys in question.asked] == [[0], [1, 2, 3, 4, 5]]
    assert slept == []
    assert asking.get(9) == 9
    assert slept == [coalesced.GATHER_S], "there were many just now"


def test_no_answer_is_none_and_an_error_is_everybodys(slept: list[float]) -> None:
    asking = Coalesced(Question())
    assert asking.get(-1) is None
    with pytest.raises(ValueError, match="13"):
        asking.get(13)
    assert asking.get(1) == 1


def test_a_question_is_about_so_many_and_the_rest_are_in_the_next_which_waits_for_nobody(slept: list[float]) -> None:
    question = Question()
    question.may_answer.clear()
    asking = Coalesced(question, clock=lambda: 0.0, at_most=2)
    with ThreadPoolExecutor(6) as threads:
        first = threads.submit(asking.get, 0)
        while not question.asked:
            pass
        others = [threads.submit(asking.get, key) for key in range(1, 6)]
        while len(asking._waiting) < 5:
            pass
        question.may_answer.set()
        assert [each.result(10) for each in (first, *others)] == list(range(6))
    assert [len(keys) for keys in question.asked] == [1, 2, 2, 1]
    assert slept == [coalesced.GATHER_S], "but the last of them might find others"


def test_who_leads_asks_no_longer_than_until_it_has_its_own_answer(slept: list[float]) -> None:
    """Others come without end; each is asked for, and nobody asks for the others for ever."""
    asking = Coalesced(lambda keys: {key: key for key in keys}, clock=lambda: 0.0, at_most=1)
    seen: list[int] = []
    ask = asking._ask

    def question(keys: list[int]) -> dict[int, int]:
        if len(seen) < 200:  # while one question is on its way, the next caller comes
            seen.append(keys[0])
            threads.submit(asking.get, len(seen))
            while not asking._waiting:
                pass
        return ask(keys)

    asking._ask = question
    with ThreadPoolExecutor(8) as threads:
        assert asking.get(0) == 0
        assert len(seen) < 5, "it led on for others"


def test_who_is_ended_while_it_asks_leaves_the_question_to_others(slept: list[float]) -> None:
    class Ended(BaseException):
        pass

    begun, may_end = threading.Event(), threading.Event()

    def question(keys: list[int]) -> dict[int, int]:
        if not begun.is_set():
            begun.set()
            assert may_end.wait(10)
            raise Ended
        return {key: key for key in keys}

    asking = Coalesced(question, clock=lambda: 0.0)
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(asking.get, 0)
        assert begun.wait(10)
        others = [threads.submit(asking.get, key) for key in (1, 2)]
        while len(asking._waiting) < 2:
            pass
        may_end.set()
        with pytest.raises(Ended):
            first.result(10)
        assert [each.result(10) for each in others] == [1, 2]
    assert asking.get(3) == 3
