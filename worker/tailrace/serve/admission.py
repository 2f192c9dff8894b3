"""What a request shows as its right to read, and what it may read then, by upstream's rules (protocol §7). Pure."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from tailrace.serve.runs import Run

__all__ = [
    "Admission",
    "Admitted",
    "NotAdmitted",
    "Resource",
    "bearer",
    "may_list",
    "may_read",
    "of_feed",
    "of_run",
    "same",
]

LONGEST_CREDENTIAL = 8_192
"""Characters. A token that names a hundred runs has half of it; a longer one is refused unread."""

MISSING = "Invalid or Missing API key"
WRONG_KEY = "Invalid API key"


class NotAdmitted(Exception):
    """The request shows nothing that lets it read: 401, with ``said`` as upstream words it.

    ``guessed``: whoever asks may be guessing, so the answer can wait. ``subject``: the environment upstream that a
    well signed token is for. Holds nothing else of what the request showed.
    """

    def __init__(self, said: str, *, guessed: bool, subject: str | None = None) -> None:
        super().__init__(said)
        self.said = said
        self.guessed = guessed
        self.subject = subject


class Resource(NamedTuple):
    """What a scope can be about: a type (``runs``, ``tasks``, ``tags``) and one of it; None: all of the type."""

    type: str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Admitted:
    """What a request may read.

    Attributes:
        environment: of this one only; the name in the archive.
        scopes: as a public access token has them; None: everything of the environment.
        skip_columns: what its run feed must leave out.
        key_id: the row of the key, which can be revoked while its reader reads; None when it is another credential.
        signs_as: what tokens name as their environment that are signed with what was shown; None: it signs none.
        acts: may also have runs of the environment ingested, retried and cancelled, where that is offered.
    """

    environment: str
    scopes: tuple[str, ...] | None = None
    skip_columns: frozenset[str] = frozenset()
    key_id: int | None = None
    signs_as: str | None = None
    acts: bool = False

    def may_read(self, resources: Iterable[Resource]) -> bool:
        """Return whether it may read what is any of these."""
        return self.scopes is None or may_read(self.scopes, resources)


class Admission(Protocol):
    """Knows who may read."""

    async def admit(self, headers: Mapping[str, str]) -> Admitted:
        """Return what the request with these headers (names in lower case) may read.

        Raises:
            NotAdmitted: nothing.
            StoreUnavailable: it can't be told now.
        """
        ...

    async def stands(self, admitted: Admitted) -> bool:
        """Return whether somebody who was admitted may go on reading. At once, but for one look in some seconds."""
        ...


def bearer(headers: Mapping[str, str]) -> str:
    """Return what stands after ``Bearer``.

    Raises:
        NotAdmitted: nothing stands there, or too much.
    """
    scheme, _, credential = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credential.strip():
        raise NotAdmitted(MISSING, guessed=False)
    if len(credential) > LONGEST_CREDENTIAL:
        raise NotAdmitted(WRONG_KEY, guessed=True)
    return credential.strip()


def same(given: str, secret: str) -> bool:
    """Return whether both are the same; takes as long whatever they are, their lengths included."""
    return hmac.compare_digest(*(hashlib.sha256(text.encode()).digest() for text in (given, secret)))


# --- scopes


def may_read(scopes: Iterable[str], resources: Iterable[Resource]) -> bool:
    """Return whether one of the scopes (``read:runs``, ``read:tags:a:b``, ``admin``) lets one of the resources be read.

    Two colons part a scope; what follows the second is an id, which may hold more of them.
    """
    wanted = list(resources)
    return any(_covers(scope, each) for scope in scopes for each in wanted)


def _covers(scope: str, resource: Resource) -> bool:
    action, _, rest = scope.partition(":")
    kind, _, one = rest.partition(":")
    if action == "admin" and not kind:  # admin:runs is a scope for an action of that name, and no right to everything
        return True
    if action not in ("read", "*"):
        return False
    return kind == "all" or (kind == resource.type and (not one or one == resource.id))


def of_run(run: Run) -> list[Resource]:
    """Return what a run is: a scope for any of it is enough. The archive does not know its batch."""
    tags = (Resource("tags", tag) for tag in run.tags)
    return [Resource("runs", run.run_id), Resource("tasks", run.task_identifier), *tags]


def of_feed(tags: str) -> list[Resource]:
    """Return what the feed of runs is that have all of these tags, separated by commas.

    Each run of it has each of the tags, so a scope for one of them covers all that is shown.
    """
    return [Resource("runs"), Resource("tags"), *(Resource("tags", tag) for tag in tags.split(",") if tag)]


def may_list(admitted: Admitted, tasks: str) -> bool:
    """Return whether a list may be had of the runs of any of these tasks, separated by commas; of all when it is empty.

    Stricter than upstream, which asks for a scope of one of the tasks and then shows the runs of all of them.
    """
    named = [task for task in tasks.split(",") if task]
    if admitted.may_read([Resource("runs"), Resource("tasks")]):
        return True
    return bool(named) and all(admitted.may_read([Resource("tasks", task)]) for task in named)
