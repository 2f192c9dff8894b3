"""Which environments a process serves, and with which keys: one from the settings, or several from a file.

The file (``TAILRACE_KEYS_FILE``) is TOML, one table for each environment, and is read again when it changes::

    [production]
    key = "tr_prod_..."

    [staging]
    key = "tr_stg_..."
    api_url = "https://trigger.example.com"    # else TRIGGER_API_URL
    discover = "tags=eval"                     # else TAILRACE_DISCOVER; "none" for none
    preview_branch = "..."                     # keys of preview environments need one
    environment_id = "..."                     # upstream's, which public access tokens name
    previous_key = "tr_stg_..."                # while the key is changed: `tailrace serve` takes it still

No message says what a field holds: anything in this file may be a key.
"""

from __future__ import annotations

import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, SecretStr, TypeAdapter, ValidationError

from tailrace.config.access import lacks_branch
from tailrace.config.settings import (
    ApiUrl,
    EnvironmentName,
    HeaderValue,
    Rule,
    SecretKey,
    Settings,
    variables,
)
from tailrace.errors import BadSettings
from tailrace.redaction import redact

__all__ = ["Access", "KeysFile", "access_to", "accesses", "meant", "named", "readable_by_others"]

NO_DISCOVERY = "none"


@dataclass(frozen=True, slots=True)
class Access:
    """How one environment is reached. ``discover``: which of its new runs are archived unasked; None: none.

    ``environment_id``: upstream's; None: it was not said. ``previous_key``: the one before ``key``, if who reads may
    show it still; upstream is not asked with it.
    """

    name: str
    api_url: str
    key: SecretStr
    preview_branch: str | None = None
    discover: str | None = None
    environment_id: str | None = None
    previous_key: SecretStr | None = None


def accesses(settings: Settings) -> dict[str, Access]:
    """Return the environments that the settings name, at least one.

    Raises:
        BadSettings: there is no key, or the file can't be used.
    """
    if settings.keys_file is not None:
        return KeysFile(settings.keys_file, settings).first()
    one = Access(
        settings.environment,
        settings.api_url,
        SecretStr(settings.key()),
        settings.preview_branch,
        settings.discover,
        settings.environment_id,
        settings.previous_secret_key,
    )
    return {one.name: one}


def meant(settings: Settings, names: Mapping[str, object]) -> str:
    """Return the environment that is meant by a request that names none.

    Raises:
        BadSettings: it can't be told.
    """
    if settings.keys_file is None or "environment" in settings.model_fields_set:
        return settings.environment
    if len(names) == 1:
        return next(iter(names))
    raise BadSettings(
        f"Several environments are served ({', '.join(sorted(names))}): name one, or set TAILRACE_ENVIRONMENT to the "
        "default one."
    )


def named(settings: Settings, given: str | None) -> str:
    """Return the environment that a command is about: ``given``, else the one that is meant.

    Raises:
        BadSettings: it can't be told, or the file with the keys can't be used.
    """
    return given or meant(settings, accesses(settings) if settings.keys_file is not None else {})


def access_to(settings: Settings, name: str) -> Access:
    """Return the access to one environment.

    Raises:
        BadSettings: there is no key for it.
    """
    found = accesses(settings)
    if name not in found:
        raise BadSettings(f"There is no key for environment {name!r}, only for {', '.join(sorted(found))}.")
    return found[name]


def readable_by_others(path: Path) -> bool:
    """Return whether anybody on this machine may read the file."""
    try:
        return bool(path.stat().st_mode & stat.S_IROTH)
    except OSError:
        return False


class KeysFile:
    """The file, and what of it is believed. Used by one thread."""

    def __init__(self, path: Path, settings: Settings) -> None:
        """``settings``: what counts where a table says nothing."""
        self._path = path
        self._settings = settings
        self._believed: bytes | str = ""
        self._seen: bytes | str = ""
        self._refused: bytes | str | None = None

    def first(self) -> dict[str, Access]:
        """Read the file as it is now.

        Raises:
            BadSettings: it can't be read, or something in it is wrong.
        """
        contents = self._contents()
        found = self._parsed(contents)
        self._believed = self._seen = contents
        return found

    def look(self) -> dict[str, Access] | None:
        """Return what the file says if that is new; None when it is not.

        What is new is believed when two looks in a row have found the same: the first may have met it half written. A
        file that is replaced (a symbolic link that points elsewhere too) is new when its contents are.

        Raises:
            BadSettings: it is new and wrong, or gone: what was believed before stays. Once for each contents.
        """
        contents = self._contents()
        settled, self._seen = contents == self._seen, contents
        if contents == self._believed:
            self._refused = None
        if not settled or contents in (self._believed, self._refused):
            return None
        self._refused = contents
        found = self._parsed(contents)
        self._believed = contents
        return found

    def _contents(self) -> bytes | str:
        """Return the file's bytes, or why there are none."""
        try:
            return self._path.read_bytes()
        except OSError as error:
            return f"can't be read: {error.strerror or type(error).__name__}"

    def _parsed(self, contents: bytes | str) -> dict[str, Access]:
        if isinstance(contents, str):
            raise self._bad([contents])
        try:
            tables = tomllib.loads(contents.decode())
        except UnicodeDecodeError:
            problem = "is not UTF-8"
        except tomllib.TOMLDecodeError as error:
            # Its place is what one needs; the text before it may quote what stands there.
            _, _, place = str(error).rpartition("(")
            problem = f"is not TOML: something is wrong {place.rstrip(')') or 'in it'}"
        else:
            return self._checked(tables)
        # Outside the except block: the error holds the text, and must not be this one's context.
        raise self._bad([problem])

    def _checked(self, tables: dict[str, Any]) -> dict[str, Access]:
        if not tables:
            raise self._bad(["names no environment"])
        found: dict[str, Access] = {}
        problems: list[str] = []
        for name, table in tables.items():
            try:
                access = self._access(_NAME.validate_python(name), checked := _Table.model_validate(table))
            except ValidationError as error:
                problems += [_problem(name, each["loc"], each["type"], each.get("ctx", {})) for each in error.errors()]
                continue
            if checked.lacks_branch:
                problems.append(f"[{name}] key is one of preview environments: set preview_branch too")
            found[access.name] = access
        chosen = self._settings.environment
        if not problems and "environment" in self._settings.model_fields_set and chosen not in found:
            problems.append(f"has no table for {redact(chosen)}, which TAILRACE_ENVIRONMENT names")
        if problems:
            raise self._bad(problems)
        return found

    def _access(self, name: str, table: _Table) -> Access:
        discover = table.discover or self._settings.discover
        return Access(
            name,
            table.api_url or self._settings.api_url,
            table.key,
            table.preview_branch,
            None if discover == NO_DISCOVERY else discover,
            table.environment_id,
            table.previous_key,
        )

    def _bad(self, problems: list[str]) -> BadSettings:
        return BadSettings("\n".join(f"TAILRACE_KEYS_FILE: {self._path} {problem}." for problem in problems))


def _rule_or_none(given: str) -> str:
    return NO_DISCOVERY if given.strip().lower() == NO_DISCOVERY else _RULE.validate_python(given)


_NAME = TypeAdapter(EnvironmentName, config=ConfigDict(hide_input_in_errors=True))
_RULE = TypeAdapter(Rule, config=ConfigDict(hide_input_in_errors=True))


class _Table(BaseModel):
    """One environment's table."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    key: SecretKey
    api_url: ApiUrl | None = None
    preview_branch: HeaderValue | None = None
    environment_id: EnvironmentName | None = None
    previous_key: SecretKey | None = None
    discover: Annotated[str, AfterValidator(_rule_or_none)] | None = None

    @property
    def lacks_branch(self) -> bool:
        return lacks_branch(self.key.get_secret_value(), self.preview_branch)


_SETTING_OF = {
    "key": "secret_key",
    **{field: field for field in ("api_url", "preview_branch", "environment_id", "discover")},
    "previous_key": "previous_secret_key",
}


def _problem(name: str, location: tuple[int | str, ...], kind: str, context: Mapping[str, Any]) -> str:
    """One sentence about one wrong field."""
    table = f"[{redact(name)[:100]}]"
    field = str(location[0]) if location else ""
    if kind == "refused":
        return f"{table} {field} {context['message']}"
    if kind == "extra_forbidden":
        return f"{table} has a field {redact(field)[:100]!r}; there are {', '.join(_SETTING_OF)}"
    if kind == "missing":
        return f"{table} has no {field}"
    if kind == "model_type":
        return f"{table} must be a table with a key"
    if field not in _SETTING_OF:
        return f"{table} is no name for an environment: up to 100 printable characters"
    allowed = next(each.allowed for each in variables() if each.field == _SETTING_OF[field])
    return f"{table} {field} must be {allowed}{', or none' if field == 'discover' else ''}"
