"""`tailrace replay`: serve recorded runs over Trigger.dev's own HTTP surface."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def replay(
    recording: Annotated[
        list[Path] | None,
        typer.Option(
            "--recording",
            metavar="FILE",
            exists=True,
            dir_okay=False,
            readable=True,
            help="A recorded run; can be given several times.",
            show_default="the two that come with Tailrace",
        ),
    ] = None,
    port: Annotated[int, typer.Option("--port", min=0, max=65_535, help="0: a free one.")] = 0,
    speed: Annotated[
        float, typer.Option("--speed", min=0, help="2 is twice the recorded pace; 0: everything is there at once.")
    ] = 1.0,
    key: Annotated[
        str,
        typer.Option(
            "--key", envvar="TRIGGER_SECRET_KEY", help="What clients must send as their key.", show_default=False
        ),
    ] = "tr_dev_replay",
) -> None:
    """Serve recorded runs as Trigger.dev would, on 127.0.0.1 until Ctrl-C.

    The URL is the first line of output: give it to `tailrace` as TRIGGER_API_URL. The key is tr_dev_replay unless
    --key or TRIGGER_SECRET_KEY says otherwise.
    """
    from tailrace.devtools.recordings import bundled_recordings
    from tailrace.serve.server import main

    main(recording or bundled_recordings(), port, speed, key)
