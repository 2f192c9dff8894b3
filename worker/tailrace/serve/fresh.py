"""A value that is looked up in a thread, and again when it is older than whoever asks will have it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar, cast

__all__ = ["Fresh"]

Value = TypeVar("Value")

AGAIN_AFTER_S = 1.0
"""After a look that failed nobody looks for so long: what can't be reached takes seconds to say so."""


@dataclass(frozen=True, slots=True)
class _Looked(Generic[Value]):
    """What a look found, or how it failed, and when."""

    at: float
    value: Value | None = None
    error: Exception | None = None

    def given(self) -> Value:
        if self.error is not None:
            raise self.error.with_traceback(None)  # which would grow with each time that it is raised
        return cast("Value", self.value)


class Fresh(Generic[Value]):
    """However many ask, one looks, and all wait for it. One event loop."""

    def __init__(self, look: Callable[[], Value], clock: Callable[[], float] = time.monotonic) -> None:
        """``look`` is called in a thread, never twice at a time; what it raises, all who wait for it get."""
        self._look = look
        self._clock = clock
        self._looking: asyncio.Task[_Looked[Value]] | None = None
        self._last: _Looked[Value] | None = None

    async def at_most(self, age_s: float) -> Value:
        """Return the value as it was at most so long ago."""
        last, now = self._last, self._clock()
        if last is not None and now - last.at <= (age_s if last.error is None else AGAIN_AFTER_S):
            return last.given()
        if self._looking is None:
            self._looking = asyncio.create_task(self._looked())
        # Shielded: whoever is gone before it is found out ends nobody else's look, and begins no second one.
        return (await asyncio.shield(self._looking)).given()

    async def _looked(self) -> _Looked[Value]:
        began = self._clock()
        try:
            self._last = _Looked(began, await asyncio.to_thread(self._look))
        except Exception as error:  # noqa: BLE001  raised again where it is waited for
            self._last = _Looked(self._clock(), error=error)
        finally:
            self._looking = None
        return self._last
