"""Sign what is sent to Tailrace's tasks, by whichever Celery app of this process; take only what is signed.

Importing `tailrace.tasks` or `tailrace.celery` is enough to sign. Without TAILRACE_SIGN_KEY nothing is signed or
checked. Callers of ``.delay`` import it: it imports nothing that reads streams.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Final

from celery import signals
from kombu.exceptions import EncodeError
from kombu.serialization import dumps

from tailrace.config.sign_keys import sign_keys
from tailrace.tasks import carrying  # noqa: F401  its handler goes first, so that what it adds is signed
from tailrace.tasks.envelope import check_stored
from tailrace.tasks.signature import HEADER, Sent, check_signature, signature

__all__ = ["Signatures", "sign", "signatures", "signs"]

OURS: Final = "tailrace."
"""What our tasks' names begin with."""


def signs() -> bool:
    """Return whether this process signs what it sends and checks what it takes.

    Raises:
        BadSettings: TAILRACE_SIGN_KEY can't be meant.
    """
    return bool(sign_keys(os.environ))


@signals.before_task_publish.connect(weak=False)
def sign(
    sender: object = None,
    body: object = None,
    exchange: object = None,
    routing_key: str | None = None,
    headers: dict[str, Any] | None = None,
    declare: Sequence[Any] | None = None,
    **_: Any,
) -> None:
    """Add the signature to the headers of a message for one of our tasks; leave all others alone.

    The body is signed as JSON, which is all that our workers take: one sent in another way or compressed does not fit.

    Raises:
        BadSettings: the keys can't be meant. Celery only logs it; whoever connects through our app has had it before.
    """
    if not isinstance(sender, str) or not sender.startswith(OURS) or headers is None:
        return
    keys = sign_keys(os.environ)
    if not keys:
        return
    name = str(getattr(exchange, "name", exchange) or "")
    key = routing_key or ""
    queue = declare[0].name if name and declare else key  # of the nameless exchange, the routing key is the queue
    with suppress(EncodeError, TypeError, ValueError):  # can't be sent either: that tells its caller
        content_type, content_encoding, text = dumps(body, serializer="json")  # type: ignore[no-untyped-call]
        sent = Sent(queue, name, key, headers, content_type, content_encoding, text.encode())
        headers[HEADER] = signature(keys[0], sent, int(time.time()))


class Signatures:
    """How this process checks what it takes. ``max_age_s``: `check_signature`. ``unsigned``: told the task of each
    message that is taken without a signature; None: there is none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.max_age_s: float | None = None
        self.unsigned: Callable[[object], None] | None = None

    def check(self, raw: Any, queue: str) -> None:
        """Make sure that this process may take a message from this queue.

        Raises:
            Malformed: no message, or there are keys and none of them signed it.
        """
        keys = sign_keys(self._environ)
        if not keys:
            return
        check_stored(raw)
        tolerated = self.unsigned
        if not check_signature(raw, queue, keys, time.time(), max_age_s=self.max_age_s, unsigned=tolerated is not None):
            assert tolerated is not None
            tolerated((raw["headers"] or {}).get("task"))


signatures: Final = Signatures(os.environ)
"""This process's own; a worker sets it up as it starts."""
