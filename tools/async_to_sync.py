"""Make the blocking half of the Streams API of its asyncio half: ``make halves`` writes it.

`HALVES` names the files. A name that has another one in the blocking half stands in `WORDS`, a sentence of a docstring
that does in `SENTENCES`. Where the code itself differs, the source has a block::

    # asyncio:
    ...                        (as many lines as it takes)
    # blocking: ...            (what stands there instead: one line, or nothing)

Tested by tests/unit/streams/test_streams_halves.py: what is written is what would be made.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "worker" / "tailrace"
HALVES = {
    "streams/aio_calls.py": "streams/calls.py",
    "streams/aio_readers.py": "streams/readers.py",
    "runs/aio_subscriptions.py": "runs/subscriptions.py",
}
WORDS = {
    "AsyncIterable": "Iterable",
    "AsyncIterator": "Iterator",
    "StopAsyncIteration": "StopIteration",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "aclose": "close",
    "aio_readers": "readers",
    "aio_waiter": "waiter",
    "aiter": "iter",
    "anext": "next",
}
SENTENCES = {
    "an ``async with``": "a ``with``",
    " Cancelling a wait for a chunk loses nothing: the next ``anext`` goes on.": "",
    "from one task at a time; what ends it from another, or from a thread, is": "from one thread at a time; what ends "
    "it from another is",
    "An ASGI server cancels it when the client leaves, and so leaves upstream.": "Closing it, as servers do when the "
    "client leaves, leaves upstream.",
    "an ASGI server": "a WSGI server",
    "; it may be a coroutine function": "",
    "Leave upstream, and return when it is left": "Leave upstream now",
}
CODE = {"Awaitable[object] | object": "object"}
BLOCK = re.compile(r"^( *)# asyncio:\n(?:.*\n)*?\1# blocking:(?: (.*))?\n", re.MULTILINE)


def blocking_half(source: str, text: str) -> str:
    """Return the blocking half of a source, formatted as everything else is."""
    head, _, code = text.partition("from __future__ import annotations\n")
    assert head.startswith('"""'), f"{source} has no docstring"
    code = BLOCK.sub(lambda block: f"{block[1]}{block[2]}\n" if block[2] else "", code)
    for before, after in CODE.items():
        code = code.replace(before, after)
    for before, after in SENTENCES.items():
        # A sentence may be broken over lines: the line breaks are the formatter's, and the longest words decide.
        pattern = r"\s+".join(map(re.escape, before.split(" "))) if before[0] != " " else re.escape(before)
        code = re.sub(pattern, after, code)
    code = re.sub(r"\b(async |await )", "", code)
    code = re.sub(r"\b(" + "|".join(WORDS) + r")\b", lambda word: WORDS[word[1]], code)
    head = (
        f'"""The blocking half of `{Path(source).stem}`. Made of it by tools/async_to_sync.py: change that one."""\n\n'
    )
    return formatted(head + "from __future__ import annotations\n" + code)


def formatted(code: str) -> str:
    """Return code without unused imports, sorted and formatted by the project's own rules."""
    name = str(PACKAGE / "made.py")
    for arguments in (["check", "--quiet", "--fix-only", "--select", "F401,I"], ["format", "--quiet"]):
        command = [sys.executable, "-m", "ruff", *arguments, "--stdin-filename", name, "-"]
        code = subprocess.run(command, input=code, capture_output=True, text=True, check=True).stdout
    return code


def main() -> None:
    for source, made in HALVES.items():
        (PACKAGE / made).write_text(
            blocking_half(source, (PACKAGE / source).read_text(encoding="utf-8")), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
