"""Whether a request that changes something was sent by a page of ours: others' can have a browser send one. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

__all__ = ["from_elsewhere", "from_our_page"]


def from_our_page(headers: Mapping[str, str]) -> bool:
    """Return whether the browser says that a page of this server sent the request. Says it nothing: no."""
    site = headers.get("sec-fetch-site")
    if site is not None:
        return site == "same-origin"
    origin = urlsplit(headers.get("origin", "")).netloc  # none of "null"
    return bool(origin) and origin == headers.get("host", "")


def from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Return whether somebody follows a link of another site's to a page: then the browser keeps the cookie back."""
    return headers.get("sec-fetch-site") == "cross-site" and headers.get("sec-fetch-mode") == "navigate"
