"""The keys of those who read over HTTP: how they look, and what the archive stores of one. Standard library only."""

from __future__ import annotations

import hashlib
import secrets
import string
from typing import Final

__all__ = ["PREFIX", "hashed", "new_key"]

PREFIX: Final = "tlr_"
"""Tells a key from upstream's (``tr_``), and whoever looks for leaked secrets what they have found."""

_LETTERS: Final = string.ascii_letters + string.digits
_LETTERS_IN_A_KEY: Final = 43  # of 62: 256 bits


def new_key() -> str:
    """Make a key."""
    return PREFIX + "".join(secrets.choice(_LETTERS) for _ in range(_LETTERS_IN_A_KEY))


def hashed(key: str) -> bytes:
    """Return what is stored of a key. No salt and no slow hash: those are for what people can remember."""
    return hashlib.sha256(key.encode()).digest()
