"""What it takes to reach upstream: key, URL and branch, the variables that say them, and the checks of each. Pure.

Used by the worker's settings, the file with the keys and the Streams API alike, so it needs only the standard library.
No message repeats what was given: anything may be a key.
"""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

DEFAULT_API_URL = "https://api.trigger.dev"
KEY_VARIABLES = ("TRIGGER_SECRET_KEY", "TRIGGER_ACCESS_TOKEN")
API_URL_VARIABLE = "TRIGGER_API_URL"
BRANCH_VARIABLES = ("TRIGGER_PREVIEW_BRANCH", "VERCEL_GIT_COMMIT_REF", "TRIGGER_DEV_BRANCH")
NO_BRANCH = "default"  # what Trigger.dev's own tools set in the last of them when there is none

API_URL_ALLOWED = "http:// or https://, without user and query"
BRANCH_ALLOWED = "printable ASCII"

_PREVIEW_PREFIX = "tr_preview_"
_WRONG_KEYS = {
    "tr_pat_": "is a personal access token; streams need an environment's secret key (tr_prod_..., tr_dev_...)",
    "tr_oat_": "is an organisation's token; streams need an environment's secret key (tr_prod_..., tr_dev_...)",
    "pk_": "is a public key of an old kind, which upstream no longer takes; use the environment's secret key (tr_...)",
}


class Refused(ValueError):
    """The value can't be right. The message goes on after its name: "holds characters that no key has"."""


class NotAllowed(ValueError):
    """The value is not of the allowed kind. The message says which that is."""


def checked_key(given: str) -> str:
    """Return a secret key or public access token without the blanks around it.

    Raises:
        Refused: a token of another kind, or none at all. Source: protocol §7.
    """
    key = given.strip()
    for prefix, problem in _WRONG_KEYS.items():
        if key.startswith(prefix):
            raise Refused(problem)
    if not (key.isascii() and key.isprintable()) or " " in key or not key:
        raise Refused("holds characters that no key has (blanks, line ends or non-ASCII ones)")
    return key


def checked_api_url(given: str) -> str:
    """Return the address of upstream without blanks around it and slashes at its end.

    Raises:
        Refused: it can't be read, or holds a user or password.
        NotAllowed: it is not `API_URL_ALLOWED`.
    """
    url = given.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        raise Refused("can't be read as a URL") from None
    if "@" in url:  # also one behind a / in the password: what stands before that would be the host
        raise Refused("must not hold a user or password: the key belongs in TRIGGER_SECRET_KEY")
    if not usable or parts.query or parts.fragment or not url.isascii() or not url.isprintable() or " " in url:
        raise NotAllowed(API_URL_ALLOWED)
    return url


def checked_branch(given: str) -> str:
    """Return the name of a preview branch without the blanks around it.

    Raises:
        NotAllowed: it is not `BRANCH_ALLOWED`: it could not be sent.
    """
    branch = given.strip()
    if not branch or not branch.isascii() or not branch.isprintable():
        raise NotAllowed(BRANCH_ALLOWED)
    return branch


def lacks_branch(key: str, branch: str | None) -> bool:
    """Return whether this key is one of preview environments, which say nothing without a branch."""
    return branch is None and key.startswith(_PREVIEW_PREFIX)


def without_no_branch(environ: Mapping[str, str]) -> dict[str, str]:
    """Return what is set in the environment, without a branch that means none and variables that are blank."""
    given = {name: value for name, value in environ.items() if value.strip()}
    if given.get(BRANCH_VARIABLES[-1], "").strip() == NO_BRANCH:
        del given[BRANCH_VARIABLES[-1]]
    return given
