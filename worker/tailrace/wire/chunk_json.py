"""What a chunk is: one JSON text that is valid by PostgreSQL's own rules. Pure.

No Python parser agrees with PostgreSQL's ``json`` type: msgspec refuses lone surrogate escapes, `json.loads` takes
``NaN`` and ends in a `RecursionError`. So msgspec judges first, in about 0.1 µs (measured with 0.22: its ``Raw``
validates everything inside except UTF-8 and a limit of depth), and what it refuses gets a second, careful look.
Nothing here recurses without a limit, and all of it takes time in proportion to the text.

Callers::

    text = bare(line)                 # UTF-8, without the blanks around it
    shape = check(text)               # PLAIN, ODD or BAD
    if shape == BAD: why = reason(text)
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import accumulate
from typing import Final

import msgspec

PLAIN: Final = 0
"""Valid, and every JSON operator of PostgreSQL works on it."""
ODD: Final = 1
"""Valid, but ``->>`` or ``::jsonb`` may raise: ``\\u0000``, a lone surrogate, a number that `numeric` can't hold."""
BAD: Final = 2
"""Not one JSON text: PostgreSQL would refuse it (or it is deeper than `MAX_DEPTH`). `reason` says why."""

MAX_DEPTH: Final = 512
"""Arrays and objects inside each other. PostgreSQL's own limit is its stack: some thousands, set by the operator."""
SAFE_BYTES: Final = 16 * 1024 * 1024
"""A larger text is odd: ``jsonb`` holds at most 16.7 million elements of an array and needs up to 12 bytes for each."""

BLANKS: Final = b" \t\n\r"
BACKSLASH: Final = 0x5C
SHALLOW_BYTES: Final = 2 * MAX_DEPTH + 2  # a shorter text can't be too deep: each level has two brackets

raw = msgspec.json.Decoder(msgspec.Raw).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode


# --- checking


def bare(text: str | bytes) -> bytes:
    """The text as UTF-8 without the blanks that JSON allows around it. Not checked.

    A Python string with surrogates has no UTF-8: what comes out then is refused by `check`.
    """
    if isinstance(text, bytes):
        return text.strip(BLANKS)
    try:
        return text.encode().strip(BLANKS)
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogatepass").strip(BLANKS)


def check(text: bytes) -> int:
    """Judge one chunk: `PLAIN`, `ODD` or `BAD`.

    Args:
        text: UTF-8, blanks around it allowed. Anything may come; nothing raises.

    A text called PLAIN never makes ``json``, ``->>`` or ``::jsonb`` raise in a UTF-8 database; one called ODD may be
    harmless. Source: PostgreSQL 14-18, ``src/common/jsonapi.c``, ``src/backend/utils/adt/{jsonb,numeric}.c``.
    """
    try:
        raw(text)
    except (msgspec.DecodeError, RecursionError):
        return _check_refused(text)
    if not text.isascii() and not is_utf8(text):
        return BAD
    size = len(text)
    if size >= SHALLOW_BYTES and too_deep(text):
        return BAD
    # Inlined for speed: this is all that an ordinary chunk pays for the numbers that no `numeric` holds.
    if (text.translate(NUMBER_CLASSES).find(b"e0000") >= 0 or size >= _LONG_NUMBER) and _has_huge_number(text):
        return ODD
    if BACKSLASH in text and has_nul_escape(text):
        return ODD
    return PLAIN


def all_plain(texts: Sequence[bytes]) -> bool:
    """Return whether each of these is `PLAIN`: faster than `check` for each when the answer is yes.

    False means: ask `check` for each (it may still say PLAIN, for a text that is long or has blanks around it).
    """
    joined = b"[%b]" % b",".join(texts)
    lengths = list(map(len, texts))
    try:
        elements = _raws(joined)
    except (msgspec.DecodeError, RecursionError):
        return False
    # Equal lengths in equal order: every element stands exactly where its text stands, so each is one JSON text.
    # A text that is short can be neither too deep nor hold a number that is too long.
    if list(map(len, elements)) != lengths or (lengths and max(lengths) >= SHALLOW_BYTES):
        return False
    if not joined.isascii() and not is_utf8(joined):
        return False
    if joined.translate(NUMBER_CLASSES).find(b"e0000") >= 0:
        return False
    return not (BACKSLASH in joined and has_nul_escape(joined))


def reason(text: bytes) -> str:
    """Why `check` calls a text BAD, in a few words without the text itself; empty when it does not."""
    if not text.strip(BLANKS):
        return "empty"
    if not is_utf8(text):
        return "not UTF-8"
    if check(text) != BAD:
        return ""
    if too_deep(text):
        return f"nested deeper than {MAX_DEPTH}"
    try:
        raw(without_surrogates(text))
    except msgspec.DecodeError as error:
        return f"not JSON: {str(error).removeprefix('JSON is malformed: ').lower()}"
    except RecursionError:
        pass
    return "not JSON"


def _check_refused(text: bytes) -> int:
    """`check` for what msgspec refuses: lone surrogates, and depth when Python's own stack is deep already."""
    if not is_utf8(text):
        return BAD
    mended = without_surrogates(text)
    if too_deep(text):
        return BAD
    try:
        raw(mended)
    except msgspec.DecodeError:
        return BAD
    except RecursionError:
        if not is_json(mended):
            return BAD
    if mended != text or has_nul_escape(text) or _has_huge_number(text):
        return ODD
    return PLAIN


def is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True


# --- escapes
#
# In a valid text backslashes stand in strings only, and a run of them is read in pairs from its left. So replacing
# each pair first leaves only those that begin another escape. Every replacement keeps the length, hence positions, and
# keeps an invalid text invalid: outside a string neither a backslash nor what takes its place is JSON.

_SURROGATE_ESCAPE: Final = re.compile(rb"\\u[dD][89a-fA-F][0-9a-fA-F]{2}")


def has_nul_escape(text: bytes) -> bool:
    return text.find(b"\\u0000") >= 0 and text.replace(b"\\\\", b"__").find(b"\\u0000") >= 0


def without_surrogates(text: bytes) -> bytes:
    """The text with harmless escapes for those of surrogates: as valid as the text is for PostgreSQL's ``json``."""
    return _SURROGATE_ESCAPE.sub(rb"\\u0020", text)  # after an escaped backslash it changes plain letters: no harm


def with_plain_quotes(text: bytes) -> bytes:
    """The text with every quote that is not the end of a string taken away."""
    return text.replace(b"\\\\", b"__").replace(b'\\"', b"__") if BACKSLASH in text else text


# --- numbers
#
# `numeric`, and so jsonb, holds 131072 digits before the point and 16383 after it. Bounds far below are used: they
# are quickly looked for, and no program writes such numbers by accident.

NUMBER_CLASSES: Final = bytes(
    0x30 if byte in b"0123456789" else 0x65 if byte in b"eE+-" else 0x2E for byte in range(256)
)
_LONG_NUMBER: Final = 15_000  # digits in a row; with an exponent of ±999 still within numeric's limits
_WIDE_BYTES: Final = 1024 * 1024  # ``9e999,`` is a thousand digits in jsonb, and more than 1 GB can't be printed
_BEFORE_NUMBER: Final = rb"(?:\A|[\[:, \t\n\r])-?[0-9][0-9.]*[eE][+-]?"
HUGE_EXPONENT: Final = re.compile(_BEFORE_NUMBER + rb"[0-9]{4}")
_LARGE_EXPONENT: Final = re.compile(_BEFORE_NUMBER + rb"[0-9]{3}")


def _has_huge_number(text: bytes) -> bool:
    """Return whether jsonb may be unable to hold or print the text. What looks like a number in a string counts."""
    size = len(text)
    if size < _LONG_NUMBER:
        return HUGE_EXPONENT.search(text) is not None
    if size > SAFE_BYTES:
        return True
    classes = text.translate(NUMBER_CLASSES)
    if classes.find(b"0" * _LONG_NUMBER) >= 0:
        return True
    if size > _WIDE_BYTES:
        return classes.find(b"e000") >= 0 and _LARGE_EXPONENT.search(text) is not None
    return classes.find(b"e0000") >= 0 and HUGE_EXPONENT.search(text) is not None


# --- depth

_TO_BRACKETS: Final = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_STEP: Final = tuple(1 if byte == 0x5B else -1 for byte in range(256))
_WINDOW_BYTES: Final = 1024


def too_deep(text: bytes, limit: int = MAX_DEPTH) -> bool:
    """Whether a valid text is nested deeper than that. True means for any text: not both valid and shallow enough.

    Windows that can't reach the limit are only counted, so ordinary texts are never looked at byte by byte.
    """
    if text.count(b"[") + text.count(b"{") <= limit:
        return False
    text = with_plain_quotes(text)
    depth = 0
    in_string = 0
    for start in range(0, len(text), _WINDOW_BYTES):
        parts = text[start : start + _WINDOW_BYTES].split(b'"')
        brackets = b"".join(parts[in_string::2]).translate(_TO_BRACKETS, _NO_BRACKETS)
        in_string = (in_string + len(parts) - 1) % 2
        opened = brackets.count(b"[")
        if depth + opened > limit and max(accumulate(map(_STEP.__getitem__, brackets), initial=depth)) > limit:
            return True
        depth += 2 * opened - len(brackets)
    return False


# --- grammar

_SHORT_ESCAPE: Final = re.compile(rb'\\["/bfnrt]')
_HEX_ESCAPE: Final = re.compile(rb"\\u[0-9a-fA-F]{4}")
_TOKEN: Final = re.compile(
    rb"[ \t\n\r]*(?:"
    rb"([\[{])|([\]}])|(,)|(:)"
    rb'|("[^"\\\x00-\x1f]*")'
    rb"|(true|false|null|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?)"
    rb")"
)
_OPEN, _CLOSE, _COMMA, _COLON, _STRING, _SCALAR = range(1, 7)


def is_json(text: bytes) -> bool:
    """The grammar of RFC 8259, without recursion. Slow (0.7 µs a token): only for what msgspec has no stack for."""
    flat = _HEX_ESCAPE.sub(b"______", _SHORT_ESCAPE.sub(b"__", text.replace(b"\\\\", b"__"))).rstrip(BLANKS)
    closers: list[bytes] = []
    expected = "value"  # value · value or end · key · key or end · colon · comma or end
    position = 0
    match = _TOKEN.match
    while position < len(flat):
        token = match(flat, position)
        if token is None:
            return False
        position = token.end()
        kind = token.lastindex
        if kind == _STRING and expected.startswith("key"):
            expected = "colon"
        elif kind in (_STRING, _SCALAR) and expected.startswith("value"):
            expected = "comma or end"
        elif kind == _OPEN and expected.startswith("value"):
            in_array = token[_OPEN] == b"["
            closers.append(b"]" if in_array else b"}")
            expected = "value or end" if in_array else "key or end"
        elif kind == _CLOSE and expected.endswith("or end") and closers and closers[-1] == token[_CLOSE]:
            closers.pop()
            expected = "comma or end"
        elif kind == _COMMA and expected == "comma or end" and closers:
            expected = "value" if closers[-1] == b"]" else "key"
        elif kind == _COLON and expected == "colon":
            expected = "value"
        else:
            return False
    return expected == "comma or end" and not closers
