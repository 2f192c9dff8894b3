"""Redis: that it answers, takes what is written and keeps it; who listens, and what waits where nobody does."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from tailrace.cli.checks.finding import Finding, Kind, fine, note, problem
from tailrace.cli.exits import BrokerUnavailable, Exit

if TYPE_CHECKING:
    from tailrace.cli.broker import Broker, Listener

_VARIABLES = "REDIS_URL (or TAILRACE_REDIS_URL)"
SHOWN = 10
"""Queues that are named."""

ANSWERS = fine("broker-answers", "broker", "Redis answers and takes what is written")
URL_WRONG = problem(
    "broker-url",
    "broker",
    "{reason}",
    "No URL is set, or it is none of Redis', or it can't be read.",
    f"Set {_VARIABLES}; special characters in user and password are percent-encoded (@ as %40, / as %2F, # as %23).",
    Exit.USAGE,
)
PASSWORD = problem(
    "broker-password",
    "broker",
    "Redis does not take the password: {reason}",
    "The password or user is another, or none is given where one is needed.",
    f"Correct it in {_VARIABLES}: redis://:password@host:6379/0, special characters percent-encoded.",
    Exit.UNREACHABLE,
)
RIGHTS = problem(
    "broker-rights",
    "broker",
    "Redis does not let this user: {reason}",
    "Its ACL lacks commands or keys that Celery needs.",
    "Give it all keys and channels, and all but the dangerous commands: ACL SETUSER ... ~* &* +@all -@dangerous +info.",
)
HOST = problem(
    "broker-host",
    "broker",
    "Redis' host is not known here: {reason}",
    "No name server knows the host that the URL names.",
    f"Correct the host in {_VARIABLES}.",
    Exit.UNREACHABLE,
)
REFUSED = problem(
    "broker-refused",
    "broker",
    "nobody listens where Redis should be: {reason}",
    "The host answers, and no Redis at that port: it does not run, or has another port.",
    f"Start Redis, or correct host and port in {_VARIABLES}.",
    Exit.UNREACHABLE,
)
TLS = problem(
    "broker-tls",
    "broker",
    "no secure connection to Redis: {reason}",
    "One side speaks TLS and the other does not, or its certificate is not trusted here.",
    f"Use rediss:// with TLS and redis:// without in {_VARIABLES}; ?ssl_ca_certs=/path/ca.pem names another authority.",
    Exit.UNREACHABLE,
)
SILENT = problem(
    "broker-silent",
    "broker",
    "Redis, or what is there, does not answer in time: {reason}",
    "It hangs, a firewall drops what is sent, or it waits for the other half: rediss:// where it speaks no TLS.",
    f"Correct host, port and scheme in {_VARIABLES}, and let this machine reach it.",
    Exit.UNREACHABLE,
)
AWAY = problem(
    "broker-away",
    "broker",
    "{reason}",
    "Redis does not answer for another reason, which is its own words.",
    f"Check {_VARIABLES}, and that Redis runs.",
    Exit.UNREACHABLE,
)
REPLICA = problem(
    "broker-replica",
    "broker",
    "nothing can be sent: this Redis is a read-only replica",
    "A replica repeats what its primary holds and takes nothing else.",
    f"Give {_VARIABLES} of the primary, or of the sentinels (sentinel://).",
)
CLUSTER = problem(
    "broker-cluster",
    "broker",
    "this Redis is a cluster, which Celery can't use",
    "The keys of a queue lie on several nodes; Celery's transport asks one.",
    f"Give {_VARIABLES} of a Redis without cluster mode: it holds messages only, a small one will do.",
)
FULL = problem(
    "broker-full",
    "broker",
    "nothing can be sent: Redis' memory is full ({used} of {allowed} bytes)",
    "Redis refuses every write. Workers go on with what is a row already; requests by .delay() fail.",
    "Raise maxmemory, or remove what others keep there.",
)
EVICTS = problem(
    "broker-evicts",
    "broker",
    "when its memory is full, Redis drops keys (maxmemory-policy {policy}): queued requests are lost",
    "A queue is a key. A request that no worker has taken goes with it, and nobody is told.",
    "Set maxmemory-policy to noeviction, or give Celery a Redis of its own.",
)
WOULD_EVICT = note(
    "broker-would-evict",
    "broker",
    "with a limit of memory, Redis would drop queued requests (maxmemory-policy {policy})",
    "There is no limit now (maxmemory 0).",
    "Set maxmemory-policy to noeviction, or give Celery a Redis of its own.",
)
EVICTS_OTHERS = note(
    "broker-evicts-others",
    "broker",
    "when its memory is full, Redis drops keys that expire (maxmemory-policy {policy})",
    "A queue never expires, so no request is lost. When no such key is left, nothing more can be sent.",
    "Set maxmemory-policy to noeviction where only Celery uses it.",
)
FORGETS = problem(
    "broker-forgets",
    "broker",
    "Redis forgets at once what is written to it",
    "What was written was not there a moment later.",
    "Look at its maxmemory, and at what stands between.",
)
UNHEARD = problem(
    "queue-unheard",
    "queues",
    "no worker listens to the queue {queue}; those that run listen to {queues}",
    "Requests go there and are never taken.",
    "Start workers with `tailrace worker`, or Celery's command with -Q {queue}.",
)
OTHER_BROKER = note(
    "workers-elsewhere",
    "queues",
    "{workers} workers run by the database, and none of them answers through this Redis",
    "They use another Redis or another number of a database there, so requests sent here never reach them. Or they are "
    "too busy to answer within {seconds:g} s.",
    f"Give the workers and whoever asks the same {_VARIABLES}.",
)
STRAY = problem(
    "queue-stray",
    "queues",
    "{count} requests for Tailrace wait in the queue {queue}, which no worker of Tailrace takes from",
    "They were sent by an app that does not route tailrace.* to its queue.",
    "In that app call tailrace.celery.register(app), or send with queue='{right}'; send again those that wait.",
)

_SAID: tuple[tuple[Kind, str], ...] = (
    (PASSWORD, "wrongpass|noauth|invalid (username-)?password|authentication required|without any password"),
    (RIGHTS, "noperm|no permissions"),
    (CLUSTER, "clusterdown|^moved|crossslot|moved \\d+"),
    (HOST, "name or service not known|nodename nor servname|name resolution|no address associated"),
    (TLS, "ssl:|certificate"),
    (REFUSED, "connection refused"),
    (SILENT, "time(d )?out"),
    (REPLICA, "read only replica|readonly"),
)
"""Redis' and Python's words, the first that fits."""


def why_away(error: BrokerUnavailable) -> Finding:
    """Tell what is wrong from what was said when Redis could not be used."""
    reason = str(error).removeprefix("Redis did not answer: ")
    for kind, words in _SAID:
        if re.search(words, reason, re.IGNORECASE):
            return kind.found(reason=reason)
    return AWAY.found(reason=error)


def server(broker: Broker) -> Iterator[Finding]:
    """Look at how Redis runs before anything is written: some refuse writes only, and say it less plainly."""
    state = broker.state()
    usable = True
    if state is not None:
        if state.replica:
            yield REPLICA.found()
            usable = False
        elif state.full:
            yield FULL.found(used=state.used, allowed=state.allowed)
            usable = False
        if state.policy.startswith("allkeys-"):
            yield (EVICTS if state.allowed else WOULD_EVICT).found(policy=state.policy)
        elif state.policy.startswith("volatile-") and state.allowed:
            yield EVICTS_OTHERS.found(policy=state.policy)
    if usable:
        yield ANSWERS.found() if broker.keeps() else FORGETS.found()


def listeners(found: list[Listener], workers: int, waited_s: float) -> Iterator[Finding]:
    """Compare who listens with the ``workers`` that the database knows of, who had ``waited_s`` to answer."""
    from tailrace.tasks.app import QUEUE

    ours = [each for each in found if each.ours]
    if not ours:
        if workers:
            yield OTHER_BROKER.found(workers=workers, seconds=waited_s)
    elif not any(QUEUE in each.queues for each in ours):
        others = sorted({queue for each in ours for queue in each.queues if not queue.startswith(f"{QUEUE}.")})
        yield UNHEARD.found(queue=QUEUE, queues=", ".join(others[:SHOWN]) or "none")


def strays(broker: Broker) -> Iterator[Finding]:
    """Look for requests that wait in queues of others."""
    from tailrace.tasks.app import QUEUE

    for queue, count in broker.strays(QUEUE):
        yield STRAY.found(queue=queue, count=count, right=QUEUE)
