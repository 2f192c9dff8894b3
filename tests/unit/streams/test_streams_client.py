"""Where a read goes: what is said, else the environment at the moment of the call. And nothing secret ever shows."""

from __future__ import annotations

import traceback

import pytest

from tailrace import streams
from tailrace.runs import subscribe_to_run
from tailrace.streams import NotConfigured
from tailrace.streams.client import Client, configure, default_client
from tailrace.streams.session import Options

KEY = "tr_dev_very_secret"


def endpoint(**said: str) -> tuple[str, str, str | None]:
    found = Client(**said).servers().endpoint()  # type: ignore[arg-type]
    return found.api_url, found.key(), found.preview_branch


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"TRIGGER_SECRET_KEY": "a", "TRIGGER_ACCESS_TOKEN": "b"}, ("https://api.trigger.dev", "a", None)),
        ({"TRIGGER_SECRET_KEY": " ", "TRIGGER_ACCESS_TOKEN": "b"}, ("https://api.trigger.dev", "b", None)),
        ({"TRIGGER_SECRET_KEY": " a\n", "TRIGGER_API_URL": "http://x:1/"}, ("http://x:1", "a", None)),
        ({"TRIGGER_SECRET_KEY": "a", "TRIGGER_PREVIEW_BRANCH": "p"}, ("https://api.trigger.dev", "a", "p")),
        (
            {"TRIGGER_SECRET_KEY": "a", "VERCEL_GIT_COMMIT_REF": "v", "TRIGGER_DEV_BRANCH": "d"},
            ("https://api.trigger.dev", "a", "v"),
        ),
        ({"TRIGGER_SECRET_KEY": "a", "TRIGGER_DEV_BRANCH": "d"}, ("https://api.trigger.dev", "a", "d")),
        ({"TRIGGER_SECRET_KEY": "a", "TRIGGER_DEV_BRANCH": "default"}, ("https://api.trigger.dev", "a", None)),
    ],
)
def test_the_environment_is_read_when_a_call_is_made(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: tuple[str, str, str | None]
) -> None:
    client = Client()
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    servers = client.servers()
    monkeypatch.setenv("TRIGGER_SECRET_KEY", "another")
    made = servers.endpoint()
    assert (made.api_url, made.key(), made.preview_branch) == found


def test_what_is_said_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIGGER_SECRET_KEY", "environment")
    monkeypatch.setenv("TRIGGER_API_URL", "http://environment")
    assert endpoint(secret_key="said", api_url="http://said", preview_branch="b") == ("http://said", "said", "b")


@pytest.mark.parametrize(
    ("said", "variable"),
    [
        ({}, "TRIGGER_SECRET_KEY"),
        ({"secret_key": "tr_dev_\nx"}, "TRIGGER_SECRET_KEY"),
        ({"secret_key": "tr_dev_ü"}, "TRIGGER_SECRET_KEY"),
        ({"secret_key": ""}, "TRIGGER_SECRET_KEY"),
        ({"secret_key": "k", "api_url": "ftp://x"}, "TRIGGER_API_URL"),
        ({"secret_key": "k", "api_url": "http://user:hunter2@x"}, "TRIGGER_API_URL"),
        ({"secret_key": "k", "api_url": "http://x?key=1"}, "TRIGGER_API_URL"),
        ({"secret_key": "k", "api_url": "http://x:99999999"}, "TRIGGER_API_URL"),
        ({"secret_key": "k", "preview_branch": "a\nb"}, "TRIGGER_PREVIEW_BRANCH"),
    ],
)
def test_what_can_not_be_right_is_refused_by_name_and_without_its_value(said: dict[str, str], variable: str) -> None:
    with pytest.raises(NotConfigured, match=variable) as caught:
        endpoint(**said)
    assert "hunter2" not in str(caught.value)
    assert "tr_dev_" not in str(caught.value)


def test_a_read_without_a_key_is_refused_at_the_call() -> None:
    with pytest.raises(NotConfigured):
        streams.read("run_1")
    with pytest.raises(NotConfigured):
        subscribe_to_run("run_1")


def test_an_archive_needs_a_database_at_the_call() -> None:
    with pytest.raises(NotConfigured, match="DATABASE_URL"):
        streams.read("run_1", source="archive")
    with pytest.raises(NotConfigured, match="PostgreSQL"):
        streams.read("run_1", source="archive", client=Client(database_url="mysql://user:password@x/y"))


def test_a_configured_client_is_used_by_calls_that_name_none() -> None:
    configure(Client(KEY, api_url="http://configured"))
    try:
        assert Options().servers.endpoint().api_url == "http://configured"
    finally:
        configure(None)
    assert default_client() is not None
    with pytest.raises(NotConfigured):
        Options()


def test_nothing_secret_shows() -> None:
    client = Client(KEY, database_url=f"postgresql://user:{KEY}@localhost/x")
    options = Options(client=client)
    shown = [repr(client), repr(options), repr(options.servers), repr(options.servers.endpoint()), str(vars(client))]
    reader = streams.read("run_1", client=client)
    shown.append(repr(reader) + str(vars(reader)))
    try:
        reader.within(-1)
        raise NotConfigured
    except NotConfigured as error:
        shown.append("".join(traceback.format_exception(error)))
    assert KEY not in "".join(shown)
    client.close()


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"start_index": -1}, "start_index"),
        ({"start_index": True}, "start_index"),
        ({"start_index": "1"}, "start_index"),
        ({"start": "newest"}, "start must be"),
        ({"start": "latest", "start_index": 4}, "leave out start"),
        ({"timeout_in_seconds": 0}, "timeout_in_seconds"),
        ({"timeout_in_seconds": float("nan")}, "timeout_in_seconds"),
        ({"source": "archives"}, "source"),
        ({"max_retries": -1}, "max_retries"),
    ],
)
def test_options_that_make_no_sense_are_refused(wrong: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        streams.read("run_1", client=Client(KEY), **wrong)  # type: ignore[call-overload]


def test_names_that_make_no_sense_are_refused() -> None:
    client = Client(KEY)
    with pytest.raises(ValueError, match="run id"):
        streams.read("", client=client)
    with pytest.raises(ValueError, match="key"):
        streams.define("")
    with pytest.raises(ValueError, match="twice"):
        streams.read_many("run_1", ["a", streams.define("a")], client=client)
    with pytest.raises(TypeError, match="defined with a type"):
        streams.read("run_1", streams.define("a", type=str), type=int, client=client)  # type: ignore[call-overload]
    with pytest.raises(ValueError, match="size"):
        streams.batches([], size=0)
    with pytest.raises(TypeError, match="max_age_s"):
        streams.batches([], max_age_s=1.0)


def test_a_definition_says_what_it_is() -> None:
    defined = streams.define("ai", type=str)
    assert repr(defined) == "StreamDefinition('ai', type=str)"
    assert (defined.id, defined.key, defined.type) == ("ai", "ai", str)
