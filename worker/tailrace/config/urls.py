"""Where the database and the broker are. Needs only the standard library: callers of ``.delay`` import this.

No error here repeats a URL, or the text of another error: each can hold a password.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit

from tailrace.errors import BadSettings
from tailrace.redaction import remember

__all__ = [
    "DATABASE_VARIABLES",
    "REDIS_MASTER_VARIABLE",
    "REDIS_VARIABLES",
    "check_postgres",
    "database_url",
    "first_set",
    "redis_master",
    "redis_url",
]

DATABASE_VARIABLES = ("TAILRACE_DATABASE_URL", "DATABASE_URL")
REDIS_VARIABLES = ("TAILRACE_REDIS_URL", "REDIS_URL")
REDIS_MASTER_VARIABLE = "TAILRACE_REDIS_MASTER"
DEFAULT_REDIS_MASTER = "mymaster"
DEFAULT_REDIS_USER = "default"

_DATABASE_EXAMPLE = "postgresql://user:password@localhost:5432/name"
_REDIS_EXAMPLE = "redis://:password@localhost:6379/0"
_POSTGRES_SCHEMES = ("postgresql", "postgres", "postgresql+psycopg")
_REDIS_SCHEMES = ("redis", "rediss", "sentinel")
_CERT_REQS = {"required": "required", "optional": "optional", "none": "none"}
_CERT_REQS |= {f"cert_{name}": name for name in _CERT_REQS}


def database_url(environ: Mapping[str, str]) -> str:
    """Return the URL of the database, always with the scheme ``postgresql``.

    Of `DATABASE_VARIABLES` the first that is set counts.

    Raises:
        BadSettings: none is set, or the value is no Postgres URL.
    """
    variable = first_set(environ, DATABASE_VARIABLES)
    if variable is None:
        raise _missing("database", DATABASE_VARIABLES, _DATABASE_EXAMPLE)
    scheme, separator, rest = environ[variable].strip().partition("://")
    if not separator or scheme.lower() not in _POSTGRES_SCHEMES:
        raise BadSettings(f"{variable} must start with postgresql:// or postgres://, for example {_DATABASE_EXAMPLE}.")
    check_postgres(variable, rest)
    return f"postgresql://{rest}"


def check_postgres(name: str, rest: str) -> None:
    """Make sure that everybody reads a URL of Postgres alike: libpq, SQLAlchemy and psycopg end a password that is not
    percent-encoded at different characters, and take what follows for a host, a port or a database, which errors name.

    Args:
        name: what the message calls the URL, its variable.
        rest: the URL without its scheme and ``://``.

    Raises:
        BadSettings: it can be read in two ways, or in none. The message repeats nothing of it.
    """
    credentials, _, hosts = rest.rpartition("@")
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    signs = [sign for sign in "@/?#" if sign in credentials]
    if re.search(r"%(?![0-9A-Fa-f]{2})", credentials):
        signs.append("%")
    if "#" in hosts:
        signs.append("#")
    if not signs:
        _check_port(name, authority.rpartition("@")[2])
        return
    password = credentials.partition(":")[2]
    for piece in {password, *re.split("[:@/?#]", credentials)[1:]}:  # whoever else repeats it: it is hidden
        remember(piece)
    encoded = ", ".join(f"{sign} as %{ord(sign):02X}" for sign in dict.fromkeys(signs))
    raise BadSettings(
        f"{name} can't be read: in user, password and query, special characters must be percent-encoded "
        f"(here {encoded}). It should look like {_DATABASE_EXAMPLE}."
    )


def _check_port(name: str, hosts: str) -> None:
    """Refuse a port that is no number: it may be the end of a password."""
    for host in hosts.split(","):
        port = re.sub(r"^\[[^\]]*\]", "", host).partition(":")[2]
        if port and not (port.isascii() and port.isdecimal() and int(port) < 65_536):
            raise BadSettings(
                f"{name} can't be read: what follows the host's colon is no port. It should look like "
                f"{_DATABASE_EXAMPLE}; special characters in the password must be percent-encoded."
            )


def redis_url(environ: Mapping[str, str]) -> str:
    """Return the URL of the broker, as kombu and redis-py both understand it.

    ``rediss://`` checks the server's certificate unless ``ssl_cert_reqs`` in its query says otherwise (kombu alone
    would not check it); ``ssl_ca_certs`` names a file of other authorities than the system's. Several sentinels are
    separated by ``;`` (see `redis_master`).

    Of `REDIS_VARIABLES` the first that is set counts.

    Raises:
        BadSettings: none is set, or the value is wrong.

    Source: kombu 5.7, ``kombu/utils/url.py`` and ``kombu/transport/redis.py``; redis-py 8, ``redis/connection.py``.
    """
    variable = first_set(environ, REDIS_VARIABLES)
    if variable is None:
        raise _missing("broker", REDIS_VARIABLES, _REDIS_EXAMPLE)
    return ";".join(_checked_redis(variable, url.strip()) for url in environ[variable].split(";") if url.strip())


def redis_master(environ: Mapping[str, str]) -> str:
    """Return the name that the sentinels know the Redis by: the transport option ``master_name`` with ``sentinel://``."""
    return environ.get(REDIS_MASTER_VARIABLE) or DEFAULT_REDIS_MASTER


def first_set(environ: Mapping[str, str], variables: tuple[str, ...]) -> str | None:
    """Return the first of these variables that holds something; None when none does."""
    return next((variable for variable in variables if environ.get(variable, "").strip()), None)


def _missing(what: str, variables: tuple[str, ...], example: str) -> BadSettings:
    return BadSettings(
        f"No {what}: set {' or '.join(variables)}, for example {example}, "
        "or start servers in this directory with `tailrace up`."
    )


def _checked_redis(variable: str, url: str) -> str:
    if not url.startswith(tuple(f"{scheme}://" for scheme in _REDIS_SCHEMES)):
        raise BadSettings(
            f"{variable} must start with redis://, rediss:// or sentinel://, for example {_REDIS_EXAMPLE}."
        )
    parts = _split(url)
    if parts is None or not parts.hostname or parts.fragment or "@" in parts.path:
        raise BadSettings(
            f"{variable} can't be read. It should look like {_REDIS_EXAMPLE}; "
            "special characters in the password must be percent-encoded."
        )
    database = parts.path.strip("/")
    if database and not database.isdecimal():
        raise BadSettings(f"{variable} must end with the number of a database, for example {_REDIS_EXAMPLE}.")
    # Alone, a user can be a password whose colon was forgotten, and whoever logs a URL shows the user.
    remember(parts.password or (parts.username if parts.username != DEFAULT_REDIS_USER else None) or "")
    scheme = parts.scheme
    query = dict(parse_qsl(parts.query))
    tls = {name for name in query if name.startswith("ssl_")}
    if len(tls) < len(parse_qsl(parts.query, keep_blank_values=True)):  # kombu would fail, and repeat it
        raise BadSettings(f"{variable}: after the ? only ssl_cert_reqs, ssl_ca_certs and the like can stand.")
    if scheme == "redis" and tls:
        raise BadSettings(f"{variable} has {', '.join(sorted(tls))}, which needs rediss:// instead of redis://.")
    if scheme == "redis" or (scheme == "sentinel" and not tls):
        return url
    asked = query.get("ssl_cert_reqs", "required").lower()
    if asked not in _CERT_REQS:
        raise BadSettings(f"{variable}: ssl_cert_reqs must be required (the default), optional or none.")
    query["ssl_cert_reqs"] = _CERT_REQS[asked]
    authorities = query.get("ssl_ca_certs")
    if authorities is not None and not os.access(authorities, os.R_OK):
        raise BadSettings(f"{variable}: ssl_ca_certs names a file that can't be read: {authorities}")
    return parts._replace(query=urlencode(query, safe="/")).geturl()


def _split(url: str) -> SplitResult | None:
    try:
        parts = urlsplit(url)
        _ = parts.port
    except ValueError:  # its text can hold a piece of the password
        return None
    return parts
