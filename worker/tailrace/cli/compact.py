"""`tailrace compact`: make sealed streams large and searchable now, instead of by and by."""

from __future__ import annotations

from typing import Annotated

import typer

from tailrace.cli import servers
from tailrace.cli.exits import Exit
from tailrace.cli.output import say


def compact(
    retry: Annotated[bool, typer.Option("--retry", help="Also those that failed before.")] = False,
) -> None:
    """Compact every sealed stream that is not compacted yet, and make its text searchable.

    Workers do this by themselves, a few streams at a time. Safe at any time: contents are compared by digest.
    """
    from tailrace.store.engine import create_engine
    from tailrace.store.keeping.compaction import Compaction, KeepFailed

    compaction = Compaction(create_engine(servers.database(), pool_size=2, application_name="tailrace compact"))
    if retry:
        compaction.retry_failed()
    streams = before = after = failed = 0
    passed: set[int] = set()
    while due := [each for each in compaction.due(1_000) if each not in passed]:
        for stream_id in due:
            passed.add(stream_id)
            try:
                done = compaction.compact(stream_id)
                if done is None:
                    continue
                streams, before, after = streams + 1, before + done.segments_before, after + done.segments_after
                compaction.index(stream_id)
            except KeepFailed as error:
                failed += 1
                say(f"tailrace: {error}")
    say(f"Compacted {streams} streams: {before} segments became {after}.")
    if failed:
        say(f"tailrace: {failed} streams failed; they are readable as they are. --retry tries them again.")
        raise typer.Exit(Exit.FAILED)
