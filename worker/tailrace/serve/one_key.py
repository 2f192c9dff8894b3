"""The `admission.Admission` of a server with one environment: one key, and the tokens that it has signed."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import SecretStr

from tailrace.serve.admission import WRONG_KEY, Admitted, NotAdmitted, bearer, same
from tailrace.serve.tokens import Signer, admitted_by, is_public_token

__all__ = ["OneKey"]

_SUBJECT = "env_1"  # as the list of runs names it


class OneKey:
    """``key`` is the one that is right."""

    def __init__(self, key: str) -> None:
        self._signer = Signer("", SecretStr(key), frozenset({_SUBJECT}), alone=True)

    async def admit(self, headers: Mapping[str, str]) -> Admitted:
        """As `admission.Admission` says."""
        credential = bearer(headers)
        if same(credential, self._signer.key.get_secret_value()):
            return Admitted("", signs_as=_SUBJECT)
        if is_public_token(credential):
            return admitted_by(credential, [self._signer])
        raise NotAdmitted(WRONG_KEY, guessed=True)

    async def stands(self, admitted: Admitted) -> bool:
        """As `admission.Admission` says: always."""
        return True
