"""What the console is told about proxies and people, as settings write it."""

from __future__ import annotations

import ipaddress

import pytest

from tailrace.config.console import checked_actors, checked_header, checked_proxies


def test_what_can_be_meant_is_taken() -> None:
    assert checked_header(" X-Forwarded-User ") == "x-forwarded-user"
    assert checked_proxies("127.0.0.1, 10.0.0.0/8,::1") == (
        ipaddress.ip_network("127.0.0.1/32"),
        ipaddress.ip_network("10.0.0.0/8"),
        ipaddress.ip_network("::1/128"),
    )
    assert checked_actors("bob, ada,bob,") == ("ada", "bob")


@pytest.mark.parametrize("given", ["", "two words", "X:Y", "Cookie", "authorization", "é", "a" * 101])
def test_no_header_is_believed_that_is_none_or_everybodys(given: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the setting's own name is in the message
        checked_header(given)


@pytest.mark.parametrize("given", ["", "10.0.0.1/8", "proxy", "10.0.0.0/8,"])
def test_no_proxy_is_believed_that_is_no_network(given: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        checked_proxies(given)


@pytest.mark.parametrize("given", ["", " , ", "a\nb"])
def test_nobody_is_no_list_of_names(given: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        checked_actors(given)
