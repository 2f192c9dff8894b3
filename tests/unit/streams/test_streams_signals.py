"""AbortController and AbortSignal."""

from __future__ import annotations

import threading

import pytest

from tailrace.streams import AbortController, AbortSignal, StreamAborted


def test_a_controller_aborts_its_signal_once() -> None:
    controller = AbortController()
    signal, calls = controller.signal, []
    signal.listen(lambda: calls.append(1))
    assert not signal.aborted
    signal.throw_if_aborted()
    assert signal.reason is None
    controller.abort("enough")
    controller.abort("again")
    assert signal.aborted
    assert (signal.reason, calls) == ("enough", [1])
    with pytest.raises(StreamAborted, match="aborted: enough") as caught:
        signal.throw_if_aborted()
    assert caught.value.reason == "enough"


def test_who_does_not_listen_any_more_is_not_called() -> None:
    controller, calls = AbortController(), []
    end = controller.signal.listen(lambda: calls.append(1))
    end()
    end()
    controller.abort()
    assert calls == []


def test_a_timeout_aborts_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    signal = AbortSignal.timeout(5)
    assert (signal.aborted, signal.remaining_s()) == (False, 5)
    now[0] = 105.0
    assert (signal.aborted, signal.remaining_s()) == (True, 0)
    assert isinstance(signal.reason, TimeoutError)


def test_any_is_aborted_as_soon_as_one_is() -> None:
    first, second = AbortController(), AbortController()
    both = AbortSignal.any([first.signal, second.signal, AbortSignal.timeout(60)])
    calls: list[int] = []
    end = both.listen(lambda: calls.append(1))
    assert both.remaining_s() is not None
    assert not both.aborted
    second.abort("second")
    assert (both.aborted, both.reason, calls) == (True, "second", [1])
    end()
    first.abort()
    assert calls == [1]
    assert AbortSignal.any([]).remaining_s() is None


def test_a_listener_may_abort_again_and_many_threads_may() -> None:
    controller, calls = AbortController(), []

    def again() -> None:
        calls.append(1)
        controller.abort()

    controller.signal.listen(again)
    threads = [threading.Thread(target=controller.abort) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert calls == [1]
