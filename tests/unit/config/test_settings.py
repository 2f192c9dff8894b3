"""Settings and URLs: what is read, what is refused and in which words, and that the documentation says the same."""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import redis
from kombu.connection import Connection
from pydantic import ValidationError

from tailrace.cli import servers
from tailrace.config.settings import Settings, Variable, load, variables
from tailrace.config.urls import (
    DATABASE_VARIABLES,
    REDIS_MASTER_VARIABLE,
    REDIS_VARIABLES,
    database_url,
    redis_master,
    redis_url,
)
from tailrace.devtools.servers.home import Endpoints
from tailrace.errors import BadSettings
from tailrace.redaction import redact
from tailrace.store.engine import normal_url

KEY = "tr_prod_Zb1y4mDq"
PASSWORD = "Xq7-hidden"
DOCUMENT = Path(__file__).parents[3] / "docs" / "settings.md"


# --- settings


def test_an_empty_environment_gives_the_defaults() -> None:
    settings = load({})
    assert {variable.field: variable.default for variable in variables()} == settings.model_dump()


@pytest.mark.parametrize(
    ("environ", "field", "expected"),
    [
        ({"TAILRACE_BATCH_MAX_CHUNKS": "7"}, "batch_max_chunks", 7),
        ({"TAILRACE_BATCH_MAX_CHUNKS": " 7 "}, "batch_max_chunks", 7),
        ({"TAILRACE_BATCH_MAX_CHUNKS": ""}, "batch_max_chunks", 500),
        ({"TAILRACE_BATCH_MAX_CHUNKS": " "}, "batch_max_chunks", 500),
        ({"BATCH_MAX_CHUNKS": "7"}, "batch_max_chunks", 500),
        ({"TAILRACE_LEASE_SECONDS": "12.5"}, "lease_seconds", 12.5),
        ({"TAILRACE_READ_TIMEOUT_SECONDS": "0.1"}, "read_timeout_seconds", 0.1),
        ({"TAILRACE_MAX_CONNECTIONS": "20"}, "max_connections", 20),
        ({"TAILRACE_HOME": "/srv/tailrace"}, "home", Path("/srv/tailrace")),
        ({"TAILRACE_LOG_FORMAT": "JSON"}, "log_format", "json"),
        ({"TAILRACE_LOG_LEVEL": "Debug"}, "log_level", "debug"),
        ({"TAILRACE_ENVIRONMENT": "prod"}, "environment", "prod"),
        (
            {"TAILRACE_SERVE_ORIGINS": "https://B.example/, https://a.example"},
            "serve_origins",
            "https://a.example,https://b.example",
        ),
        ({"TAILRACE_SERVE_ORIGINS": "https://a.example,*"}, "serve_origins", "*"),
        ({"TRIGGER_API_URL": "https://trigger.example/"}, "api_url", "https://trigger.example"),
        ({"TRIGGER_API_URL": "http://10.0.0.1:3030/base//"}, "api_url", "http://10.0.0.1:3030/base"),
        ({"TRIGGER_PREVIEW_BRANCH": "a", "VERCEL_GIT_COMMIT_REF": "b"}, "preview_branch", "a"),
        ({"VERCEL_GIT_COMMIT_REF": "b", "TRIGGER_DEV_BRANCH": "c"}, "preview_branch", "b"),
        ({"TRIGGER_DEV_BRANCH": "c"}, "preview_branch", "c"),
        ({"TRIGGER_DEV_BRANCH": "default"}, "preview_branch", None),
        ({"TRIGGER_PREVIEW_BRANCH": "default"}, "preview_branch", "default"),
    ],
)
def test_a_variable_sets_its_field(environ: dict[str, str], field: str, expected: object) -> None:
    assert getattr(load(environ), field) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TRIGGER_SECRET_KEY": KEY}, KEY),
        ({"TRIGGER_SECRET_KEY": f"  {KEY}\n"}, KEY),
        ({"TRIGGER_ACCESS_TOKEN": KEY}, KEY),
        ({"TRIGGER_SECRET_KEY": KEY, "TRIGGER_ACCESS_TOKEN": "tr_pat_abcdefg"}, KEY),
        ({"TRIGGER_SECRET_KEY": "", "TRIGGER_ACCESS_TOKEN": "eyJhbGciOi.J9.x"}, "eyJhbGciOi.J9.x"),
        ({"TRIGGER_SECRET_KEY": "tr_preview_x", "TRIGGER_PREVIEW_BRANCH": "b"}, "tr_preview_x"),
        ({"TRIGGER_SECRET_KEY": "of-a-future-kind"}, "of-a-future-kind"),
    ],
)
def test_the_key(environ: dict[str, str], expected: str) -> None:
    assert load(environ).key() == expected


def test_a_missing_key_matters_only_to_those_who_ask_for_it() -> None:
    with pytest.raises(BadSettings, match="TRIGGER_SECRET_KEY"):
        load({}).key()


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"TAILRACE_BATCH_MAX_CHUNKS": "0"},
            "TAILRACE_BATCH_MAX_CHUNKS must be a whole number, 1 to 2,000 chunks, not '0'.",
        ),
        ({"TAILRACE_BATCH_MAX_CHUNKS": "2001"}, "1 to 2,000 chunks, not '2001'."),
        ({"TAILRACE_BATCH_MAX_CHUNKS": "1.5"}, "TAILRACE_BATCH_MAX_CHUNKS must be a whole number"),
        (
            {"TAILRACE_BATCH_MAX_BYTES": "1MiB"},
            "TAILRACE_BATCH_MAX_BYTES must be a whole number, 1,024 to 1,048,576 bytes",
        ),
        ({"TAILRACE_LEASE_SECONDS": "1"}, "TAILRACE_LEASE_SECONDS must be 2 to 300 seconds, not '1'."),
        ({"TAILRACE_HOLD_SECONDS": "nan"}, "TAILRACE_HOLD_SECONDS must be 0 to 60 seconds, not 'nan'."),
        ({"TAILRACE_PARK_AFTER_SECONDS": "inf"}, "TAILRACE_PARK_AFTER_SECONDS must be"),
        ({"TAILRACE_SLICE_SECONDS": "3600"}, "TAILRACE_SLICE_SECONDS must be 1 to 1,800 seconds, not '3600'."),
        (
            {"TAILRACE_MAX_CONNECTIONS": "0"},
            "TAILRACE_MAX_CONNECTIONS must be a whole number, 1 to 1,000,000 connections",
        ),
        ({"TAILRACE_LOG_LEVEL": "loud"}, "TAILRACE_LOG_LEVEL must be debug, info, warning or error, not 'loud'."),
        ({"TAILRACE_SCRUB_HOURS": "night"}, "TAILRACE_SCRUB_HOURS must be two hours of the day (UTC), like 22-4;"),
        ({"TAILRACE_SCRUB_HOURS": "1-25"}, "TAILRACE_SCRUB_HOURS must be"),
        ({"TAILRACE_SCRUB_HOURS": "24-2"}, "TAILRACE_SCRUB_HOURS must be"),
        ({"TAILRACE_SCRUB_LOAD": "2"}, "TAILRACE_SCRUB_LOAD must be 0 to 1 of the time, not '2'."),
        ({"TAILRACE_ENVIRONMENT": "a\nb"}, "TAILRACE_ENVIRONMENT must be up to 100 printable characters, not 'a\\nb'."),
        (
            {"TAILRACE_SERVE_ORIGINS": "a.example"},
            "TAILRACE_SERVE_ORIGINS must be * or origins (https://app.example.com)",
        ),
        ({"TRIGGER_API_URL": "api.trigger.dev"}, "TRIGGER_API_URL must be http:// or https://"),
        ({"TRIGGER_API_URL": "https://"}, "TRIGGER_API_URL must be"),
        ({"TRIGGER_API_URL": "https://h:port"}, "TRIGGER_API_URL can't be read as a URL."),
        ({"TRIGGER_API_URL": "https://h/?a=b"}, "TRIGGER_API_URL must be"),
        ({"TRIGGER_API_URL": "https://h/a b"}, "TRIGGER_API_URL must be"),
        ({"VERCEL_GIT_COMMIT_REF": "größe"}, "VERCEL_GIT_COMMIT_REF must be printable ASCII, not 'größe'."),
        ({"TRIGGER_SECRET_KEY": "tr_preview_x"}, "set TRIGGER_PREVIEW_BRANCH too."),
        (
            {"TAILRACE_LEASE_SECONDS": "6"},
            "TAILRACE_LEASE_RENEW_SECONDS (3) must be less than half of TAILRACE_LEASE_SECONDS (6).",
        ),
        (
            {"TAILRACE_RETRY_CAP_MS": "499"},
            "TAILRACE_RETRY_BASE_MS (500) must not be more than TAILRACE_RETRY_CAP_MS (499).",
        ),
        ({"TAILRACE_BUFFER_MAX_BYTES": "1048576"}, "TAILRACE_STREAM_BUFFER_MAX_BYTES (8388608) must not be more than"),
        (
            {"TAILRACE_STREAM_BUFFER_MAX_BYTES": "4096"},
            "TAILRACE_BATCH_MAX_BYTES (1048576) must not be more than TAILRACE_STREAM_BUFFER_MAX_BYTES (4096)",
        ),
    ],
)
def test_a_wrong_value_is_refused_by_name(environ: dict[str, str], message: str) -> None:
    with pytest.raises(BadSettings) as refusal:
        load(environ)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_all_wrong_values_are_named_at_once() -> None:
    with pytest.raises(BadSettings) as refusal:
        load({"TAILRACE_SLOTS": "-1", "TAILRACE_LOG_LEVEL": "?", "TRIGGER_SECRET_KEY": "pk_dev_x"})
    assert [line.split()[0] for line in str(refusal.value).splitlines()] == [
        "TRIGGER_SECRET_KEY",
        "TAILRACE_SLOTS",
        "TAILRACE_LOG_LEVEL",
    ]


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (f"tr_pat_{PASSWORD}", "is a personal access token"),
        (f"tr_oat_{PASSWORD}", "is an organisation's token"),
        (f"pk_dev_{PASSWORD}", "is a public key of an old kind"),
        (f"tr_dev_{PASSWORD} x", "holds characters that no key has"),
        (f"tr_dev_{PASSWORD}\nx", "holds characters that no key has"),
        (f"tr_dev_{PASSWORD}ü", "holds characters that no key has"),
    ],
)
@pytest.mark.parametrize("variable", ["TRIGGER_SECRET_KEY", "TRIGGER_ACCESS_TOKEN", "TAILRACE_PREVIOUS_SECRET_KEY"])
def test_a_key_of_the_wrong_kind_is_refused_and_not_shown(key: str, message: str, variable: str) -> None:
    with pytest.raises(BadSettings) as refusal:
        load({variable: key})
    assert str(refusal.value).startswith(f"{variable} {message}")
    assert PASSWORD not in "".join(traceback.format_exception(refusal.value))
    assert refusal.value.__context__ is None  # pydantic's own error holds the key


def test_a_secret_in_the_wrong_variable_is_not_shown() -> None:
    environ = {
        "TRIGGER_API_URL": f"https://{PASSWORD}:{PASSWORD}@h",
        "TAILRACE_SLOTS": f"tr_dev_{PASSWORD.replace('-', '')}",
    }
    with pytest.raises(BadSettings) as refusal:
        load(environ)
    assert PASSWORD not in str(refusal.value)
    assert PASSWORD.replace("-", "") not in str(refusal.value)


def test_a_secret_is_in_nothing_that_is_printed() -> None:
    settings = load({"TRIGGER_SECRET_KEY": KEY})
    shown = [repr(settings), str(settings), f"{settings}", repr(settings.model_dump()), settings.model_dump_json()]
    shown += [repr(vars(settings)), str(settings.secret_key), logging.Formatter().format(_record(settings))]
    with pytest.raises(ValidationError) as error:
        Settings(secret_key=KEY, slots=0)  # type: ignore[arg-type]
    shown.append("".join(traceback.format_exception(error.value)))
    assert not [text for text in shown if KEY in text]


def _record(settings: Settings) -> logging.LogRecord:
    return logging.LogRecord("x", logging.INFO, "x", 1, "%s %r", (settings, settings), None)


def test_settings_are_frozen_and_refuse_unknown_names() -> None:
    settings = load({})
    with pytest.raises(ValidationError):
        settings.slots = 5
    with pytest.raises(ValidationError):
        Settings(slot=5)  # type: ignore[call-arg]


def test_settings_can_be_made_without_an_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_SLOTS", "7")
    assert Settings(slice_seconds=15).slots == 1_000
    assert Settings(slots=5).slots == 5


def test_a_chunk_waits_a_quarter_of_a_second_and_a_late_check_six_hours() -> None:
    """README promises it of whoever sets nothing."""
    settings = Settings()
    assert settings.batch_max_age_ms == 250
    assert settings.late_check_seconds == 6 * 3_600


def test_the_hours_of_the_scrub() -> None:
    assert Settings().scrub_window == (1, 5)
    assert load({"TAILRACE_SCRUB_HOURS": " 22 - 04 "}).scrub_window == (22, 4)


def test_times_in_milliseconds_are_given_in_seconds_too() -> None:
    settings = load({})
    assert (settings.retry_base_s, settings.retry_cap_s) == (0.5, 30.0)


# --- urls


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"DATABASE_URL": "postgresql://u:p@h:1/d?sslmode=require"}, "postgresql://u:p@h:1/d?sslmode=require"),
        ({"DATABASE_URL": "postgres://u:p@h/d"}, "postgresql://u:p@h/d"),
        ({"DATABASE_URL": "postgresql+psycopg://u:p@h/d"}, "postgresql://u:p@h/d"),
        ({"DATABASE_URL": " postgres://h/d\n"}, "postgresql://h/d"),
        ({"DATABASE_URL": "postgresql://h1:1,h2:2/d"}, "postgresql://h1:1,h2:2/d"),
        ({"DATABASE_URL": "postgres://a/d", "TAILRACE_DATABASE_URL": "postgres://b/d"}, "postgresql://b/d"),
        ({"DATABASE_URL": "postgres://a/d", "TAILRACE_DATABASE_URL": " "}, "postgresql://a/d"),
    ],
)
def test_database_url(environ: dict[str, str], expected: str) -> None:
    assert database_url(environ) == expected


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h", "redis://h"),
        ("redis://:p%40@h:6380/3", "redis://:p%40@h:6380/3"),
        ("rediss://:p@h:6380/3", "rediss://:p@h:6380/3?ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=CERT_REQUIRED", "rediss://h?ssl_cert_reqs=required"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "rediss://h?ssl_cert_reqs=none"),
        ("rediss://h?ssl_cert_reqs=optional", "rediss://h?ssl_cert_reqs=optional"),
        ("sentinel://:p@a:26379;sentinel://:p@b:26379/1", "sentinel://:p@a:26379;sentinel://:p@b:26379/1"),
        ("sentinel://a:26379?ssl_cert_reqs=CERT_REQUIRED", "sentinel://a:26379?ssl_cert_reqs=required"),
    ],
)
def test_redis_url(url: str, expected: str) -> None:
    assert redis_url({"REDIS_URL": url}) == expected
    assert redis_url({"REDIS_URL": "redis://other", "TAILRACE_REDIS_URL": url}) == expected


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"redis://:{PASSWORD}@h", "***"),
        (f"redis://{PASSWORD}@h", "***"),  # the colon was forgotten
        (f"redis://somebody:{PASSWORD}@h", "somebody:***"),
        ("redis://default@h", "default"),
    ],
)
def test_a_password_of_redis_is_hidden_wherever_it_stands(url: str, shown: str) -> None:
    read = redis_url({"REDIS_URL": url})
    assert redact(f"at {read.removeprefix('redis://').removesuffix('@h').removeprefix(':')}") == f"at {shown}"


def test_kombu_and_redis_read_our_url_alike(tmp_path: Path) -> None:
    """kombu itself checks no certificate unless the URL says so, and only redis-py takes lower case everywhere."""
    authorities = tmp_path / "ca&1 .pem"
    authorities.touch()
    encoded = str(authorities).replace("&", "%26").replace(" ", "%20")
    url = redis_url({"REDIS_URL": f"rediss://:p%2Fw@h:6380/1?ssl_ca_certs={encoded}"})
    connection = Connection(url)  # type: ignore[no-untyped-call]
    assert connection.ssl == {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(authorities)}
    assert connection.password == "p/w"
    made = redis.ConnectionPool.from_url(url).make_connection()
    assert isinstance(made, redis.SSLConnection)
    assert (made.cert_reqs, made.ca_certs, made.password) == (ssl.CERT_REQUIRED, str(authorities), "p/w")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("http://h", "must start with redis://"),
        ("h:6379", "must start with redis://"),
        ("redis://", "can't be read"),
        (f"redis://:{PASSWORD}#@h", "can't be read"),
        (f"redis://u:1#{PASSWORD}@h", "can't be read"),
        (f"redis://:{PASSWORD}/x@h", "can't be read"),
        (f"redis://:{PASSWORD};x@h", "can't be read"),
        (f"redis://:{PASSWORD}@h:port", "can't be read"),
        (f"redis://:{PASSWORD}@[h", "can't be read"),
        (f"redis://:{PASSWORD}@h/db", "must end with the number of a database"),
        (f"redis://h?password={PASSWORD}", "only ssl_cert_reqs, ssl_ca_certs"),
        (f"redis://:{PASSWORD}@h/0?socket_timeout={PASSWORD}", "only ssl_cert_reqs, ssl_ca_certs"),
        (f"rediss://h/0?ssl_cert_reqs=none&{PASSWORD}", "only ssl_cert_reqs, ssl_ca_certs"),
        (f"redis://:{PASSWORD}@h?ssl_ca_certs=x", "has ssl_ca_certs, which needs rediss:// instead of redis://"),
        (
            f"rediss://:{PASSWORD}@h?ssl_cert_reqs=perhaps",
            "ssl_cert_reqs must be required (the default), optional or none",
        ),
        (f"rediss://:{PASSWORD}@h?ssl_ca_certs=/no/such/file", "names a file that can't be read: /no/such/file"),
    ],
)
def test_a_wrong_redis_url_is_refused_without_its_password(url: str, message: str) -> None:
    with pytest.raises(BadSettings) as refusal:
        redis_url({"TAILRACE_REDIS_URL": url})
    assert "TAILRACE_REDIS_URL" in str(refusal.value)
    assert message in str(refusal.value)
    assert PASSWORD not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize("url", [f"mysql://u:{PASSWORD}@h/d", f"u:{PASSWORD}@h/d", f"'postgres://u:{PASSWORD}@h/d'"])
def test_a_wrong_database_url_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(BadSettings, match=r"^DATABASE_URL must start with postgresql:// or postgres://") as refusal:
        database_url({"DATABASE_URL": url})
    assert PASSWORD not in "".join(traceback.format_exception(refusal.value))


@pytest.mark.parametrize(
    ("url", "encoded"),
    [
        (f"postgresql://u:x@{PASSWORD}@h/d", "@ as %40"),
        (f"postgresql://u:x/{PASSWORD}@h/d", "/ as %2F"),
        (f"postgresql://u:x#{PASSWORD}@h:1/d", "# as %23"),
        (f"postgresql://u:x?{PASSWORD}@h/d", "? as %3F"),
        (f"postgresql://u:x%{PASSWORD}@h/d", "% as %25"),
        (f"postgresql://u:x@/{PASSWORD}#@h/d", "@ as %40, / as %2F, # as %23"),
        (f"postgresql://u/{PASSWORD}@h/d", "/ as %2F"),
        (f"postgresql://u:x@h/d?password={PASSWORD}@y", "@ as %40"),
        (f"postgresql://u:{PASSWORD}@h/d#x", "# as %23"),
        (f"postgresql://u:{PASSWORD}", "no port"),
        (f"postgresql://u:x@h:{PASSWORD}/d", "no port"),
    ],
)
def test_a_database_url_with_special_characters_is_refused_and_no_part_of_it_is_shown(url: str, encoded: str) -> None:
    for read in (lambda: database_url({"DATABASE_URL": url}), lambda: normal_url(url)):
        with pytest.raises(BadSettings) as refusal:
            read()
        assert encoded in str(refusal.value)
        assert PASSWORD not in "".join(traceback.format_exception(refusal.value))


def test_what_was_refused_in_a_url_is_hidden_from_then_on() -> None:
    with pytest.raises(BadSettings):
        database_url({"DATABASE_URL": f"postgresql://u:pass/{PASSWORD}@h/d"})
    assert redact(f"could not translate host name {PASSWORD}@h") == "could not translate host name ***@h"


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h/d",
        "postgresql:///d?host=/var/run/postgresql",
        "postgresql://u:p%40%2Fx@[::1]:5432/d?sslmode=require&application_name=a%40b",
        "postgresql://u:p:q@h1:1,h2:2/d",
        "postgresql://u:p@h",
    ],
)
def test_what_everybody_reads_alike_is_left_as_it_is(url: str) -> None:
    assert database_url({"DATABASE_URL": url}) == url


def test_a_missing_url_is_refused_by_name_with_an_example() -> None:
    with pytest.raises(BadSettings, match="set TAILRACE_DATABASE_URL or DATABASE_URL, for example postgresql://"):
        database_url({"DATABASE_URL": ""})
    with pytest.raises(BadSettings, match="set TAILRACE_REDIS_URL or REDIS_URL, for example redis://"):
        redis_url({"REDIS_URL": " "})


def test_the_name_of_the_redis_behind_sentinels() -> None:
    assert redis_master({}) == "mymaster"
    assert redis_master({"TAILRACE_REDIS_MASTER": "main"}) == "main"


def test_servers_of_the_home_count_only_where_no_variable_does(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Path] = []

    def find(home: Path) -> Endpoints | None:
        asked.append(home)
        return Endpoints("postgresql://home", "redis://home") if home.name == "running" else None

    monkeypatch.setattr("tailrace.cli.servers.find", find)
    monkeypatch.chdir(tmp_path)
    for name in ("TAILRACE_DATABASE_URL", "TAILRACE_REDIS_URL"):
        monkeypatch.setenv(name, "")
    with pytest.raises(BadSettings):
        servers.database()
    assert asked == [tmp_path / ".tailrace"]
    monkeypatch.setenv("TAILRACE_HOME", "running")
    assert servers.database() == "postgresql://home"
    assert servers.broker() == "redis://home"
    asked.clear()
    monkeypatch.setenv("TAILRACE_DATABASE_URL", "postgresql://x")
    monkeypatch.setenv("TAILRACE_REDIS_URL", "redis://x")
    assert servers.database() == "postgresql://x"
    assert servers.broker() == "redis://x"
    assert asked == []


def test_callers_of_delay_know_nothing_of_the_embedded_servers() -> None:
    code = (
        "import sys; import tailrace.tasks; tailrace.tasks.app.conf.broker_url; "
        "print([name for name in sys.modules if name.startswith('tailrace.devtools')])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_urls_need_only_what_a_caller_of_delay_installs() -> None:
    code = (
        "import sys; import tailrace.config.urls; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} "
        "& {'pydantic', 'pydantic_settings', 'structlog', 'msgspec', 'httpx', 'gevent', 'alembic'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# --- documentation


def _cell(value: Any) -> str:
    if value is None:
        return "none"
    return f"{value:,}".removesuffix(".0") if isinstance(value, int | float) else f"`{value}`"


def _row(variable: Variable) -> str:
    names = ", else ".join(f"`{name}`" for name in variable.names)
    return f"| {names} | {_cell(variable.default)} | {variable.unit} | {variable.allowed} | {variable.reason} |"


def test_the_documentation_has_a_row_for_every_setting_and_no_other() -> None:
    """When this fails, put the rows that are missing into docs/settings.md as they are shown."""
    rows = [line for line in DOCUMENT.read_text(encoding="utf-8").splitlines() if line.startswith("| `")]
    of_urls = {*DATABASE_VARIABLES, *REDIS_VARIABLES, REDIS_MASTER_VARIABLE}
    documented = [row for row in rows if not any(f"`{name}`" in row.split("|")[1] for name in of_urls)]
    expected = [_row(variable) for variable in variables()]
    assert [row for row in expected if row not in documented] == []
    assert [row for row in documented if row not in expected] == []
    assert {name for row in rows for name in of_urls if f"`{name}`" in row.split("|")[1]} == of_urls


def test_every_setting_has_a_reason_and_a_range() -> None:
    for variable in variables():
        assert variable.reason.endswith(".")
        assert variable.allowed
        unit = variable.field.rpartition("_")[2]
        assert {"seconds": "seconds", "ms": "milliseconds", "bytes": "bytes"}.get(unit, variable.unit) == variable.unit
