"""Public access tokens made by hand, with nothing of the library that verifies them; and one of the official client."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from typing import Any

OFFICIAL_KEY = "tr_prod_notasecretnotasecret"
OFFICIAL_SUBJECT = "cmabcdefghijklmnopqrstuvw"
OFFICIAL = ".".join(
    (
        "eyJhbGciOiJIUzI1NiJ9",
        "eyJzdWIiOiJjbWFiY2RlZmdoaWprbG1ub3BxcnN0dXZ3IiwicHViIjp0cnVlLCJzY29wZXMiOlsicmVhZDpydW5zOnJ1bl8xIiwicmVhZDp0YWdz"
        "OnVzZXI6NyJdLCJyZWFsdGltZSI6eyJza2lwQ29sdW1ucyI6WyJwYXlsb2FkIiwibWV0YWRhdGEiXX0sImlzcyI6Imh0dHBzOi8vaWQudHJpZ2dl"
        "ci5kZXYiLCJhdWQiOiJodHRwczovL2FwaS50cmlnZ2VyLmRldiIsImV4cCI6NDEwMjQ0NDgwMCwiaWF0IjoxNzk1ODc2NDAxfQ",
        "2JuZU_9ZEz1Gso9jxCD84xcwr-rHXyb4NTFlgJZSxjA",
    )
)
"""What `generateJWT` of @trigger.dev/core 4.8.3 made of `OFFICIAL_KEY`, `OFFICIAL_SUBJECT`, the scopes read:runs:run_1 and
read:tags:user:7, the skipped columns payload and metadata, and an end in the year 2100."""

_HASHES = {"HS256": hashlib.sha256, "HS384": hashlib.sha384, "HS512": hashlib.sha512}


def token(key: str, *scopes: str, header: dict[str, Any] | None = None, **claims: Any) -> str:
    """Make a token as the client does, but for what ``header`` and ``claims`` say; a claim that is None is left out."""
    now = int(time.time())
    usual = {
        **{"sub": "env_1", "pub": True, "scopes": list(scopes)},
        **{"iss": "https://id.trigger.dev", "aud": "https://api.trigger.dev", "iat": now, "exp": now + 900},
    }
    payload = {name: value for name, value in (usual | claims).items() if value is not None}
    head = {"alg": "HS256"} | (header or {})
    signed = f"{_part(json.dumps(head).encode())}.{_part(json.dumps(payload).encode())}"
    if head["alg"] not in _HASHES:
        return f"{signed}."
    return f"{signed}.{_part(hmac.new(key.encode(), signed.encode(), _HASHES[head['alg']]).digest())}"


def _part(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
