"""Which pages of other sites a browser lets read what is served: origins, as browsers send them. Pure."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

__all__ = ["ANY_ORIGIN", "ORIGINS_ALLOWED", "checked_origins"]

ANY_ORIGIN: Final = "*"
ORIGINS_ALLOWED: Final = "* or origins (https://app.example.com), separated by commas"


def checked_origins(given: str) -> tuple[str, ...]:
    """Return the origins, each once and as browsers write them; `ANY_ORIGIN` alone when it is among them.

    Raises:
        ValueError: one is no origin: it has a path, a user, no host or another scheme than http and https.
    """
    words = [word.strip() for word in given.split(",")]
    return (ANY_ORIGIN,) if ANY_ORIGIN in words else tuple(sorted({_origin(word) for word in words}))


def _origin(word: str) -> str:
    parts = urlsplit(word.removesuffix("/"))
    if parts.scheme not in ("http", "https") or not parts.hostname or "@" in word or not word.isascii():
        raise ValueError
    if parts.path or parts.query or parts.fragment or not word.isprintable() or " " in word:
        raise ValueError
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    usual = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port not in (None, usual) else "")
