"""Check that the broker answers and keeps what is sent to it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from tailrace.cli.exits import BrokerUnavailable

KEY = "tailrace:doctor"
CONNECT_S = 4.0


def check_broker() -> None:
    """Make sure that the broker answers and takes what is written to it.

    Raises:
        BrokerUnavailable: it does not. The message has no password in it.
    """
    from tailrace.tasks.app import app

    with sending(), app.connection_for_write(connect_timeout=CONNECT_S) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=CONNECT_S)
        redis = connection.default_channel.client
        redis.set(KEY, "written", ex=10)
        if redis.get(KEY) is None:
            raise BrokerUnavailable("Redis forgets at once what is written to it: is its memory full?")
        redis.delete(KEY)


class Evicting(NamedTuple):
    """How Redis makes room. ``limited``: it has a limit of memory, so one day it will."""

    policy: str
    limited: bool


def evicting() -> Evicting | None:
    """Return how the broker drops keys of ours; None: it does not, or will not say.

    A queue never expires, so the policies ``volatile-...`` leave it alone.
    """
    from redis.exceptions import ResponseError

    from tailrace.tasks.app import app

    with sending(), app.connection_for_write(connect_timeout=CONNECT_S) as connection:
        try:
            memory = connection.default_channel.client.info("memory")
        except ResponseError:  # a role that may not ask
            return None
    policy = str(memory.get("maxmemory_policy", ""))
    return Evicting(policy, bool(memory.get("maxmemory"))) if policy.startswith("allkeys-") else None


@contextmanager
def sending() -> Iterator[None]:
    """Turn the ways in which a broker can fail into one of our errors."""
    from kombu.exceptions import OperationalError
    from redis.exceptions import RedisError

    try:
        yield
    except (RedisError, OperationalError, OSError) as error:
        line = str(error).strip().partition("\n")[0]
        raise BrokerUnavailable(f"Redis did not answer: {line or type(error).__name__}") from error
