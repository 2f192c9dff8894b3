"""The settings: the environment, read once into one frozen object. A wrong value is refused here, by its variable.

Each field has its unit, its range and the reason for its default; `docs/settings.md` shows the same as a table, and a
test compares the two. Where the database and the broker are, `tailrace.config.urls` knows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Field, SecretStr, ValidationError, model_validator
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, EnvSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from tailrace.arguments import BATCH_LIMITS, checked_environment, checked_task
from tailrace.config.access import (
    API_URL_ALLOWED,
    API_URL_VARIABLE,
    BRANCH_ALLOWED,
    BRANCH_VARIABLES,
    DEFAULT_API_URL,
    KEY_VARIABLES,
    Refused,
    checked_api_url,
    checked_branch,
    checked_key,
    lacks_branch,
    without_no_branch,
)
from tailrace.config.console import (
    ACTORS_ALLOWED,
    HEADER_ALLOWED,
    PROXIES_ALLOWED,
    checked_actors,
    checked_header,
    checked_proxies,
)
from tailrace.config.origins import ORIGINS_ALLOWED, checked_origins
from tailrace.config.sign_keys import SIGN_KEYS_ALLOWED, checked_sign_keys
from tailrace.errors import BadSettings
from tailrace.redaction import redact

__all__ = [
    "Actors",
    "ApiUrl",
    "EnvironmentName",
    "Header",
    "HeaderValue",
    "Hours",
    "Origins",
    "Proxies",
    "Rule",
    "SecretKey",
    "Settings",
    "Variable",
    "load",
    "variables",
]

MIB = 1_048_576
_SECRETS = frozenset({"secret_key", "previous_secret_key", "sign_key"})
SHOWN_CHARACTERS = 80


# --- kinds of values


def _number(default: float | None, low: float, high: float, unit: str, reason: str) -> Any:
    extra: JsonDict = {"unit": unit, "allowed": f"{low:,} to {high:,}".replace(".0 ", " ")}
    return Field(default, ge=low, le=high, description=reason, json_schema_extra=extra)


def _batch_limit(name: str, default: int, reason: str) -> Any:
    """A limit that a request may set for its own run too, in the same range."""
    return _number(default, *BATCH_LIMITS[name], reason)


def _text(default: Any, allowed: str, reason: str, *names: str) -> Any:
    alias = AliasChoices(*names) if names else None
    return Field(default, description=reason, validation_alias=alias, json_schema_extra={"allowed": allowed})


def _refuse(message: str) -> PydanticCustomError:
    return PydanticCustomError("refused", "{message}", {"message": message})


def _secret_key(given: SecretStr) -> SecretStr:
    try:
        return SecretStr(checked_key(given.get_secret_value()))
    except Refused as error:
        raise _refuse(str(error)) from None


def _sign_keys(given: SecretStr) -> SecretStr:
    try:
        checked_sign_keys(given.get_secret_value())
    except Refused as error:
        raise _refuse(str(error)) from None
    return given


def _api_url(given: str) -> str:
    try:
        return checked_api_url(given)
    except Refused as error:
        raise _refuse(str(error)) from None


def _origins(given: str) -> str:
    return ",".join(checked_origins(given))


def _proxies(given: str) -> str:
    return ",".join(map(str, checked_proxies(given)))


def _actors(given: str) -> str:
    return ",".join(checked_actors(given))


def _discover(given: str) -> str:
    kind, separator, names = given.strip().partition("=")
    words = [word.strip() for word in names.split(",")]
    if given.strip().lower() == "all":
        return "all"
    if not separator or kind.strip().lower() not in ("tags", "tasks") or not all(words):
        raise ValueError
    return f"{kind.strip().lower()}={','.join(sorted(set(words)))}"


def _hours(given: str) -> str:
    first, separator, end = given.partition("-")
    if not separator or not (0 <= int(first) <= 23 and 0 <= int(end) <= 24):
        raise ValueError
    return f"{int(first)}-{int(end)}"


def _lower(given: Any) -> Any:
    return given.strip().lower() if isinstance(given, str) else given


SecretKey = Annotated[SecretStr, AfterValidator(_secret_key)]
ApiUrl = Annotated[str, AfterValidator(_api_url)]
HeaderValue = Annotated[str, AfterValidator(checked_branch)]
EnvironmentName = Annotated[str, AfterValidator(partial(checked_environment, "it"))]
Origins = Annotated[str, AfterValidator(_origins)]
Header = Annotated[str, AfterValidator(checked_header)]
Proxies = Annotated[str, AfterValidator(_proxies)]
Actors = Annotated[str, AfterValidator(_actors)]
Rule = Annotated[str, AfterValidator(_discover)]
"""Which new runs are archived unasked."""
Hours = Annotated[str, AfterValidator(_hours)]
"""From which hour of the day to before which."""

# --- settings


class Settings(BaseSettings):
    """What can be set. Made by `load`; tests make one from keyword arguments, with the same checks.

    Counts have no unit in their name, sizes are in bytes, times in what their name ends with.
    """

    model_config = SettingsConfigDict(
        env_prefix="TAILRACE_",
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )

    # --- upstream

    secret_key: SecretKey | None = _text(
        None,
        "secret key of an environment (tr_dev_, tr_stg_, tr_prod_, tr_preview_) or public access token",
        "No default can be right. Needed by what reads from upstream, not by queries.",
        *KEY_VARIABLES,
    )
    api_url: ApiUrl = _text(
        DEFAULT_API_URL,
        API_URL_ALLOWED,
        "Trigger.dev's cloud; the same variable and default as in its own client.",
        API_URL_VARIABLE,
    )
    preview_branch: HeaderValue | None = _text(
        None,
        BRANCH_ALLOWED,
        "Only keys of preview environments need one. The variables are those of Trigger.dev's own client: `default` "
        "in the last means none.",
        *BRANCH_VARIABLES,
    )
    environment: EnvironmentName = _text(
        "default",
        "up to 100 printable characters",
        "One key is one Trigger.dev environment; give each a name of its own when one archive holds several. With "
        "TAILRACE_KEYS_FILE: the default environment.",
    )
    environment_id: EnvironmentName | None = _text(
        None,
        "up to 100 printable characters",
        "The environment's id upstream, which public access tokens name. `tailrace serve` needs it to take those of "
        "development and preview environments, whose branches share a key.",
    )
    previous_secret_key: SecretKey | None = _text(
        None,
        "a secret key",
        "While an environment's key is changed: `tailrace serve` takes the one that was, and what it signed, until it "
        "is not set any more. Upstream is asked with the other alone.",
    )
    keys_file: Path | None = _text(
        None,
        "a path to a TOML file",
        "Keys of several environments that one worker serves, in place of TRIGGER_SECRET_KEY; read again when it "
        "changes.",
    )
    connect_timeout_seconds: float = _number(
        10.0, 0.1, 120, "seconds", "TCP and TLS take less than a second; ten ride out a lost packet or two."
    )
    read_timeout_seconds: float = _number(
        45.0,
        0.1,
        600,
        "seconds",
        "Upstream pings every 5-15 s, so three pings missing is a dead socket. Below 20, sound connections are cut; "
        "only tests want that.",
    )
    wait_seconds: int = _number(
        60,
        1,
        600,
        "seconds",
        "Asked of upstream as Timeout-Seconds: its own default, after which it ends idle responses.",
    )
    event_max_bytes: int = _number(
        16 * MIB,
        1_024,
        64 * MIB,
        "bytes",
        "A v2 batch holds 1 MiB of records, some MiB once escaped; v1 lines have no limit upstream. As UTF-8; a larger "
        "event is quarantined.",
    )
    max_connections: int | None = _number(
        None,
        1,
        1_000_000,
        "connections",
        "No limit: upstream does not count stream reads. Counts the streams read by all workers together; "
        "late checks, at most 4 at once in a worker, come on top.",
    )

    # --- batches and memory

    batch_max_chunks: int = _batch_limit(
        "batch_max_chunks",
        500,
        "Larger segments save hardly any space (16-23 bytes a chunk) and make range reads slower.",
    )
    batch_max_bytes: int = _batch_limit(
        "batch_max_bytes",
        MIB,
        "A segment is one row: larger ones are slow to unpack. One larger chunk goes alone.",
    )
    batch_max_age_ms: int = _batch_limit(
        "batch_max_age_ms",
        250,
        "The longest that a chunk waits to be durable: short to a reader, long to a database.",
    )
    hold_seconds: float = _number(
        2.0,
        0,
        60,
        "seconds",
        "v1's last event may be half a line until something follows it or this has passed (protocol §1.7).",
    )
    buffer_max_bytes: int = _number(
        64 * MIB,
        MIB,
        64 * 1_024 * MIB,
        "bytes",
        "Of one process, for all that upstream sent and Postgres has not taken; some seconds at full speed. When it is "
        "full, readers wait and stop reading their sockets. One event at a time may go beyond.",
    )
    stream_buffer_max_bytes: int = _number(
        8 * MIB,
        1_024,
        1_024 * MIB,
        "bytes",
        "What one stream may have waiting for Postgres: an eighth of the process's buffer, so that no stream starves "
        "the others.",
    )

    # --- retries

    retry_base_ms: int = _number(
        500,
        1,
        60_000,
        "milliseconds",
        "Bound of the first wait; it doubles with each attempt and is drawn with full jitter.",
    )
    retry_cap_ms: int = _number(
        30_000,
        1,
        3_600_000,
        "milliseconds",
        "Upstream is back within half a minute of its recovery, without a stampede.",
    )

    # --- how long a stream is followed

    park_after_seconds: float = _number(
        300.0,
        0.1,
        86_400,
        "seconds",
        "A stream this silent gives its slot away; tools and people take minutes to answer.",
    )
    park_v1_seconds: float = _number(
        10.0,
        0.1,
        60,
        "seconds",
        "How often a parked v1 stream is read: upstream keeps about 1 000 entries, which 100 a second fill in 10 s.",
    )
    park_v2_seconds: float = _number(
        30.0,
        0.1,
        3_600,
        "seconds",
        "How often a parked v2 stream is read: upstream keeps all of it for days, so less often.",
    )
    seal_quiet_seconds: float = _number(
        60.0,
        0.1,
        86_400,
        "seconds",
        "Nothing new for this long after the run's end: its children, and a worker still stopping, may write on.",
    )
    late_check_seconds: float = _number(
        21_600.0,
        0,
        604_800,
        "seconds",
        "A sealed run is looked at once more after six hours, well before v1's day is over; reopened if there is more. "
        "0: never.",
    )
    unknown_run_seconds: float = _number(
        120.0, 0.1, 86_400, "seconds", "A run is visible seconds after its trigger; after two minutes the id is wrong."
    )
    watch_seconds: float = _number(
        5.0, 0.1, 300, "seconds", "How often a run's status and stream keys are asked for; that path has no rate limit."
    )
    slice_seconds: float = _number(
        600.0,
        1,
        1_800,
        "seconds",
        "How long one task reads before it hands the stream on: far below the broker's visibility timeout of one hour.",
    )

    # --- leases and control

    lease_seconds: float = _number(
        8.0,
        2,
        300,
        "seconds",
        "A killed worker's streams are taken over after this and one turn of control: within 15 s.",
    )
    lease_renew_seconds: float = _number(
        3.0, 0.1, 150, "seconds", "Three tries in each lease. Must be less than half of TAILRACE_LEASE_SECONDS."
    )
    control_seconds: float = _number(
        2.0, 0.1, 60, "seconds", "One turn of the control loop: two statements when there is nothing to do."
    )
    hint_seconds: float = _number(
        30.0, 1, 600, "seconds", "A message not taken up for this long is sent again; messages are only hints."
    )
    drain_seconds: float = _number(
        10.0, 0.1, 600, "seconds", "Kubernetes and Heroku kill 30 s after SIGTERM; commits take milliseconds."
    )

    # --- messages

    sign_key: Annotated[SecretStr, AfterValidator(_sign_keys)] | None = _text(
        None,
        SIGN_KEYS_ALLOWED,
        "Off: a Redis of your own needs none. The first signs, all verify; whoever sends and whoever runs tasks needs "
        "it.",
    )
    unsigned_messages: Annotated[Literal["refuse", "accept"], BeforeValidator(_lower)] = _text(
        "refuse",
        "refuse or accept",
        "With TAILRACE_SIGN_KEY. accept is for the days in which not everybody signs yet; a wrong signature is refused "
        "all the same.",
    )
    sign_max_age_seconds: float | None = _number(
        None,
        60,
        31_536_000,
        "seconds",
        "No limit: requests may wait in the queue for as long as no worker runs. With one, a copy of an old message is "
        "refused, and so is a request that waited longer.",
    )

    # --- finding and keeping

    discover: Rule | None = _text(
        None,
        "all, tags=a,b or tasks=a,b",
        "Off: only what is asked for is archived. tags and tasks mean any of those named.",
    )
    discover_seconds: float = _number(
        10.0, 0.1, 3_600, "seconds", "How often new runs are looked for: one call, on a path without a rate limit."
    )
    discover_scan_seconds: float = _number(
        300.0,
        1,
        86_400,
        "seconds",
        "How often the list of runs is read too, for what the feed left out: a page or two of a limit of 1 500 "
        "a minute.",
    )
    discover_overlap_seconds: float = _number(
        900.0,
        0,
        86_400,
        "seconds",
        "How far each reading of the list goes back over the last one: its index is late by seconds, at worst minutes.",
    )
    backfill_rate_share: float = _number(
        0.25,
        0.01,
        1,
        "of the rate limit",
        "Three quarters are left to your own calls: a backfill, or whoever looks what has changed, asks only while at "
        "least so much is left.",
    )
    backfill_open_runs: int = _number(
        1_000,
        1,
        100_000,
        "runs",
        "A backfill asks for no more while so many of its runs are being read; each takes some 4 s.",
    )
    retention_days: int | None = _number(
        None, 1, 36_500, "days", "Everything is kept. Whole days go, counted from when a stream was archived."
    )
    scrub_load: float = _number(
        0.1,
        0,
        1,
        "of the time",
        "What verifying in the background may take of one connection of the database, for the whole fleet: pauses nine "
        "times as long as its steps of a tenth of a second. 0: never.",
    )
    scrub_hours: Hours = _text(
        "1-5",
        "two hours of the day (UTC), like 22-4; 0-24: always",
        "At night in Europe, where most databases are idle then; elsewhere set your own.",
    )
    scrub_days: int = _number(
        30,
        1,
        3_650,
        "days",
        "Each night a thirtieth of the archive's days is verified, least recently verified first: each about once a "
        "month.",
    )

    # --- this process

    slots: int = _number(
        1_000,
        1,
        20_000,
        "streams",
        "Streams read at once by one process under gevent. Each takes 43 kB; at 10 chunks/s, a thousand fill one core.",
    )
    reserve_slots: int = _number(
        8,
        0,
        1_000,
        "slots",
        "Never taken by readers, so that new requests do not wait behind streams; at most half of all.",
    )
    on_sealed: Annotated[str, AfterValidator(partial(checked_task, "it"))] | None = _text(
        None,
        "a Celery task's name, with @queue unless its queue is `celery`",
        "Called with run_id, event (sealed, failed, reopened), environment and verdicts, at least once.",
    )
    home: Path = _text(
        Path(".tailrace"), "a path", "Embedded servers are used only in the directory where `tailrace up` started them."
    )
    serve_origins: Origins | None = _text(
        None,
        ORIGINS_ALLOWED,
        "No page of another site reads what `tailrace serve` answers. *: any page that has a key.",
    )
    console_user_header: Header | None = _text(
        None,
        HEADER_ALLOWED,
        "People show a key. With a header, a reverse proxy in front of `tailrace serve` says who asks, and they see "
        "every environment.",
    )
    console_proxies: Proxies = _text(
        "127.0.0.1/32,::1/128",
        PROXIES_ALLOWED,
        "From where TAILRACE_CONSOLE_USER_HEADER is believed: a proxy on this machine.",
    )
    console_actors: Actors | None = _text(
        None,
        ACTORS_ALLOWED,
        "Of those whom the proxy names nobody may ingest, retry or cancel, unless they are named here. *: all of them.",
    )
    metrics_port: int | None = _number(
        None, 1, 65_535, "port", "Off. With one, a worker answers /metrics, /live and /ready there over HTTP."
    )
    metrics_host: str = _text(
        "127.0.0.1",
        "a name or address of this machine",
        "Nobody but this machine sees what a worker does, unless it is told: in a container, 0.0.0.0.",
    )
    traces: Annotated[Literal["none", "otlp"], BeforeValidator(_lower)] = _text(
        "none",
        "none or otlp",
        "Off. With otlp, a worker sends OpenTelemetry spans of what it does for each run, to where the OTEL_ variables "
        "say. Needs tailrace[traces].",
    )
    log_format: Annotated[Literal["auto", "console", "json"], BeforeValidator(_lower)] = _text(
        "auto", "auto, console or json", "auto: console on a terminal, else one JSON object a line. Logs go to stderr."
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(_lower)] = _text(
        "info", "debug, info, warning or error", "One line for each change of state; nothing for each chunk."
    )

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Take what `load` found: no .env file, and not this process's environment behind the caller's back."""
        return (init_settings,)

    @model_validator(mode="after")
    def _fit_together(self) -> Settings:
        lease_s, renew_s = self.lease_seconds, self.lease_renew_seconds
        if not renew_s < lease_s / 2:
            raise _refuse(
                f"TAILRACE_LEASE_RENEW_SECONDS ({renew_s:g}) must be less than half of "
                f"TAILRACE_LEASE_SECONDS ({lease_s:g})."
            )
        if self.retry_base_ms > self.retry_cap_ms:
            raise _refuse(
                f"TAILRACE_RETRY_BASE_MS ({self.retry_base_ms}) must not be more than "
                f"TAILRACE_RETRY_CAP_MS ({self.retry_cap_ms})."
            )
        if self.stream_buffer_max_bytes > self.buffer_max_bytes:
            raise _refuse(
                f"TAILRACE_STREAM_BUFFER_MAX_BYTES ({self.stream_buffer_max_bytes}) must not be more than "
                f"TAILRACE_BUFFER_MAX_BYTES ({self.buffer_max_bytes})."
            )
        if self.batch_max_bytes > self.stream_buffer_max_bytes:
            raise _refuse(
                f"TAILRACE_BATCH_MAX_BYTES ({self.batch_max_bytes}) must not be more than "
                f"TAILRACE_STREAM_BUFFER_MAX_BYTES ({self.stream_buffer_max_bytes}): such a batch could never fill."
            )
        if self.secret_key is not None and lacks_branch(self.secret_key.get_secret_value(), self.preview_branch):
            raise _refuse("TRIGGER_SECRET_KEY is a key of preview environments: set TRIGGER_PREVIEW_BRANCH too.")
        return self

    def key(self) -> str:
        """Return the credential for upstream.

        Raises:
            BadSettings: none is set.
        """
        if self.secret_key is None:
            raise BadSettings(
                "No key: set TRIGGER_SECRET_KEY to the secret key of your Trigger.dev environment, or "
                "TAILRACE_KEYS_FILE to a file with those of several."
            )
        return self.secret_key.get_secret_value()

    @property
    def scrub_window(self) -> tuple[int, int]:
        """Return the two hours of `scrub_hours`."""
        first, _, end = self.scrub_hours.partition("-")
        return int(first), int(end)

    @property
    def retry_base_s(self) -> float:
        return self.retry_base_ms / 1_000

    @property
    def retry_cap_s(self) -> float:
        return self.retry_cap_ms / 1_000


# --- loading


class Variable(NamedTuple):
    """What there is to know of one setting. ``names`` are its variables; the first that is set counts."""

    field: str
    names: tuple[str, ...]
    default: Any
    unit: str
    allowed: str
    reason: str


def variables() -> Iterator[Variable]:
    """Return every setting, in the order of the fields."""
    for name, info in Settings.model_fields.items():
        extra = info.json_schema_extra
        assert isinstance(extra, dict)
        yield Variable(
            name,
            _names(name, info),
            info.default,
            str(extra.get("unit", "")),
            str(extra["allowed"]),
            info.description or "",
        )


def load(environ: Mapping[str, str]) -> Settings:
    """Read the settings. A variable that is empty counts as not set.

    Raises:
        BadSettings: names every variable that is wrong, says what is allowed and what was given (unless it is secret).
    """
    given = without_no_branch(environ)
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): value for name, value in given.items()}
    try:
        return Settings(**source())
    except ValidationError as error:
        problems = [
            _problem(details["loc"], details["type"], details.get("ctx", {}), given) for details in error.errors()
        ]
    # Outside the except block: pydantic's error holds what was given, secrets too, and must not be this one's context.
    raise BadSettings("\n".join(problems))


def _problem(location: tuple[int | str, ...], kind: str, context: Mapping[str, Any], given: Mapping[str, str]) -> str:
    """One sentence about one wrong value."""
    message = str(context["message"]) if kind == "refused" else ""
    if not location:
        return message
    setting = next(each for each in variables() if location[0] in (each.field, *each.names))
    name = next((name for name in setting.names if name in given), setting.names[0])
    if message:
        return f"{name} {message}."
    whole = "a whole number, " if Settings.model_fields[setting.field].annotation in (int, int | None) else ""
    must_be = f"{whole}{setting.allowed} {setting.unit}".strip()
    shown = "" if setting.field in _SECRETS else f", not {redact(given.get(name, ''))[:SHOWN_CHARACTERS]!r}"
    return f"{name} must be {must_be}{shown}."


def _names(field: str, info: FieldInfo) -> tuple[str, ...]:
    if isinstance(info.validation_alias, AliasChoices):
        return tuple(str(choice) for choice in info.validation_alias.choices)
    return (f"{Settings.model_config['env_prefix']}{field}".upper(),)
