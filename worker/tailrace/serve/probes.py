"""What a process that serves says to whoever asks whether it lives and is ready, from other threads than its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import CancelledError
from concurrent.futures import TimeoutError as NotInTime
from typing import Any

from tailrace.errors import StoreUnavailable

__all__ = ["Probes"]

ANSWER_S = 4.0
"""A loop that serves turns within milliseconds; one that did not for so long hangs. Probes wait 5 s."""


class Probes:
    """Of one process. Alive while its loop turns; ready between `begin` and `end`, while its database answers."""

    def __init__(self, answer_s: float = ANSWER_S) -> None:
        self._answer_s = answer_s
        self._loop: asyncio.AbstractEventLoop | None = None
        self._healthy: Callable[[], Awaitable[object]] | None = None

    def begin(self, healthy: Callable[[], Awaitable[object]]) -> None:
        """It serves from now on, in this loop. ``healthy`` raises when requests can't be answered."""
        self._loop = asyncio.get_running_loop()
        self._healthy = healthy

    def end(self) -> None:
        """It takes nobody any more. Whether it lives is still told."""
        self._healthy = None

    def live(self) -> list[str]:
        """Return what is wrong with the process; nothing before it has begun."""
        return [] if self._loop is None else self._told(self._loop, _turns())

    def ready(self) -> list[str]:
        """Return why nobody should be sent here now."""
        loop, healthy = self._loop, self._healthy
        if loop is None:
            return ["it has not begun to serve"]
        if healthy is None:
            return ["it is stopping"]
        return self._told(loop, _answers(healthy))

    def _told(self, loop: asyncio.AbstractEventLoop, asked: Coroutine[Any, Any, list[str]]) -> list[str]:
        try:
            told = asyncio.run_coroutine_threadsafe(asked, loop)
        except RuntimeError:  # the loop has ended
            asked.close()
            return ["it has stopped"]
        try:
            return told.result(self._answer_s)
        except (NotInTime, CancelledError):
            told.cancel()
            return [f"it did not answer within {self._answer_s:g} s"]


async def _turns() -> list[str]:
    return []


async def _answers(healthy: Callable[[], Awaitable[object]]) -> list[str]:
    try:
        await healthy()
    except StoreUnavailable as error:
        return [str(error)]
    except Exception as error:  # noqa: BLE001  whoever asks must be told, whatever it is
        return [f"it can't answer: {type(error).__name__}"]
    return []
