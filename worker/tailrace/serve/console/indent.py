"""JSON text laid out for reading: line ends and blanks are put between its tokens, nothing else is changed. Pure."""

from __future__ import annotations

import re

__all__ = ["indented"]

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[{}\[\],:]|[^\s"{}\[\],:]+', re.DOTALL)


def indented(text: str, step: str = "  ") -> str:
    """Return JSON text with each element on a line of its own. Numbers, escapes and doubled keys stay as they are; text
    that was cut somewhere is laid out as far as it goes."""
    made: list[str] = []
    depth = 0
    tokens = _TOKEN.findall(text)
    for place, token in enumerate(tokens):
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        if token in ("{", "["):
            depth += 1
            made.append(token)
            if following not in ("}", "]"):
                made.append("\n" + step * depth)
        elif token in ("}", "]"):
            depth = max(0, depth - 1)
            if not (place and tokens[place - 1] in ("{", "[")):
                made.append("\n" + step * depth)
            made.append(token)
        elif token == ",":
            made.append(",\n" + step * depth)
        elif token == ":":
            made.append(": ")
        else:
            made.append(token)
    return "".join(made)
