"""Show something anew each second, until Ctrl-C."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from tailrace.cli.output import shown, stdout
from tailrace.errors import StoreUnavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

EVERY_S = 1.0


def watched(draw: Callable[[int, int], Sequence[RenderableType]]) -> None:
    """Draw until Ctrl-C, which is how it ends: no failure. ``draw`` is told the terminal's width and height.

    A database that goes away is said above what was last seen, and asked again.
    """
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    console = stdout()
    seen: Sequence[RenderableType] = ()
    with (
        contextlib.suppress(KeyboardInterrupt),
        Live(console=console, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while True:
            began = time.monotonic()
            trouble: list[RenderableType] = []
            try:
                seen = draw(console.width, console.height)
            except StoreUnavailable as error:
                trouble = [Text(f"the database does not answer: {shown(error)}", style="bold red")]
            live.update(Group(*trouble, *seen), refresh=True)
            time.sleep(max(0.0, EVERY_S - (time.monotonic() - began)))
