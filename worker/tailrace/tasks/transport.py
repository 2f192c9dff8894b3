"""Connections to Redis: a message that is none of kombu's is refused instead of ending whoever takes it, and so is a
Redis Cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from queue import Empty
from typing import Any

from celery.app.amqp import AMQP
from kombu.connection import Connection
from kombu.transport.virtual import Message

from tailrace.config.sign_keys import SIGN_KEY_VARIABLE
from tailrace.errors import BadSettings, BrokerIsCluster
from tailrace.tasks.envelope import check_stored
from tailrace.tasks.signing import signatures, signs

__all__ = ["CheckedAMQP", "CheckedConnection", "broker_errors"]


def broker_errors(connection_errors: Iterable[type[Exception]]) -> tuple[type[Exception], ...]:
    """Return those of a transport's errors that mean the broker, whatever is in a message.

    kombu 5.7 counts every KeyError as a lost connection to Redis: the message that raised it would be taken again.
    """
    return tuple(error for error in connection_errors if error is not KeyError)


class CheckedMessage(Message):
    """A message with all that kombu relies on. Raises `Malformed` for what is none, before it is noted as taken."""

    def __init__(self, payload: Any, channel: Any = None, **kwargs: Any) -> None:
        check_stored(payload)
        # kombu can't put one without headers back into the queue when a worker ends: it would be lost, its body logged.
        payload["headers"] = payload.get("headers") or {}
        super().__init__(payload, channel=channel, **kwargs)  # type: ignore[no-untyped-call]


class _CheckedChannel:
    """Goes before one of kombu's channels to Redis."""

    Message = CheckedMessage

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **rest: Any) -> None:
        """Have every message of the queue checked for its signature before anything else is made of it.

        Remote control and whatever else comes this way too.
        """
        super().basic_consume(queue, no_ack, callback, consumer_tag, **rest)  # type: ignore[misc]
        callbacks: dict[str, Callable[[Any], Any]] = self.connection._callbacks  # type: ignore[attr-defined]
        take = callbacks[queue]

        def take_what_is_signed(raw: Any) -> Any:
            signatures.check(raw, queue)
            return take(raw)

        callbacks[queue] = take_what_is_signed

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        try:
            _refuse_cluster(self)
        except BaseException:
            self.close()  # type: ignore[attr-defined]
            raise

    # Each takes one message from Redis and hands it on. What they raise for a message, the event loop does not survive;
    # there is nothing to reject, for it is no longer in Redis.

    def _brpop_read(self, **options: Any) -> Any:
        return self._taken(super()._brpop_read, **options)  # type: ignore[misc]

    def _receive(self) -> Any:
        return self._taken(super()._receive)  # type: ignore[misc]

    def _taken(self, take: Callable[..., Any], **options: Any) -> Any:
        broker: Any = self
        try:
            return take(**options)
        except (Empty, MemoryError, broker.ResponseError, *broker_errors(broker.connection_errors)):
            raise
        except Exception as error:  # noqa: BLE001  one message must not end the worker
            # Not above: callers of .delay send through this channel too, and have nothing that logs installed.
            from tailrace.tasks.refused import refusals

            refusals.refuse(None, error)
            return True


def _refuse_cluster(channel: Any) -> None:
    """kombu takes messages of several queues in one command, which a cluster refuses, and again and again at that.

    Raises:
        BrokerIsCluster
    """
    try:
        found = channel.client.info("cluster")
    except channel.ResponseError:  # a role that may not ask
        return
    if found.get("cluster_enabled"):
        raise BrokerIsCluster(
            "The Redis is a Redis Cluster, which Celery can't use as a broker: give REDIS_URL (or TAILRACE_REDIS_URL) "
            "of one that is not in cluster mode. Behind Sentinel is fine."
        )


class CheckedConnection(Connection):
    """A connection whose channels to Redis are checked; others are as they are."""

    def get_transport_cls(self) -> Any:
        transport = super().get_transport_cls()  # type: ignore[no-untyped-call]
        if transport.driver_type == "redis":
            return _checked(transport)
        if signs():
            raise BadSettings(f"{SIGN_KEY_VARIABLE}: signatures are checked with Redis only.")
        return transport


class CheckedAMQP(AMQP):
    """What an app takes its connections from (``Celery.amqp_cls``)."""

    Connection = CheckedConnection
    BrokerConnection = CheckedConnection


@cache
def _checked(transport: Any) -> Any:
    channel = type("CheckedChannel", (_CheckedChannel, transport.Channel), {})
    return type("CheckedTransport", (transport,), {"Channel": channel})
