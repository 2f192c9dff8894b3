"""An event loop whose clock jumps: a wait of an hour takes no time, and is an hour to everything that runs in it."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import AsyncIterator, Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")

_LATE_S = 1e-6  # real clocks never wake early, so neither does this one


class _VirtualLoop(asyncio.SelectorEventLoop):
    def __init__(self) -> None:
        self.now_s = 0.0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        return self.now_s


class _JumpingSelector(selectors.SelectSelector):
    def __init__(self, loop: _VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is None:
            raise AssertionError("everything waits for something that no timer brings")
        if timeout > 0:
            self._loop.now_s += timeout + _LATE_S
        return super().select(0)


def run_virtually(main: Coroutine[Any, Any, Result]) -> Result:
    """`asyncio.run` on a loop of this kind."""
    with asyncio.Runner(loop_factory=_VirtualLoop) as runner:
        return runner.run(main)


async def body_and_time(blocks: AsyncIterator[bytes]) -> tuple[bytes, float]:
    """All of a body, and how long it took until its end."""
    began = asyncio.get_running_loop().time()
    body = b"".join([block async for block in blocks])
    return body, asyncio.get_running_loop().time() - began


def now_s() -> float:
    """The running loop's clock."""
    return asyncio.get_running_loop().time()
