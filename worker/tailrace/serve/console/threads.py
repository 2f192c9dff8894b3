"""Statements are executed in a few threads, so that the loop that serves never waits for Postgres."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


class Threads:
    """So many statements at once; the others wait for their turn, in the order of asking."""

    def __init__(self, most: int) -> None:
        self._pool = ThreadPoolExecutor(most, thread_name_prefix="tailrace-console")

    async def run(self, ask: Callable[Asked, Answer], *args: Asked.args, **kwargs: Asked.kwargs) -> Answer:
        """Return what a function returns that waits for Postgres."""
        return await asyncio.get_running_loop().run_in_executor(self._pool, lambda: ask(*args, **kwargs))

    def close(self) -> None:
        """Wait for those that are under way."""
        self._pool.shutdown(cancel_futures=True)
