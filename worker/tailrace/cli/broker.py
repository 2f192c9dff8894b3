"""Ask the broker: that it answers and keeps what is sent to it, how it runs, who listens, and what waits there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

from tailrace.cli.exits import BrokerUnavailable

KEY = "tailrace:doctor"
CONNECT_S = 4.0
QUEUES_MAX = 50
"""Queues of others that are looked into."""
MESSAGES_MAX = 50
"""Messages of each that are looked at: those that have waited longest."""
BINDINGS = "_kombu.binding."
BETWEEN = "\x06\x16"
"""Where kombu keeps which queues an exchange has; the last part of a member is the queue.
Source: kombu 5.7, ``kombu/transport/redis.py``."""
OWN_QUEUE = re.compile(r"tailrace\.[0-9a-f]{12}")
"""What every worker of ours listens to besides (`tailrace.tasks.signals`)."""


class State(NamedTuple):
    """How Redis runs. ``used`` and ``allowed``: bytes of memory; no limit is 0."""

    policy: str
    used: int
    allowed: int
    replica: bool

    @property
    def full(self) -> bool:
        """It refuses to keep anything more, or is about to."""
        return 0 < self.allowed <= self.used and self.policy == "noeviction"


class Listener(NamedTuple):
    """A Celery worker on this broker, and the queues that it takes from. ``ours``: it is one of Tailrace's."""

    name: str
    queues: tuple[str, ...]

    @property
    def ours(self) -> bool:
        return any(OWN_QUEUE.fullmatch(queue) for queue in self.queues)


class Broker:
    """A connection to the broker, as Celery makes it. Use `connected`.

    Raises, whatever is asked:
        BrokerUnavailable: it does not answer. The message has no password in it.
        BrokerIsCluster
    """

    def __init__(self, connection: Any) -> None:
        self._connection = connection
        self._redis = connection.default_channel.client

    def keeps(self) -> bool:
        """Return whether what is written is there afterwards."""
        with sending():
            self._redis.set(KEY, "written", ex=10)
            return bool(self._redis.delete(KEY))

    def state(self) -> State | None:
        """Return how it runs; None when this user may not know."""
        from redis.exceptions import ResponseError

        with sending():
            try:
                found = self._redis.info()
            except ResponseError:
                return None
        return State(
            str(found.get("maxmemory_policy", "")),
            int(found.get("used_memory", 0)),
            int(found.get("maxmemory", 0)),
            found.get("role") == "slave",
        )

    def listeners(self, wait_s: float) -> list[Listener]:
        """Ask every Celery worker on this broker what it listens to, and return those that answered.

        ``wait_s``: how long after the last answer nobody more is waited for.
        """
        from tailrace.tasks.app import app

        with sending():
            asked = app.control.inspect(timeout=wait_s, connection=self._connection)
            found = asked.active_queues() or {}
        return [
            Listener(name, tuple(str(queue["name"]) for queue in queues))
            for name, queues in found.items()
            if isinstance(queues, list)
        ]

    def strays(self, right: str) -> list[tuple[str, int]]:
        """Return the queues, but for ``right`` and the workers' own, where requests for tasks of ours wait, and how
        many among those that have waited longest."""
        found = []
        with sending():
            keys = islice(self._redis.scan_iter(match=f"{BINDINGS}*", count=1_000), QUEUES_MAX)
            bound = {member for key in keys for member in islice(self._redis.sscan_iter(key), QUEUES_MAX)}
            for queue in sorted({_text(member).rpartition(BETWEEN)[2] for member in bound}):
                if queue == right or OWN_QUEUE.fullmatch(queue) or queue.endswith(".pidbox"):
                    continue
                if self._redis.type(queue) not in (b"list", "list"):
                    continue
                count = sum(_asks_us(raw) for raw in self._redis.lrange(queue, -MESSAGES_MAX, -1))
                if count:
                    found.append((queue, count))
        return found


@contextmanager
def connected(url: str) -> Iterator[Broker]:
    """Connect to the broker."""
    from tailrace.tasks.app import app

    with sending(), app.connection_for_write(url, connect_timeout=CONNECT_S) as connection:
        connection.ensure_connection(max_retries=1, interval_start=0.1, timeout=CONNECT_S)
        yield Broker(connection)


def check_broker(url: str) -> None:
    """Make sure that the broker answers and takes what is written to it.

    Raises:
        BrokerUnavailable: it does not. The message has no password in it.
    """
    with connected(url) as broker:
        if not broker.keeps():
            raise BrokerUnavailable("Redis forgets at once what is written to it: is its memory full?")


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


def _asks_us(raw: str | bytes) -> bool:
    """Return whether a message is for a task of ours. Of others' nothing is kept."""
    try:
        return str(json.loads(raw)["headers"]["task"]).startswith("tailrace.")
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def _text(key: str | bytes) -> str:
    return key.decode(errors="replace") if isinstance(key, bytes) else key
