"""Whom the console believes about who asks, and who may have something done there: as settings write it. Pure."""

from __future__ import annotations

import ipaddress
import re
from typing import Final

__all__ = ["ACTORS_ALLOWED", "HEADER_ALLOWED", "PROXIES_ALLOWED", "checked_actors", "checked_header", "checked_proxies"]

HEADER_ALLOWED: Final = "the name of a header, such as X-Forwarded-User"
PROXIES_ALLOWED: Final = "addresses or networks (10.0.0.0/8), separated by commas"
ACTORS_ALLOWED: Final = "* or names, separated by commas"

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,100}")  # a token of RFC 9110, 5.6.2
_NEVER: Final = frozenset({"authorization", "cookie", "host", "origin", "sec-fetch-site", "content-type"})

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def checked_header(given: str) -> str:
    """Return the name in lower case, as requests are asked for it.

    Raises:
        ValueError: it is no name of a header, or one whose value whoever asks has in their hands anyway.
    """
    name = given.strip().lower()
    if not _TOKEN.fullmatch(name) or name in _NEVER:
        raise ValueError
    return name


def checked_proxies(given: str) -> tuple[Network, ...]:
    """Return the networks; an address is one by itself.

    Raises:
        ValueError: one is none.
    """
    return tuple(ipaddress.ip_network(word.strip()) for word in given.split(","))


def checked_actors(given: str) -> tuple[str, ...]:
    """Return the names, each once.

    Raises:
        ValueError: there is none.
    """
    names = tuple(sorted({word.strip() for word in given.split(",") if word.strip()}))
    if not names or not all(name.isprintable() for name in names):
        raise ValueError
    return names
