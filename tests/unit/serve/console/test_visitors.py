"""Who looks at the pages: a key is admitted anew with every request; a proxy is believed where it stands."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Mapping

import pytest
from starlette.requests import Request

from tailrace.serve.admission import Admitted, NotAdmitted
from tailrace.serve.console import visitors
from tailrace.serve.console.visitors import Proxy, Visitor, Visitors, cookie_name


class Keys:
    """Knows these keys, and nobody else."""

    def __init__(self, **known: Admitted) -> None:
        self.known = known

    async def admit(self, headers: Mapping[str, str]) -> Admitted:
        found = self.known.get(headers["authorization"].removeprefix("Bearer "))
        if found is None:
            raise NotAdmitted("Invalid API key", guessed=True)
        return found

    async def stands(self, admitted: Admitted) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def request(cookie: str | None = None, peer: str = "127.0.0.1", scheme: str = "http", **headers: str) -> Request:
    given = {name.replace("_", "-"): value for name, value in headers.items()}
    if cookie is not None:
        given["cookie"] = f"tailrace={cookie}"
    raw = [(name.encode(), value.encode()) for name, value in given.items()]
    scope = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": raw}
    return Request(scope | {"client": (peer, 1234), "scheme": scheme, "server": ("x", 80)})


def who(known: Visitors, asking: Request) -> Visitor | None:
    return asyncio.run(known.who(asking))


def test_a_key_opens_a_session_that_tells_nothing_of_it() -> None:
    keys = Keys(secret=Admitted("prod", key_id=3, acts=True), root=Admitted("prod", acts=True))
    known = Visitors(keys)
    token = asyncio.run(known.sign_in("secret"))
    assert "secret" not in token
    found = who(known, request(token))
    assert found is not None
    assert (found.name, found.environment, found.acts, found.key_id) == ("key", "prod", True, 3)
    assert "secret" not in repr(found)
    assert who(known, request()) is who(known, request("other")) is None
    other = who(known, request(asyncio.run(known.sign_in("root"))))
    assert other is not None
    assert other.name == "secret key"


def test_a_wrong_key_and_a_token_for_single_runs_open_none() -> None:
    known = Visitors(Keys(token=Admitted("prod", scopes=("read:runs:run_1",))))
    for key in ("wrong", "token"):
        with pytest.raises(NotAdmitted):
            asyncio.run(known.sign_in(key))


def test_a_key_that_is_revoked_shows_nothing_more() -> None:
    keys = Keys(secret=Admitted("prod", key_id=3))
    known = Visitors(keys)
    token = asyncio.run(known.sign_in("secret"))
    keys.known.clear()
    assert who(known, request(token)) is None
    keys.known["secret"] = Admitted("prod", key_id=3)
    assert who(known, request(token)) is None  # it is signed out for good


def test_a_session_ends_when_nobody_looks_and_when_somebody_signs_out() -> None:
    clock = Clock()
    known = Visitors(Keys(secret=Admitted("prod")), clock=clock)
    token = asyncio.run(known.sign_in("secret"))
    for _ in range(3):
        clock.now += visitors.IDLE_S - 1
        assert who(known, request(token)) is not None
    clock.now += visitors.IDLE_S + 1
    assert who(known, request(token)) is None
    token = asyncio.run(known.sign_in("secret"))
    known.sign_out(token)
    assert who(known, request(token)) is None


def test_there_are_so_many_sessions_and_who_has_not_looked_longest_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visitors, "MOST", 2)
    clock = Clock()
    known = Visitors(Keys(secret=Admitted("prod")), clock=clock)
    first, second = asyncio.run(known.sign_in("secret")), asyncio.run(known.sign_in("secret"))
    clock.now += 1
    assert who(known, request(first)) is not None
    asyncio.run(known.sign_in("secret"))
    assert who(known, request(second)) is None
    assert who(known, request(first)) is not None


def test_a_proxy_names_people_from_where_it_stands_only() -> None:
    nets = [ipaddress.ip_network("10.0.0.0/8")]
    known = Visitors(Keys(), Proxy("x-user", nets, {"ada"}))
    ada = who(known, request(peer="10.1.2.3", x_user="ada"))
    assert ada is not None
    assert (ada.name, ada.environment, ada.acts) == ("ada", None, True)
    bob = who(known, request(peer="10.1.2.3", x_user="bob"))
    assert bob is not None
    assert not bob.acts
    assert who(known, request(peer="192.0.2.1", x_user="ada")) is None
    assert who(known, request(peer="not an address", x_user="ada")) is None
    assert who(known, request(peer="10.1.2.3")) is None
    assert who(known, request(peer="10.1.2.3", x_user=" ")) is None


def test_a_pledge_is_good_for_one_visitor_and_one_thing() -> None:
    known = Visitors(Keys())
    ada, bob = (Visitor(name, None, True, f"user:{name}") for name in ("ada", "bob"))
    pledge = known.pledge(ada, "cancel run_1")
    assert known.keeps(ada, "cancel run_1", pledge)
    assert not known.keeps(bob, "cancel run_1", pledge)
    assert not known.keeps(ada, "cancel run_2", pledge)
    assert not known.keeps(ada, "cancel run_1", "")
    assert not known.keeps(ada, "cancel run_1", "é")
    assert not Visitors(Keys()).keeps(ada, "cancel run_1", pledge)  # another process


def test_over_tls_no_other_host_can_set_the_cookie() -> None:
    assert cookie_name(request(scheme="https")) == cookie_name(request(x_forwarded_proto="https")) == "__Host-tailrace"
    assert cookie_name(request()) == "tailrace"
