"""Show a result a screen at a time, where somebody looks at it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import sys

__all__ = ["page"]

DEFAULT = "less"
LESS = "FRX"
"""What git gives it too: end at once if all fits, show colours, leave the text on the screen."""


def page(text: str) -> None:
    """Write lines to stdout; through PAGER (else less) where stdout is a terminal and they are more than it shows.

    ``PAGER=cat`` shows them all at once, and so does a pager that can't be started.
    """
    encoded = text.encode("utf-8", "surrogateescape")
    if not (sys.stdout.isatty() and _is_long(text) and _paged(encoded)):
        sys.stdout.buffer.write(encoded)


def _is_long(text: str) -> bool:
    columns, lines = shutil.get_terminal_size()
    return sum(max(1, -(-len(line) // columns)) for line in text.splitlines()) >= lines


def _paged(text: bytes) -> bool:
    """Have the pager show it; False when there is none."""
    command = shlex.split(os.environ.get("PAGER", "")) or [DEFAULT]
    sys.stdout.flush()
    try:
        pager = subprocess.Popen(command, stdin=subprocess.PIPE, env={"LESS": LESS, **os.environ})
    except OSError:
        return False
    # Ctrl-C is for the pager; one that is left before it has read all is no error.
    before = {each: signal.signal(each, signal.SIG_IGN) for each in (signal.SIGINT, signal.SIGPIPE)}
    try:
        pager.communicate(text)
    finally:
        for each, what in before.items():
            signal.signal(each, what)
    return True
