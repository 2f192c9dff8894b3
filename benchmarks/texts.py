"""Chunks of real text: English prose cut into the tokens that a language model streams, in the AI SDK's envelope.

The prose is the language reference that Python brings along, so nothing is downloaded and every machine has it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import cycle, islice
from pydoc_data.topics import topics

_TOKEN = re.compile(r"\s?[A-Za-z]{1,7}|\s?[0-9]{1,3}|\s+|.", re.DOTALL)


@lru_cache(maxsize=1)
def tokens() -> tuple[str, ...]:
    """Return the tokens of the prose, in order: about 4 characters each."""
    return tuple(token for name in sorted(topics) for token in _TOKEN.findall(topics[name]))


def chunks(count: int, start: int = 0) -> Iterator[bytes]:
    """Give ``count`` chunks as JSON texts: about 56 bytes each, the prose repeated as often as needed."""
    words = tokens()
    for token in islice(cycle(words), start % len(words), start % len(words) + count):
        yield b'{"type":"text-delta","id":"txt-7f3a0c2","delta":%b}' % json.dumps(token).encode()
