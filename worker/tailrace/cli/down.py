"""`tailrace down`: stop the embedded servers of this folder."""

from __future__ import annotations

from tailrace.cli import servers
from tailrace.cli.output import say


def down() -> None:
    """Stop the servers that `tailrace up` or `tailrace demo` started in this folder. Their data stays."""
    from tailrace.devtools.servers import down as stop

    home = servers.home()
    stopped = stop(home)
    if stopped:
        say(f"Stopped {' and '.join(stopped)} of {home}. The data stays; `tailrace up` starts them again.")
    else:
        say(f"No servers run in {home}.")
