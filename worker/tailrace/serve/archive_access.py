"""Who may read the archive: its own keys, the secret keys of its environments, and the tokens that these signed."""

from __future__ import annotations

import hmac
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

import structlog

from tailrace.config.keys import Access as Reached
from tailrace.config.keys import KeysFile, accesses
from tailrace.config.own_keys import PREFIX, hashed
from tailrace.config.settings import Settings
from tailrace.errors import BadSettings, StoreUnavailable
from tailrace.redaction import remember
from tailrace.serve.admission import WRONG_KEY, Admitted, NotAdmitted, bearer, same
from tailrace.serve.fresh import Fresh
from tailrace.serve.tokens import Signer, admitted_by, is_public_token
from tailrace.store.access_keys import AccessKeys, ValidKey

if TYPE_CHECKING:
    from sqlalchemy import Engine

__all__ = ["ArchiveAccess", "EnvironmentKeys", "archive_access"]

log = structlog.get_logger("tailrace")

KEPT_S: Final = 5.0
"""So long a key that was looked up counts: a revoked one is refused after it at the latest."""
MISSED_S: Final = 0.1
"""So long no key that was not found is looked for again, so that wrong ones ask the database ten times a second."""

BRANCH_HEADER: Final = "x-trigger-branch"
NO_BRANCH: Final = "default"
"""What upstream's tools call the environment of a development key that is on no branch."""
NEEDS_BRANCH: Final = "x-trigger-branch header required for preview env"
NO_SUCH_BRANCH: Final = "No matching branch env"
_DEVELOPMENT, _PREVIEW = "tr_dev_", "tr_preview_"


def archive_access(settings: Settings, engine: Engine) -> ArchiveAccess:
    """Return who may read the archive behind this engine. Of the engine it uses one connection, and that seldom.

    Raises:
        BadSettings: the file with the keys of environments can't be used.
    """
    return ArchiveAccess(AccessKeys(engine), EnvironmentKeys(settings))


class EnvironmentKeys:
    """The secret keys of environments, as the settings or the file with the keys have them now; there may be none."""

    def __init__(self, settings: Settings) -> None:
        """Raise BadSettings when the file can't be used."""
        self._file = KeysFile(settings.keys_file, settings) if settings.keys_file is not None else None
        if self._file is not None:
            self._known = tuple(_secret(self._file.first().values()))
        else:
            self._known = tuple(_secret(accesses(settings).values())) if settings.secret_key is not None else ()

    def look(self) -> tuple[Reached, ...]:
        """Return them. A file that has become wrong is told of once, and what was good before stays."""
        try:
            changed = self._file.look() if self._file is not None else None
        except BadSettings as error:
            log.error("keys_file_refused", error=str(error))
        else:
            if changed is not None:
                self._known = tuple(_secret(changed.values()))
        return self._known


class Keys(Protocol):
    """What is asked of the table: `AccessKeys`."""

    def valid(self) -> list[ValidKey]: ...
    def note_use(self, ids: Collection[int]) -> None: ...


class _Valid(NamedTuple):
    by_hash: dict[bytes, ValidKey]
    ids: frozenset[int]


class ArchiveAccess:
    """An `admission.Admission`. Keeps no key that it is shown, and names none."""

    def __init__(self, keys: Keys, environments: EnvironmentKeys) -> None:
        self._keys = keys
        self._used: set[int] = set()
        self._valid = Fresh(self._look_up)
        self._environments = Fresh(environments.look)

    async def admit(self, headers: Mapping[str, str]) -> Admitted:
        """As `admission.Admission` says."""
        credential = bearer(headers)
        if credential.startswith(PREFIX):
            return await self._own(hashed(credential))
        reached = await self._environments.at_most(KEPT_S)
        if is_public_token(credential):
            return admitted_by(credential, _signers(reached))
        fitting = [each for each in reached if same(credential, each.key.get_secret_value())]
        meant = _on_branch(fitting, headers.get(BRANCH_HEADER, "").strip() or None)
        return Admitted(meant.name, signs_as=meant.environment_id or meant.name, acts=True)

    async def stands(self, admitted: Admitted) -> bool:
        """As `admission.Admission` says. While the database is away, yes: there is nothing new to be read then."""
        if admitted.key_id is None:
            return True
        try:
            valid = await self._valid.at_most(KEPT_S)
        except StoreUnavailable:
            return True
        return admitted.key_id in valid.ids

    async def _own(self, key_hash: bytes) -> Admitted:
        found = (await self._valid.at_most(KEPT_S)).by_hash.get(key_hash)
        if found is None:  # it may have been added since
            found = (await self._valid.at_most(MISSED_S)).by_hash.get(key_hash)
        if found is None or not hmac.compare_digest(found.key_hash, key_hash):
            raise NotAdmitted(WRONG_KEY, guessed=True)
        self._used.add(found.id)
        return Admitted(found.environment, key_id=found.id, acts=found.acts)

    def _look_up(self) -> _Valid:
        used, self._used = self._used, set()
        if used:
            self._keys.note_use(used)
        valid = self._keys.valid()
        return _Valid({key.key_hash: key for key in valid}, frozenset(key.id for key in valid))


def _secret(reached: Collection[Reached]) -> Iterator[Reached]:
    """Of the keys with which upstream is read, those that are secret: a worker may have been given a public token, and
    others who have it must not have all that the worker archived. Then the ones before them, which may be shown still.
    """
    now = [each for each in reached if "." not in each.key.get_secret_value()]
    before = [replace(each, key=each.previous_key, previous_key=None) for each in now if each.previous_key is not None]
    for each in (*now, *(one for one in before if "." not in one.key.get_secret_value())):
        remember(each.key.get_secret_value())
        yield each


def _signers(reached: Collection[Reached]) -> list[Signer]:
    return [
        Signer(
            each.name,
            each.key,
            frozenset({each.name} if each.environment_id is None else {each.name, each.environment_id}),
            alone=each.environment_id is None and not _shared(each),
        )
        for each in reached
    ]


def _shared(one: Reached) -> bool:
    """Return whether other environments upstream may have the same key: the branches of one do."""
    return one.preview_branch is not None or one.key.get_secret_value().startswith((_DEVELOPMENT, _PREVIEW))


def _on_branch(fitting: list[Reached], branch: str | None) -> Reached:
    """Of the environments with the key that was shown, return the one on the branch that the request names.

    Raises:
        NotAdmitted: there is none, or it can't be told which.
    """
    if not fitting:
        raise NotAdmitted(WRONG_KEY, guessed=True)
    key = fitting[0].key.get_secret_value()
    if key.startswith(_PREVIEW) and branch is None:
        raise NotAdmitted(NEEDS_BRANCH, guessed=False)
    if key.startswith(_DEVELOPMENT) and branch == NO_BRANCH:
        branch = None
    # Other environments have no branches: upstream does not look.
    found = [each for each in fitting if each.preview_branch == branch or not key.startswith((_DEVELOPMENT, _PREVIEW))]
    if len(found) != 1:
        raise NotAdmitted(NO_SUCH_BRANCH, guessed=False)
    return found[0]
