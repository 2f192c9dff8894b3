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
