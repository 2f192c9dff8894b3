"""`tailrace chunks`: print stored chunks, byte for byte."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from tailrace.cli.archives import chosen_streams, open_archive, the_run
from tailrace.cli.arguments import AsJson, Environment, OneStream, RunId
from tailrace.cli.output import end_with_reader, write_bytes, write_json


def chunks(
    run_id: RunId,
    stream: OneStream = None,
    first: Annotated[int, typer.Option("--from", metavar="N", min=0, help="First index, included.")] = 0,
    last: Annotated[
        int | None, typer.Option("--to", metavar="N", min=0, help="Last index, included.", show_default="the end")
    ] = None,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Print the chunks of a run: one JSON text a line, exactly as upstream sent it.

    Streams follow each other by key, chunks by generation and index. A chunk that holds raw line ends between its
    tokens spans several lines here; --json puts each on one line with its stream, generation and index.
    """
    from tailrace.store.queries import LAST_INDEX

    end_with_reader()
    archive = open_archive()
    for each in chosen_streams(archive, the_run(archive, run_id, environment), stream):
        for chunk in archive.chunks(each.id, first, LAST_INDEX if last is None else last):
            if as_json:
                write_json(
                    {
                        "stream_key": each.stream_key,
                        "generation": chunk.generation,
                        "index": chunk.chunk_index,
                        "data_text": chunk.text.decode(),
                    }
                )
            else:
                write_bytes(chunk.text)
    sys.stdout.flush()
