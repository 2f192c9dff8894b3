"""JSON text of a chunk → a value of the stream's type. Pure.

msgspec decodes what it knows: its own structs, dataclasses, TypedDict, NamedTuple, attrs classes, unions, ``Literal``
and the built-in types. A type with a pydantic model in it is decoded by pydantic, which is never imported here: whoever
has such a type has imported it.
"""

from __future__ import annotations

import json
import sys
import typing
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

RAW_SHOWN_CHARS = 200


class Unfit(Exception):
    """The text is no value of the type. The message says why."""


def decoder(of: Any) -> Callable[[bytes], Any]:
    """Return what decodes a chunk's JSON text into a value of type ``of``. It raises Unfit.

    Raises:
        TypeError: nothing here can decode this type.
    """
    if of is Any or of is object:
        return _decode_any
    if _is_pydantic(of):
        return _by_pydantic(of)
    try:
        made = msgspec.json.Decoder(of)
        custom = _custom_types(msgspec.inspect.type_info(of))
    except TypeError as error:
        if "pydantic" in sys.modules and _mentions_pydantic(of):
            return _by_pydantic(of)
        raise TypeError(f"chunks can't be decoded as {of!r}: {error}") from None
    if not custom:
        return _by_msgspec(made, of)
    if all(_is_pydantic(each) for each in custom):
        return _by_pydantic(of)
    names = ", ".join(sorted(each.__qualname__ for each in custom))
    raise TypeError(f"chunks can't be decoded as {names}: make it a dataclass, a msgspec.Struct or a TypedDict")


def _decode_any(text: bytes) -> Any:
    try:
        return _any(text)
    except (msgspec.DecodeError, RecursionError):
        return _loaded(text)


_any = msgspec.json.Decoder().decode


def _by_msgspec(made: msgspec.json.Decoder[Any], of: Any) -> Callable[[bytes], Any]:
    decode = made.decode

    def decoded(text: bytes) -> Any:
        try:
            return decode(text)
        except msgspec.ValidationError as error:
            raise Unfit(str(error)) from None
        except (msgspec.DecodeError, RecursionError):
            pass
        # msgspec refuses lone surrogates, which JavaScript writes without a thought; the standard library takes them.
        try:
            return msgspec.convert(_loaded(text), of)
        except (msgspec.ValidationError, UnicodeError) as error:
            raise Unfit(str(error)) from None

    return decoded


def _by_pydantic(of: Any) -> Callable[[bytes], Any]:
    pydantic: Any = sys.modules["pydantic"]
    adapter = pydantic.TypeAdapter(of)

    def decoded(text: bytes) -> Any:
        try:
            return adapter.validate_json(text)
        except pydantic.ValidationError as error:
            if all(each["type"] != "json_invalid" for each in error.errors(include_url=False, include_input=False)):
                raise Unfit(_said(error)) from None
        try:
            return adapter.validate_python(_loaded(text))  # lone surrogates, as above
        except pydantic.ValidationError as error:
            raise Unfit(_said(error)) from None

    return decoded


def _said(error: Any) -> str:
    """Return what pydantic found, without the value: the error has it as its raw text."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    return "; ".join(f"{each['msg']} - at `${''.join(f'.{part}' for part in each['loc'])}`" for each in found[:3])


def _loaded(text: bytes) -> Any:
    try:
        return json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise Unfit(f"not JSON: {error}") from None


def _is_pydantic(of: Any) -> bool:
    return "pydantic" in sys.modules and isinstance(of, type) and hasattr(of, "__pydantic_core_schema__")


def _mentions_pydantic(of: Any) -> bool:
    """Return whether a type like ``Annotated[A | B, Field(discriminator="kind")]`` is pydantic's affair."""
    if _is_pydantic(of) or type(of).__module__.partition(".")[0] == "pydantic":
        return True
    return any(_mentions_pydantic(each) for each in typing.get_args(of))


def _custom_types(found: Any, seen: set[int] | None = None) -> set[type]:
    """Find the classes in a type that msgspec knows nothing of: it would take a value of them only ready made."""
    seen = set() if seen is None else seen
    if id(found) in seen:
        return set()
    seen.add(id(found))
    if isinstance(found, msgspec.inspect.CustomType):
        return {found.cls}
    if isinstance(found, msgspec.inspect.Type | msgspec.inspect.Field):
        parts = [getattr(found, name) for name in found.__struct_fields__]
    elif isinstance(found, tuple):
        parts = list(found)
    else:
        return set()
    return set().union(*(_custom_types(part, seen) for part in parts))


def shown(raw: bytes) -> str:
    """Return the beginning of a chunk for a message."""
    text = raw.decode("utf-8", "replace")
    return text if len(text) <= RAW_SHOWN_CHARS else f"{text[:RAW_SHOWN_CHARS]}... ({len(text)} characters)"
