"""``POST /api/v1/auth/jwt/claims``: what upstream's client puts into the public access tokens that it signs."""

from __future__ import annotations

import msgspec
from starlette.responses import Response

from tailrace.serve import answers
from tailrace.serve.admission import WRONG_KEY, Admitted

PATH = ["api", "v1", "auth", "jwt", "claims"]

_NO_SIGNER = b'{"error":"Public access tokens are signed with the secret key of the environment; this key signs none"}'


def claims(admitted: Admitted) -> Response:
    """Return the answer; 401 to a token, as upstream has it, and 403 to a key that nothing can be signed with."""
    if admitted.scopes is not None:
        return answers.unauthorized(WRONG_KEY)
    if admitted.signs_as is None:
        return answers.error(403, _NO_SIGNER)
    return answers.json(msgspec.json.encode({"sub": admitted.signs_as, "pub": True}))
