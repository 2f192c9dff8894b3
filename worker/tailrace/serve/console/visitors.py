"""Who looks at the pages: somebody with a key, or somebody whom a reverse proxy in front of the server names.

A key is shown once, in a form. The browser gets a random name for it in a cookie, and the key itself stays in memory.
With every request it is admitted anew: a key that is revoked shows nothing more. After a restart people sign in again.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import secrets
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr
from starlette.requests import Request

from tailrace.serve.admission import Admission, Admitted, NotAdmitted

__all__ = ["Proxy", "Visitor", "Visitors", "cookie_name", "over_tls"]

IDLE_S: Final = 8 * 3600.0
"""Nobody looked for so long: the key has to be shown again."""
MOST: Final = 1_000
"""Who would be one more takes the place of whoever has not looked for longest."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody who may look.

    ``name``: as whom the audit knows them; of a key, what kind it is, and `key_id` says which. ``environment``: they
    see this one; None: all. ``acts``: they may retry, cancel and ask for runs. ``mark``: tells their requests from
    others'; nothing can be done with it.
    """

    name: str
    environment: str | None
    acts: bool
    mark: str
    key_id: int | None = None

    def sees(self, environment: str) -> bool:
        """Return whether the visitor may look at an environment."""
        return self.environment is None or self.environment == environment


@dataclass(frozen=True, slots=True)
class Proxy:
    """A reverse proxy that knows people.

    ``header``: where it says who asks. ``peers``: the networks it connects from; from elsewhere the header counts for
    nothing. ``actors``: who may act; ``*`` among them: everybody.
    """

    header: str
    peers: Collection[ipaddress.IPv4Network | ipaddress.IPv6Network]
    actors: Collection[str]


@dataclass(slots=True)
class _Session:
    key: SecretStr
    used_at: float


class Visitors:
    """Knows who is who. One event loop."""

    def __init__(
        self, admission: Admission, proxy: Proxy | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._admission = admission
        self._proxy = proxy
        self._clock = clock
        self._sessions: dict[bytes, _Session] = {}
        self._secret = secrets.token_bytes(32)

    @property
    def by_proxy(self) -> bool:
        """A proxy says who asks, so nobody signs in here."""
        return self._proxy is not None

    async def who(self, request: Request) -> Visitor | None:
        """Return who asks; None: nobody who may look.

        Raises:
            StoreUnavailable: it can't be told now.
        """
        if self._proxy is not None:
            return _named(self._proxy, request)
        token = request.cookies.get(cookie_name(request))
        session = self._alive(token)
        if token is None or session is None:
            return None
        try:
            admitted = await self._admitted(session.key.get_secret_value())
        except NotAdmitted:
            self.sign_out(token)
            return None
        session.used_at = self._clock()
        return _of_key(admitted, hashlib.sha256(b"mark:" + token.encode()).hexdigest())

    async def sign_in(self, key: str) -> str:
        """Return a name for a key that may be used in its place.

        Raises:
            NotAdmitted: the key opens nothing here.
            StoreUnavailable: it can't be told now.
        """
        await self._admitted(key)
        if len(self._sessions) >= MOST:
            del self._sessions[min(self._sessions, key=lambda each: self._sessions[each].used_at)]
        token = secrets.token_urlsafe(32)
        self._sessions[_place(token)] = _Session(SecretStr(key), self._clock())
        return token

    def sign_out(self, token: str | None) -> None:
        """Forget a key by its name."""
        if token is not None:
            self._sessions.pop(_place(token), None)

    def pledge(self, visitor: Visitor, what: str) -> str:
        """Return what a form must bring back that asks for something to be done: only a page made for this visitor has
        it."""
        return hmac.new(self._secret, f"{visitor.mark}\0{what}".encode(), hashlib.sha256).hexdigest()

    def keeps(self, visitor: Visitor, what: str, pledge: str) -> bool:
        """Return whether a pledge is that."""
        return hmac.compare_digest(self.pledge(visitor, what).encode(), pledge.encode())

    async def _admitted(self, key: str) -> Admitted:
        admitted = await self._admission.admit({"authorization": f"Bearer {key}"})
        if admitted.scopes is not None:
            raise NotAdmitted("This token reads single runs; the console needs a key.", guessed=False)
        return admitted

    def _alive(self, token: str | None) -> _Session | None:
        session = self._sessions.get(_place(token)) if token else None
        if session is not None and self._clock() - session.used_at > IDLE_S:
            self.sign_out(token)
            return None
        return session


def cookie_name(request: Request) -> str:
    """Return what the cookie is called: over TLS a name that no other host or path can set."""
    return "__Host-tailrace" if over_tls(request) else "tailrace"


def over_tls(request: Request) -> bool:
    """Return whether the browser speaks TLS, to this server or to what stands before it. Whoever says so wrongly
    concerns their own cookie only."""
    return request.url.scheme == "https" or request.headers.get("x-forwarded-proto", "") == "https"


def _place(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _of_key(admitted: Admitted, mark: str) -> Visitor:
    name = "key" if admitted.key_id is not None else "secret key"
    return Visitor(name, admitted.environment, acts=admitted.acts, mark=mark, key_id=admitted.key_id)


def _named(proxy: Proxy, request: Request) -> Visitor | None:
    name = request.headers.get(proxy.header, "").strip()
    if not name or len(name) > 200 or request.client is None:
        return None
    try:
        peer = ipaddress.ip_address(request.client.host)
    except ValueError:
        return None
    if not any(peer in network for network in proxy.peers):
        return None
    return Visitor(name, None, acts="*" in proxy.actors or name in proxy.actors, mark=f"user:{name}")
