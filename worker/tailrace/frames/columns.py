"""Segments' own columns → Arrow arrays, without a row object for each chunk. Pure."""

from __future__ import annotations

import re
import struct
from array import array
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

ARRAY_HEAD = 20
"""Of a Postgres array: dimensions, null flag, element OID, size and lower bound of the dimension (`array_send`)."""
SIZE = struct.Struct("!i")

_BLANKS = b" \t\r\n"
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[\[\]{},]', re.DOTALL)
_elements = msgspec.json.Decoder(list[msgspec.Raw]).decode


def split(data: bytes) -> tuple[bytes, list[int]]:
    """Return a JSON array as ``[a,b,c]``, with nothing around its elements, and how long each of them is."""
    try:
        sizes = [*map(len, _elements(data))]
    except (msgspec.DecodeError, RecursionError):
        return _scanned(data)  # msgspec refuses some of what is stored: halves of surrogate pairs, depths
    return (data, sizes) if sum(sizes) + len(sizes) + 1 == len(data) else _scanned(data)


def _scanned(data: bytes) -> tuple[bytes, list[int]]:
    """Do what `split` does with any JSON."""
    found: list[bytes] = []
    depth = start = 0
    for token in _TOKEN.finditer(data):
        match token[0][:1]:
            case b"[" | b"{":
                depth += 1
                start = start or token.end()
            case b"]" | b"}":
                depth -= 1
                if not depth:
                    found.append(data[start : token.start()].strip(_BLANKS))
            case b"," if depth == 1:
                found.append(data[start : token.start()].strip(_BLANKS))
                start = token.end()
    return b"[" + b",".join(found) + b"]", [*map(len, found)]


def texts(parts: Iterable[bytes], sizes: list[int]) -> Any:
    """Return the texts of parts that are put together: after each text stands one more character, which is left out."""
    ends = array("q", accumulate(map((1).__add__, sizes), initial=0))
    made = pa.Array.from_buffers(
        pa.large_binary(), len(sizes), [None, pa.py_buffer(ends), pa.py_buffer(b"".join(parts))]
    )
    return pc.binary_slice(made, 0, -1).cast(pa.large_string())


def int4s(packed: bytes) -> Iterable[int]:
    """Unpack an array of 4-byte numbers."""
    words = array("i", packed[ARRAY_HEAD:])
    words.byteswap()
    return words[1::2]


def int8s(elements: bytes) -> Any:
    """Turn the elements of a Postgres array of 8-byte numbers, each with its length before it, into an Arrow array."""
    count = len(elements) // 12
    packed = pa.Array.from_buffers(pa.binary(12), count, [None, pa.py_buffer(elements)])
    swapped = pc.binary_slice(pc.binary_reverse(packed.cast(pa.binary())), 0, 8)
    return pa.Array.from_buffers(pa.int64(), count, [None, swapped.buffers()[2]])


def repeated(number: int, names: Any, count: int) -> Any:
    """Return the name of this number so many times."""
    return pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(number, pa.int32()), count), names)
