"""`tailrace text`: print the text that a run's chunks add up to."""

from __future__ import annotations

from tailrace.cli.archives import chosen_streams, open_archive, the_run
from tailrace.cli.arguments import AsJson, Environment, OneStream, RunId
from tailrace.cli.output import end_with_reader, say, write, write_json


def text(
    run_id: RunId,
    stream: OneStream = None,
    environment: Environment = None,
    as_json: AsJson = False,
) -> None:
    """Print the text of a run's streams, put together from their chunks: the answer of each.

    Knows the chunks of the usual AI libraries (docs/shapes.md; view tailrace.stream_text). Several texts are
    each headed by the name of their stream. --json prints one object a line, streams without text and generations
    that upstream began anew included.
    """
    end_with_reader()
    archive = open_archive()
    run = the_run(archive, run_id, environment)
    chosen_streams(archive, run, stream)
    texts = archive.texts(run, stream)
    if as_json:
        for each in texts:
            write_json(each._asdict())
        return
    newest = {each.stream_key: each for each in texts}  # generations come in order
    readable = [each for each in newest.values() if each.text is not None]
    for each in readable:
        if len(readable) > 1:
            write(f"== {each.stream_key}")
        write((each.text or "").removesuffix("\n"))
    if not readable:
        say(f"tailrace: no text in {run_id}: its chunks hold none that Tailrace knows (see `tailrace chunks`)")
