"""The keys that messages in the queue are signed with. Needs the standard library only: callers of ``.delay`` read it.

No message repeats what was given.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from tailrace.config.access import Refused
from tailrace.errors import BadSettings
from tailrace.redaction import remember

__all__ = ["MOST_KEYS", "SHORTEST_KEY", "SIGN_KEYS_ALLOWED", "SIGN_KEY_VARIABLE", "checked_sign_keys", "sign_keys"]

SIGN_KEY_VARIABLE: Final = "TAILRACE_SIGN_KEY"
SHORTEST_KEY: Final = 32
"""Characters. As hexadecimal digits they are 128 bits, which nobody guesses."""
MOST_KEYS: Final = 8
"""Each is tried for a message that none fits."""
SIGN_KEYS_ALLOWED: Final = (
    f"1 to {MOST_KEYS} keys of {SHORTEST_KEY} or more printable ASCII characters, separated by commas"
)


def checked_sign_keys(given: str) -> tuple[bytes, ...]:
    """Return the keys, at least one: the first signs, all verify.

    Raises:
        Refused: there are none, too many, the same twice, or one is too short or holds what no key has.
    """
    keys = [key.strip() for key in given.split(",")]
    if not 1 <= len(keys) <= MOST_KEYS:
        raise Refused(f"must be {SIGN_KEYS_ALLOWED}")
    for key in keys:
        if not (key.isascii() and key.isprintable()) or " " in key:
            raise Refused("holds characters that no key has (blanks, line ends or non-ASCII ones)")
        if len(key) < SHORTEST_KEY:
            raise Refused(f"has a key of fewer than {SHORTEST_KEY} characters; `openssl rand -hex 32` makes a good one")
        if len(set(key)) < SHORTEST_KEY // 4:
            raise Refused("has a key that could be guessed; `openssl rand -hex 32` makes a good one")
    if len(set(keys)) < len(keys):
        raise Refused("has the same key twice")
    for key in keys:
        remember(key)
    return tuple(key.encode() for key in keys)


def sign_keys(environ: Mapping[str, str] = os.environ) -> tuple[bytes, ...]:
    """Return the keys of this process; none: it does not sign, and takes every message.

    Raises:
        BadSettings: they can't be meant.
    """
    given = environ.get(SIGN_KEY_VARIABLE, "")
    if not given.strip():
        return ()
    problem = ""
    try:
        return _parsed(given)
    except Refused as error:
        problem = str(error)
    raise BadSettings(f"{SIGN_KEY_VARIABLE} {problem}.")  # outside the block: nothing of the value is its context


@lru_cache(maxsize=4)
def _parsed(given: str) -> tuple[bytes, ...]:
    """Asked for each message, so read once."""
    return checked_sign_keys(given)
