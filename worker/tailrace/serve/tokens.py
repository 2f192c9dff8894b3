"""Upstream's public access tokens: JWTs that its client signs with an environment's secret key (protocol §7)."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import jwt
from pydantic import SecretStr

from tailrace.serve.admission import Admitted, NotAdmitted

__all__ = ["Signer", "admitted_by", "is_public_token"]

ISSUER = "https://id.trigger.dev"
AUDIENCE = "https://api.trigger.dev"
ALGORITHM = "HS256"
"""The only one that its client signs with. Whatever else a token says it was signed with is refused."""

UNKNOWN_ENVIRONMENT = "Invalid Public Access Token"
INVALID = "Public Access Token is invalid"

_PADDED_BYTES = 32
_SHOWN_CHARACTERS = 100
# Not checked: when it was made (a clock that is ahead by a second would have its tokens refused; upstream's library
# does not look either), and its id, which upstream gives no meaning.
_OPTIONS: Any = {"verify_iat": False, "verify_jti": False}


@dataclass(frozen=True, slots=True)
class Signer:
    """An environment whose key may have signed a token.

    Attributes:
        name: in the archive.
        key: its secret key.
        subjects: what ``sub`` may be.
        alone: the key is that of one environment upstream, so ``sub`` need not be known.
    """

    name: str
    key: SecretStr
    subjects: frozenset[str]
    alone: bool


def is_public_token(credential: str) -> bool:
    """Return whether this calls itself a public access token. Says nothing of whether it is a good one."""
    claims = _claims(credential)
    return isinstance(claims, dict) and claims.get("pub") is True


def admitted_by(token: str, signers: Collection[Signer]) -> Admitted:
    """Return what a public access token lets read.

    Raises:
        NotAdmitted: none of these signed it, it is over or not for this, or it is one of another environment upstream
            that has the same key.
    """
    claims, fitting, over = {}, [], False
    for signer in signers:
        try:
            claims = jwt.decode(
                token,
                _padded(signer.key.get_secret_value()),
                algorithms=[ALGORITHM],
                issuer=ISSUER,
                audience=AUDIENCE,
                options=_OPTIONS,
            )
        except (jwt.ExpiredSignatureError, jwt.ImmatureSignatureError):
            over = True  # the signature is looked at first
        except (jwt.InvalidTokenError, TypeError, OverflowError, RecursionError):  # of odd numbers, of depth
            continue
        else:
            fitting.append(signer)
    # Outside the except blocks: what the library raised may hold the token, and must not be the context of an error.
    if not fitting:
        raise NotAdmitted(INVALID, guessed=not over)
    subject = claims.get("sub")
    named = [signer for signer in fitting if subject in signer.subjects]
    if not named and len(fitting) == 1 and fitting[0].alone:
        named = fitting
    if len(named) != 1 or not isinstance(subject, str):
        raise NotAdmitted(UNKNOWN_ENVIRONMENT, guessed=False, subject=str(subject)[:_SHOWN_CHARACTERS])
    return Admitted(named[0].name, _texts(claims.get("scopes")), _skipped(claims.get("realtime")))


def _padded(key: str) -> bytes:
    """The same key to HMAC, which fills it up with zeros to a block itself. The library calls one of less than 32 bytes
    too short, and keys of development environments are; whether they are good enough is upstream's to say."""
    return key.encode().ljust(_PADDED_BYTES, b"\0")


def _claims(credential: str) -> object:
    parts = credential.split(".")
    if len(parts) != 3:
        return None
    try:
        return json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except (binascii.Error, ValueError, RecursionError):
        return None


def _texts(given: object) -> tuple[str, ...]:
    return tuple(each for each in given if isinstance(each, str)) if isinstance(given, list) else ()


def _skipped(realtime: object) -> frozenset[str]:
    return frozenset(_texts(realtime.get("skipColumns"))) if isinstance(realtime, dict) else frozenset()
