"""Hide secrets in texts that others may have written: upstream, Postgres, Redis, libraries, whoever sets variables.

By the actual secrets of this process, whatever they look like, and by the looks of secrets in general. Every error of
`tailrace.errors` hides them when it is made, so they can reach no row, log, task, event or screen with it.
"""

from __future__ import annotations

import json
import re
import threading
from typing import Final
from urllib.parse import quote, unquote

__all__ = ["HIDDEN", "excerpt", "forget", "redact", "remember"]

HIDDEN: Final = "***"

SHORTEST: Final = 6
"""A shorter secret is not looked for: it would be found in the middle of words, and hide what an error says."""

REMEMBERED: Final = 256
"""How many spellings are kept, those used last: a client may get a new token for every read."""

LOOKED_AT: Final = 65_536
"""Characters of a text that an excerpt is made of."""

_SECRETS: Final = (
    # user:password@ in a URL; greedy, since a password that was not percent-encoded may hold an @
    (re.compile(r"""(://[^\s/:@"'<>]{0,256}:)[^\s"'<>]{1,512}@"""), rf"\1{HIDDEN}@"),
    # Authorization: Bearer ..., in a header, a dict or JSON
    (
        re.compile(
            r"""(\bauthorization["']?\s{0,8}[:=,]\s{0,8}(?:b(?=["']))?["']?(?:(?:bearer|basic)\s+)?)[^\s"',;)}\]]+""",
            re.I,
        ),
        rf"\1{HIDDEN}",
    ),
    (re.compile(r"(\bbearer\s+)[A-Za-z0-9_.~+/=-]{8,}", re.I), rf"\1{HIDDEN}"),
    # Trigger.dev's keys (protocol §7) and those of `tailrace key`; the part that says which kind stays
    (
        re.compile(r"\b(tr_(?:dev|stg|prod|preview|pat|oat)_(?:sk_)?|pk_(?:dev|stg|prod|preview)_|tlr_)\w{4,}"),
        rf"\1{HIDDEN}",
    ),
    # JSON Web Tokens: {"... in base64, with or without what follows the first point
    (re.compile(r"\beyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*){0,4}"), HIDDEN),
    # password=... of a libpq connection string or a query
    (
        re.compile(
            r"""(\b(?:ssl_|redis_)?(?:password|passwd|pgpassword|secret_key|access_token)["']?\s{0,8}[:=]\s{0,8}["']?)"""
            r"""[^\s"'&,;)}\]]+""",
            re.I,
        ),
        rf"\1{HIDDEN}",
    ),
)

_known: dict[str, None] = {}
_lock = threading.Lock()


def remember(secret: str) -> None:
    """Hide this secret from now on, also as a URL, JSON or Python would write it. Costs nothing when it is known."""
    if len(secret) < SHORTEST:
        return
    with _lock:
        if next(reversed(_known), None) == secret:
            return
    spellings = {quote(secret, safe=""), unquote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    with _lock:
        for spelling in (*sorted(spellings - {secret}), secret):
            if len(spelling) >= SHORTEST:
                _known.pop(spelling, None)
                _known[spelling] = None
        while len(_known) > REMEMBERED:
            del _known[next(iter(_known))]


def forget() -> None:
    """Forget what was remembered. For tests: what one uses as a secret is another's plain word."""
    with _lock:
        _known.clear()


def redact(text: str) -> str:
    """Hide everything in a text that is, or looks like, a secret."""
    with _lock:
        found = [secret for secret in _known if secret in text]
    for secret in sorted(found, key=len, reverse=True):  # one may be part of another
        text = text.replace(secret, HIDDEN)
    for pattern, shown in _SECRETS:
        text = pattern.sub(shown, text)
    return text


def excerpt(text: str, characters: int) -> str:
    """Return the beginning of a text, redacted before it is cut: half of a secret would not be recognised."""
    return redact(text[:LOOKED_AT])[:characters]
