"""Who may read the archive, and of which environment: own keys, secret keys with their branches, tokens."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Collection
from pathlib import Path

import pytest

from tailrace.config.own_keys import PREFIX, hashed, new_key
from tailrace.config.settings import Settings
from tailrace.errors import BadSettings, StoreUnavailable
from tailrace.serve import archive_access
from tailrace.serve.admission import Admitted, NotAdmitted
from tailrace.serve.archive_access import ArchiveAccess, EnvironmentKeys
from tailrace.store.access_keys import ValidKey
from tests.tokens import token
from tests.unit.serve.looped import looped

KEY = "tr_prod_of_this_test"


class Table:
    """The keys that are valid, as the database has them."""

    def __init__(self, **environments: str) -> None:
        self.keys = {name: (new_key(), environment) for name, environment in environments.items()}
        self.away = False
        self.looks = 0
        self.noted: list[set[int]] = []

    def valid(self) -> list[ValidKey]:
        self.looks += 1
        if self.away:
            raise StoreUnavailable
        return [ValidKey(n, hashed(key), environment) for n, (key, environment) in enumerate(self.keys.values())]

    def note_use(self, ids: Collection[int]) -> None:
        self.noted.append(set(ids))


def settings(**given: object) -> Settings:
    return Settings(**given)  # type: ignore[arg-type]


def access(table: Table | None = None, **given: object) -> ArchiveAccess:
    return ArchiveAccess(table or Table(), EnvironmentKeys(settings(**given)))


def keys_file(folder: Path, text: str) -> Path:
    path = folder / "keys.toml"
    path.write_text(text, encoding="utf-8")
    return path


async def admitted(to: ArchiveAccess, credential: str, branch: str | None = None) -> Admitted:
    headers = {"authorization": f"Bearer {credential}"} | ({"x-trigger-branch": branch} if branch is not None else {})
    return await to.admit(headers)


async def refused(to: ArchiveAccess, credential: str, branch: str | None = None) -> NotAdmitted:
    with pytest.raises(NotAdmitted) as caught:
        await admitted(to, credential, branch)
    return caught.value


@pytest.fixture
def no_age(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that was looked up is good for a second request."""
    monkeypatch.setattr(archive_access, "KEPT_S", -1)
    monkeypatch.setattr(archive_access, "MISSED_S", -1)


# --- own keys


def test_keys_are_new_each_time_and_what_is_stored_is_not_the_key() -> None:
    keys = {new_key() for _ in range(100)}
    assert len(keys) == 100
    assert all(key.startswith(PREFIX) and key.isascii() and len(key) == 47 and key[4:].isalnum() for key in keys)
    assert all(len(hashed(key)) == 32 and key.encode()[4:] not in hashed(key) for key in keys)


@looped
async def test_an_own_key_reads_its_environment() -> None:
    table = Table(web="production", eval="staging")
    to = access(table)
    assert await admitted(to, table.keys["web"][0]) == Admitted("production", key_id=0)
    assert await admitted(to, table.keys["eval"][0]) == Admitted("staging", key_id=1)
    for wrong in (new_key(), table.keys["web"][0][:-1], table.keys["web"][0] + "x", PREFIX, KEY):
        assert (await refused(to, wrong)).guessed


@looped
async def test_it_is_looked_up_once_for_many_requests() -> None:
    table = Table(web="production")
    to = access(table)
    await asyncio.gather(*(admitted(to, table.keys["web"][0]) for _ in range(100)))
    assert table.looks == 1


@looped
async def test_wrong_ones_look_again_only_when_the_last_look_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_access, "MISSED_S", 3_600)
    table = Table(web="production")
    to = access(table)
    await asyncio.gather(*(refused(to, new_key()) for _ in range(100)))
    assert table.looks == 1


@looped
async def test_a_key_that_is_added_is_taken_once_a_miss_is_old_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive_access, "MISSED_S", -1)
    table = Table(web="production")
    to = access(table)
    await admitted(to, table.keys["web"][0])
    table.keys["late"] = (new_key(), "staging")
    assert (await admitted(to, table.keys["late"][0])).environment == "staging"


@pytest.mark.usefixtures("no_age")
@looped
async def test_a_revoked_one_is_refused_and_its_reader_does_not_stand() -> None:
    table = Table(web="production")
    to = access(table)
    key, _ = table.keys["web"]
    reading = await admitted(to, key)
    assert await to.stands(reading)
    del table.keys["web"]
    assert not await to.stands(reading)
    await refused(to, key)


@pytest.mark.usefixtures("no_age")
@looped
async def test_while_the_database_is_away_nobody_new_is_admitted_and_who_reads_stands() -> None:
    table = Table(web="production")
    to = access(table, secret_key=KEY)
    reading = await admitted(to, table.keys["web"][0])
    table.away = True
    with pytest.raises(StoreUnavailable):
        await admitted(to, table.keys["web"][0])
    assert await to.stands(reading)
    assert (await admitted(to, KEY)).environment == "default"  # needs no database


@pytest.mark.usefixtures("no_age")
@looped
async def test_its_use_is_noted_with_the_next_look() -> None:
    table = Table(web="production", unused="production")
    to = access(table)
    for _ in range(3):
        await admitted(to, table.keys["web"][0])
    assert table.noted == [{0}, {0}]


# --- secret keys


@looped
async def test_the_secret_key_of_an_environment_reads_it() -> None:
    to = access(secret_key=KEY, environment="production")
    assert await admitted(to, KEY) == Admitted("production", signs_as="production", acts=True)
    assert await admitted(to, KEY, "whatever") == Admitted("production", signs_as="production", acts=True)
    assert (await refused(to, KEY + "x")).guessed


@looped
async def test_without_one_own_keys_are_taken_still() -> None:
    table = Table(web="production")
    to = access(table)
    assert (await admitted(to, table.keys["web"][0])).environment == "production"
    assert (await refused(to, KEY)).guessed
    assert (await refused(to, token(KEY, "read:all"))).guessed


@looped
async def test_a_public_token_that_a_worker_was_given_is_nobodys_secret() -> None:
    limited = token(KEY, "read:runs:run_1")
    assert (await refused(access(secret_key=limited), limited)).guessed
    forged = token(limited, "read:all")
    assert (await refused(access(secret_key=limited), forged)).guessed


@looped
async def test_each_key_of_a_file_reads_its_own(tmp_path: Path) -> None:
    path = keys_file(tmp_path, '[a]\nkey = "tr_prod_a_key"\n[b]\nkey = "tr_stg_b_key"\nenvironment_id = "id_b"')
    to = access(keys_file=path)
    assert await admitted(to, "tr_prod_a_key") == Admitted("a", signs_as="a", acts=True)
    assert await admitted(to, "tr_stg_b_key") == Admitted("b", signs_as="id_b", acts=True)
    await refused(to, "tr_prod_b_key")


BRANCHES = """
[main]
key = "tr_preview_shared"
preview_branch = "main"
environment_id = "id_main"

[feature]
key = "tr_preview_shared"
preview_branch = "feature"
"""


@looped
async def test_of_branches_with_one_key_the_header_names_the_one(tmp_path: Path) -> None:
    to = access(keys_file=keys_file(tmp_path, BRANCHES))
    for branch in ("main", "feature"):
        assert (await admitted(to, "tr_preview_shared", branch)).environment == branch
    assert (await refused(to, "tr_preview_shared")).said == "x-trigger-branch header required for preview env"
    assert (await refused(to, "tr_preview_shared", " ")).said == "x-trigger-branch header required for preview env"
    assert (await refused(to, "tr_preview_shared", "other")).said == "No matching branch env"


@looped
async def test_a_development_key_is_of_the_branch_that_is_named_and_of_none() -> None:
    to = access(secret_key="tr_dev_somebodys", environment="dev")
    for branch in (None, "", "default"):
        assert (await admitted(to, "tr_dev_somebodys", branch)).environment == "dev"
    await refused(to, "tr_dev_somebodys", "feature")


@looped
async def test_one_key_under_two_names_is_refused(tmp_path: Path) -> None:
    to = access(keys_file=keys_file(tmp_path, '[a]\nkey = "tr_prod_same"\n[b]\nkey = "tr_prod_same"'))
    assert (await refused(to, "tr_prod_same")).said == "No matching branch env"
    await refused(to, token("tr_prod_same", "read:all", sub="id_upstream"))


@pytest.mark.usefixtures("no_age")
@looped
async def test_a_file_that_changes_is_believed_at_the_second_look(tmp_path: Path) -> None:
    path = keys_file(tmp_path, '[a]\nkey = "tr_prod_old"')
    to = access(keys_file=path)
    assert (await admitted(to, "tr_prod_old")).environment == "a"
    keys_file(tmp_path, '[a]\nkey = "tr_prod_new"')
    await refused(to, "tr_prod_new")
    assert (await admitted(to, "tr_prod_new")).environment == "a"
    await refused(to, "tr_prod_old")
    keys_file(tmp_path, "[a")
    for _ in range(3):
        assert (await admitted(to, "tr_prod_new")).environment == "a"


@looped
async def test_the_key_before_is_taken_while_it_is_set_and_what_it_signed_too(tmp_path: Path) -> None:
    path = keys_file(tmp_path, '[a]\nkey = "tr_prod_new"\nprevious_key = "tr_prod_old"\n[b]\nkey = "tr_stg_b_key"')
    for to, name in (
        (access(keys_file=path), "a"),
        (access(secret_key="tr_prod_new", previous_secret_key="tr_prod_old"), "default"),
    ):
        for key in ("tr_prod_new", "tr_prod_old"):
            assert (await admitted(to, key)).environment == name
            assert await admitted(to, token(key, "read:runs:r")) == Admitted(name, ("read:runs:r",))
        await refused(to, "tr_prod_older")
    without = access(secret_key="tr_prod_new")
    await refused(without, "tr_prod_old")
    await refused(without, token("tr_prod_old", "read:all"))


@looped
async def test_a_public_token_before_is_nobodys_secret_either() -> None:
    limited = token(KEY, "read:runs:run_1")
    to = access(secret_key="tr_prod_new", previous_secret_key=limited)
    assert (await refused(to, limited)).guessed
    await refused(to, token(limited, "read:all"))


def test_upstream_is_asked_with_the_key_of_now(tmp_path: Path) -> None:
    path = keys_file(tmp_path, '[a]\nkey = "tr_prod_new"\nprevious_key = "tr_prod_old"')
    first = next(each for each in EnvironmentKeys(settings(keys_file=path)).look() if each.name == "a")
    assert first.key.get_secret_value() == "tr_prod_new"


def test_a_file_that_is_wrong_at_the_start_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings):
        EnvironmentKeys(settings(keys_file=keys_file(tmp_path, "[a")))


# --- tokens


@looped
async def test_a_token_reads_the_environment_whose_key_signed_it(tmp_path: Path) -> None:
    to = access(keys_file=keys_file(tmp_path, '[a]\nkey = "tr_prod_a_key"\n[b]\nkey = "tr_stg_b_key"'))
    assert await admitted(to, token("tr_prod_a_key", "read:runs:r")) == Admitted("a", ("read:runs:r",))
    assert await admitted(to, token("tr_stg_b_key", "read:all", sub="a")) == Admitted("b", ("read:all",))
    assert (await refused(to, token("tr_prod_c_key", "read:all", sub="a"))).guessed


@looped
async def test_one_of_an_environment_with_a_known_id_must_name_it() -> None:
    to = access(secret_key=KEY, environment="production", environment_id="id_production")
    for subject in ("id_production", "production"):
        assert (await admitted(to, token(KEY, sub=subject))).environment == "production"
    assert (await refused(to, token(KEY, sub="id_other"))).subject == "id_other"


@pytest.mark.parametrize("key", ["tr_dev_somebodys", "tr_preview_shared"])
@looped
async def test_one_of_a_key_that_branches_share_must_name_what_is_known(key: str) -> None:
    branch = "main" if key.startswith("tr_preview_") else None
    to = access(secret_key=key, environment="here", preview_branch=branch)
    assert (await refused(to, token(key, "read:all", sub="id_of_some_branch"))).subject == "id_of_some_branch"
    claimed = (await admitted(to, key, branch)).signs_as
    assert (await admitted(to, token(key, "read:all", sub=claimed))).environment == "here"


# --- secrets


@looped
async def test_nothing_that_is_said_or_kept_holds_what_was_shown() -> None:
    table = Table(web="production")
    to = access(table, secret_key=KEY)
    await admitted(to, table.keys["web"][0])
    for credential in (new_key(), KEY + "x", token(KEY + "x", "read:all"), token(KEY, exp=1)):
        error = await refused(to, credential)
        told = "".join(traceback.format_exception(error)) + repr(vars(error)) + repr(vars(to))
        assert error.__context__ is None
        assert not any(part in told for part in (credential, credential.split(".")[-1], KEY))
    assert table.keys["web"][0] not in repr(vars(to))
