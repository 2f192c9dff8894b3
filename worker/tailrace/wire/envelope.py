"""Where a chunk stands in a v2 body, ``{"data": <chunk>, "id": "<id>"}``: its text, exactly as it was sent. Pure.

As in `chunk_json`, msgspec judges first, and what it refuses gets a second, careful look.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from operator import sub
from typing import Final

import msgspec

from tailrace.wire.chunk_json import (
    BACKSLASH,
    BLANKS,
    HUGE_EXPONENT,
    MAX_DEPTH,
    NUMBER_CLASSES,
    SHALLOW_BYTES,
    bare,
    has_nul_escape,
    is_json,
    is_utf8,
    raw,
    too_deep,
    with_plain_quotes,
    without_surrogates,
)


class Envelope(msgspec.Struct, frozen=True, gc=False):
    """A v2 body ``{"data": <chunk>, "id": "<id>"}``.

    ``data`` is the chunk's JSON as it stands in the body, without the blanks around it. Of a body that was a string it
    is never BAD. None when the member is missing (the writer's ``undefined``).
    """

    data: bytes | None
    id: str


class _Body(msgspec.Struct, gc=False):
    id: str
    data: msgspec.Raw = msgspec.Raw()  # empty when the member is missing: no JSON text is


_body = msgspec.json.Decoder(_Body).decode
_bodies = msgspec.json.Decoder(list[_Body]).decode
_AROUND: Final = len('{"data":,"id":""}')


def envelope(body: str | bytes) -> Envelope | None:
    """Take a v2 body apart.

    None when it is not one JSON object with a string ``id``, or its members are deeper than `MAX_DEPTH`: keep it raw.
    Members may come in any order, others are passed over, and of a repeated one the last counts, as in JavaScript. A
    lone surrogate in the id becomes U+FFFD.
    Source: protocol §2.3.
    """
    try:
        parsed = _body(body)
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return _envelope_refused(body)
    if len(body) >= SHALLOW_BYTES and too_deep(bare(body), MAX_DEPTH + 1):
        return None
    return Envelope(bytes(parsed.data) or None, parsed.id)


def envelopes(bodies: Sequence[str]) -> tuple[list[bytes], list[str]] | None:
    """Take many v2 bodies apart: the data of each and its id, as `envelope` gives them.

    None when one of them is not quite ordinary: ask `envelope` for each. Faster than that when all are.
    """
    if bodies and max(map(len, bodies)) >= SHALLOW_BYTES:
        return None
    try:
        parsed = list(map(_body, bodies))
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    texts = [bytes(each.data) for each in parsed]
    return None if b"" in texts else (texts, [each.id for each in parsed])


def plain_envelopes(bodies: Sequence[str]) -> tuple[list[bytes], list[str]] | None:
    """`envelopes` for bodies without blanks, other members or escapes in the id, as upstream's writer makes them.

    None when one is different, or when not every data is `PLAIN`, or an id is empty. Parsed together and only once.
    """
    if not bodies or max(map(len, bodies)) >= SHALLOW_BYTES:
        return None
    joined = ",".join(bodies)
    try:
        parsed = _bodies(f"[{joined}]")
        whole = joined.encode()
    except (msgspec.DecodeError, RecursionError, UnicodeError):
        return None
    texts, ids = [bytes(each.data) for each in parsed], [each.id for each in parsed]
    # No element is shorter than its data, its id and what an envelope needs around them. All together are as long as
    # the bodies; so if each body has just that length, each element stands exactly where its body stands.
    lengths = map(len, bodies) if len(whole) == len(joined) else map(len, map(str.encode, bodies))
    shortest = {len(each) for each in ids}
    around = set(map(sub, lengths, map(len, texts)))
    if len(parsed) != len(bodies) or len(shortest) != 1 or around != {_AROUND + shortest.pop()}:
        return None
    if b"" in texts or "" in ids:
        return None
    if whole.translate(NUMBER_CLASSES).find(b"e0000") >= 0 and HUGE_EXPONENT.search(whole):
        return None
    return None if BACKSLASH in whole and has_nul_escape(whole) else (texts, ids)


def _envelope_refused(body: str | bytes) -> Envelope | None:
    """`envelope` for what msgspec refuses: lone surrogates, an id that a later one replaces, a deep Python stack."""
    text = bare(body)
    if not text.startswith(b"{") or not is_utf8(text):
        return None
    mended = without_surrogates(text)
    if too_deep(text, MAX_DEPTH + 1):
        return None
    try:
        raw(mended)
    except msgspec.DecodeError:
        return None
    except RecursionError:
        if not is_json(mended):
            return None
    data: bytes | None = None
    identity = b""
    for key, value in _members(text):
        if key == "data":
            data = value
        elif key == "id":
            identity = value
    if not identity.startswith(b'"'):
        return None
    return Envelope(data, _string(identity).encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))


_STRUCTURE: Final = re.compile(rb'"[^"]*"|[\[\]{}:,]')


def _members(text: bytes) -> Iterator[tuple[str, bytes]]:
    """Key and text of each member of a valid JSON object."""
    depth = 0
    key: str | None = None
    value_start = 0
    for token in _STRUCTURE.finditer(with_plain_quotes(text)):
        start = token.start()
        match text[start]:
            case 0x22:  # "
                if key is None:  # inside a value there always is one
                    key = _string(text[start : token.end()])
            case 0x5B | 0x7B:  # [ {
                depth += 1
            case 0x5D | 0x7D:  # ] }
                depth -= 1
                if depth == 0 and key is not None:
                    yield key, text[value_start:start].strip(BLANKS)
            case 0x3A if depth == 1:  # :
                value_start = start + 1
            case 0x2C if depth == 1 and key is not None:  # ,
                yield key, text[value_start:start].strip(BLANKS)
                key = None


def _string(text: bytes) -> str:
    return str(json.loads(text.decode()))  # unlike msgspec it takes lone surrogates
