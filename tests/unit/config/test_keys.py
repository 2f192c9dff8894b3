"""The file with the keys of several environments: what is read, what is refused, and when a change is believed."""

from __future__ import annotations

import os
import traceback
from pathlib import Path

import pytest

from tailrace.config.keys import KeysFile, access_to, accesses, meant, named, readable_by_others
from tailrace.config.settings import Settings, load
from tailrace.errors import BadSettings

SECRET = "Zb1y4mDqGeheim"
TWO = f"""
[production]
key = "tr_prod_{SECRET}"

["staging of us"]
key = " tr_preview_{SECRET} "
api_url = "https://trigger.example/"
preview_branch = "main"
environment_id = "id_upstream"
discover = "tags=b,a"
"""


def written(tmp_path: Path, text: str | bytes, **settings: object) -> Settings:
    path = tmp_path / "keys.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return Settings(keys_file=path, **settings)  # type: ignore[arg-type]


def said(error: BaseException) -> str:
    """All that anybody could print of it."""
    return "".join(traceback.format_exception(error))


def test_each_table_is_an_environment_and_the_settings_fill_what_it_leaves_out(tmp_path: Path) -> None:
    settings = written(tmp_path, TWO, api_url="http://127.0.0.1:1", discover="all", secret_key="tr_dev_unused")
    found = accesses(settings)
    assert list(found) == ["production", "staging of us"]
    production, staging = found.values()
    assert (production.api_url, production.discover, production.preview_branch) == ("http://127.0.0.1:1", "all", None)
    assert (staging.api_url, staging.discover, staging.preview_branch) == (
        *("https://trigger.example", "tags=a,b"),
        "main",
    )
    assert (production.environment_id, staging.environment_id) == (None, "id_upstream")
    assert staging.key.get_secret_value() == f"tr_preview_{SECRET}"
    assert SECRET not in repr(found)


def test_discovery_can_be_turned_off_for_one(tmp_path: Path) -> None:
    text = '[a]\nkey = "tr_dev_a"\ndiscover = "none"\n[b]\nkey = "tr_dev_b"\n'
    found = accesses(written(tmp_path, text, discover="all"))
    assert [each.discover for each in found.values()] == [None, "all"]


def test_without_a_file_the_settings_are_one_environment() -> None:
    given = {"TAILRACE_ENVIRONMENT": "mine", "TAILRACE_ENVIRONMENT_ID": "id_mine", "TAILRACE_DISCOVER": "all"}
    (access,) = accesses(load({"TRIGGER_SECRET_KEY": "tr_dev_x", **given})).values()
    assert (access.name, access.api_url, access.discover) == ("mine", "https://api.trigger.dev", "all")
    assert access.environment_id == "id_mine"
    with pytest.raises(BadSettings, match="TAILRACE_KEYS_FILE"):
        accesses(load({}))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "names no environment"),
        (f'[a]\nkey = "tr_dev_{SECRET}', "is not TOML: something is wrong at "),
        (f"tr_prod_{SECRET}", "is not TOML: something is wrong at "),
        (b"\xff" + SECRET.encode(), "is not UTF-8"),
        (f'a = "tr_dev_{SECRET}"', "[a] must be a table with a key"),
        ("[a]", "[a] has no key"),
        (f'[a]\nkey = "tr_pat_{SECRET}"', "[a] key is a personal access token"),
        (f'[a]\nkey = "tr_dev {SECRET}"', "[a] key holds characters that no key has"),
        ('[a]\nkey = ""', "[a] key holds characters that no key has"),
        ("[a]\nkey = 7", "[a] key must be secret key of an environment"),
        (f'[a]\nkey = "tr_preview_{SECRET}"', "[a] key is one of preview environments: set preview_branch too"),
        (f'[a]\nkey = "tr_dev_a"\nkeys = "{SECRET}"', "[a] has a field 'keys'; there are key, api_url, preview_branch"),
        (f'[a]\nkey = "tr_dev_a"\napi_url = "{SECRET}"', "[a] api_url must be http:// or https://"),
        (f'[a]\nkey = "tr_dev_a"\napi_url = "https://x:{SECRET}@h"', "[a] api_url must not hold a user or password"),
        (f'[a]\nkey = "tr_dev_a"\ndiscover = "{SECRET}"', "[a] discover must be all, tags=a,b or tasks=a,b, or none"),
        (f'[a]\nkey = "tr_dev_a"\npreview_branch = "{SECRET}ü"', "[a] preview_branch must be printable ASCII"),
        (f'[a]\nkey = "tr_dev_a"\nenvironment_id = "{SECRET}\\nx"', "[a] environment_id must be up to 100 printable"),
        (f'[a]\nkey = "tr_dev_a"\nprevious_key = "tr_pat_{SECRET}"', "[a] previous_key is a personal access token"),
        ('["  "]\nkey = "tr_dev_a"', "[  ] is no name for an environment"),
        (f'["tr_dev_{SECRET}"]\nkey = 1', "[tr_dev_***] key must be"),
    ],
)
def test_what_is_wrong_is_named_by_file_environment_and_field_and_not_shown(
    tmp_path: Path, text: str | bytes, message: str
) -> None:
    settings = written(tmp_path, text)
    with pytest.raises(BadSettings) as refusal:
        accesses(settings)
    assert str(refusal.value).startswith(f"TAILRACE_KEYS_FILE: {settings.keys_file} {message}")
    assert SECRET not in said(refusal.value)
    assert refusal.value.__context__ is None


def test_all_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadSettings) as refusal:
        accesses(written(tmp_path, "[a]\n[b]\nkey = 1\nx = 2"))
    assert len(str(refusal.value).splitlines()) == 3


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="can't be read: No such file or directory"):
        accesses(Settings(keys_file=tmp_path / "nowhere"))


def test_which_environment_is_meant_by_who_names_none(tmp_path: Path) -> None:
    one, two = {"a": 1}, {"a": 1, "b": 2}
    assert meant(Settings(), one) == "default"
    assert meant(Settings(keys_file=tmp_path), one) == "a"
    assert meant(Settings(keys_file=tmp_path, environment="b"), two) == "b"
    with pytest.raises(BadSettings, match=r"Several environments are served \(a, b\): name one"):
        meant(Settings(keys_file=tmp_path), two)
    settings = written(tmp_path, TWO)
    assert named(settings, "any") == "any"
    assert access_to(settings, "production").name == "production"
    with pytest.raises(BadSettings, match="no key for environment 'any', only for production, staging of us"):
        access_to(settings, "any")


def test_the_chosen_environment_must_be_in_the_file(tmp_path: Path) -> None:
    with pytest.raises(BadSettings, match="has no table for other, which TAILRACE_ENVIRONMENT names"):
        accesses(written(tmp_path, TWO, environment="other"))


def test_who_may_read_the_file(tmp_path: Path) -> None:
    path = tmp_path / "keys.toml"
    assert not readable_by_others(path)
    path.write_text(TWO)
    for mode, others in ((0o600, False), (0o640, False), (0o644, True)):
        path.chmod(mode)
        assert readable_by_others(path) is others


# --- changes


def following(tmp_path: Path, text: str = TWO) -> tuple[KeysFile, Path]:
    settings = written(tmp_path, text)
    assert settings.keys_file is not None
    keys = KeysFile(settings.keys_file, settings)
    keys.first()
    return keys, settings.keys_file


def test_a_change_is_believed_when_two_looks_agree(tmp_path: Path) -> None:
    keys, path = following(tmp_path)
    assert keys.look() is None
    path.write_text('[production]\nkey = "tr_prod_new"\n[sta')
    assert keys.look() is None  # half written
    path.write_text('[production]\nkey = "tr_prod_new"\n')
    assert keys.look() is None
    found = keys.look()
    assert found is not None
    assert found["production"].key.get_secret_value() == "tr_prod_new"
    assert keys.look() is None


def test_a_link_that_points_elsewhere_is_a_change(tmp_path: Path) -> None:
    """As Kubernetes does it: the folder is a link, and is replaced by another; sizes and times may be the same."""
    for name, key in (("one", "tr_dev_a"), ("two", "tr_dev_b")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "keys.toml").write_text(f'[a]\nkey = "{key}"\n')
        os.utime(tmp_path / name / "keys.toml", (1, 1))
    (tmp_path / "data").symlink_to("one")
    path = tmp_path / "data" / "keys.toml"
    keys = KeysFile(path, Settings(keys_file=path))
    keys.first()
    (tmp_path / "new").symlink_to("two")
    (tmp_path / "new").rename(tmp_path / "data")
    assert keys.look() is None
    found = keys.look()
    assert found is not None
    assert found["a"].key.get_secret_value() == "tr_dev_b"


def test_a_wrong_file_is_told_once_and_what_was_good_stays(tmp_path: Path) -> None:
    keys, path = following(tmp_path)
    for broken in (f'[production]\nkey = "tr_pat_{SECRET}"\n', None):
        if broken is None:
            path.unlink()
        else:
            path.write_text(broken)
        assert keys.look() is None
        with pytest.raises(BadSettings) as refusal:
            keys.look()
        assert SECRET not in said(refusal.value)
        assert keys.look() is None
    path.write_text(TWO)
    assert [keys.look() for _ in range(3)] == [None, None, None]  # as it was
    path.unlink()
    assert keys.look() is None
    with pytest.raises(BadSettings):  # it was mended in between
        keys.look()
