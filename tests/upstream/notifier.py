"""Wakes asyncio readers from any thread: a writer rings, every waiting reader looks again."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")

_Waiter = tuple[asyncio.AbstractEventLoop, "asyncio.Future[None]"]


class Notifier:
    """One per thing that readers wait for."""

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._waiting: set[_Waiter] = set()

    def ring(self) -> None:
        """Wake everyone. Call it after the change is visible; from any thread, the readers' own included."""
        with self._guard:
            waiting, self._waiting = self._waiting, set()
        for loop, future in waiting:
            try:
                loop.call_soon_threadsafe(_wake, future)
            except RuntimeError:  # the reader's loop has been closed: nobody waits there any more
                continue

    async def until(self, look: Callable[[], Found], timeout_s: float) -> Found:
        """What ``look`` returns, as soon as that is true (in Python's sense), or after ``timeout_s`` in any case."""
        found = look()
        if found or timeout_s <= 0:
            return found
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout_s
        while True:
            woken = loop.create_future()
            waiter: _Waiter = (loop, woken)
            with self._guard:
                self._waiting.add(waiter)
            timer = loop.call_at(deadline, _wake, woken)
            try:
                # Looked again after being on the list, so that a ring in between is not missed.
                found = look()
                if found or loop.time() >= deadline:
                    return found
                await woken
            finally:
                timer.cancel()
                with self._guard:
                    self._waiting.discard(waiter)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
