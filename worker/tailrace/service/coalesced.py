"""One question for many callers: what costs by the question and hardly by the thing that is asked about."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

_K = TypeVar("_K", bound=Hashable)
_T = TypeVar("_T")

GATHER_S = 0.05


class Coalesced(Generic[_K, _T]):
    """Asks for many things at once: callers that come while a question is on its way go along with the next.

    5 000 leases one by one took 2.9 s, in one statement 65 ms.
    """

    def __init__(
        self,
        ask: Callable[[list[_K]], dict[_K, _T]],
        clock: Callable[[], float] = time.monotonic,
        *,
        at_most: int | None = None,
    ) -> None:
        """``at_most``: of one question, where the answers are large."""
        self._ask = ask
        self._at_most = at_most
        self._clock = clock
        self._asked_at = -GATHER_S
        self._many = False  # callers were in the last question
        self._lock = threading.Lock()
        self._waiting: list[_Ticket[_K, _T]] = []
        self._asking = False

    def get(self, key: _K) -> _T | None:
        """Return the answer for ``key``, None when there is none. Raises what the question raised."""
        ticket = _Ticket[_K, _T](key)
        with self._lock:
            self._waiting.append(ticket)
            ticket.leads = not self._asking
            self._asking = True
        try:
            if not ticket.leads:
                ticket.called.wait()
            while not ticket.answered:  # then it leads
                self._ask_next()
        finally:
            self._leave(ticket)
        if ticket.error is not None:
            raise ticket.error
        return ticket.answer

    def _ask_next(self) -> None:
        """Ask for those who have waited longest."""
        with self._lock:
            enough = self._at_most is not None and len(self._waiting) >= self._at_most
        # One that comes alone is asked at once; one of many, as after a takeover, waits for some of the others.
        if self._many and not enough and self._clock() - self._asked_at < GATHER_S:
            time.sleep(GATHER_S)
        with self._lock:
            count = len(self._waiting) if self._at_most is None else self._at_most
            tickets, self._waiting = self._waiting[:count], self._waiting[count:]
        answers: dict[_K, _T] = {}
        error: Exception | None = None
        try:
            answers = self._ask([ticket.key for ticket in tickets])
        except Exception as raised:  # noqa: BLE001  raised again in each caller
            error = raised
        except BaseException:  # whoever asks is ended: others ask
            with self._lock:
                self._waiting[:0] = tickets
            raise
        self._asked_at, self._many = self._clock(), len(tickets) > 1
        for ticket in tickets:
            ticket.answer, ticket.error, ticket.answered = answers.get(ticket.key), error, True
            ticket.called.set()

    def _leave(self, ticket: _Ticket[_K, _T]) -> None:
        """Wait no more. Who leads hands that on: it must not ask for others while its own stream waits for it."""
        with self._lock:
            if ticket in self._waiting:
                self._waiting.remove(ticket)
            if not ticket.leads:
                return
            self._asking = bool(self._waiting)
            if self._waiting:
                self._waiting[0].leads = True
                self._waiting[0].called.set()


class _Ticket(Generic[_K, _T]):
    def __init__(self, key: _K) -> None:
        self.key = key
        self.called = threading.Event()  # it has its answer, or is to lead
        self.leads = False
        self.answered = False
        self.answer: _T | None = None
        self.error: Exception | None = None
