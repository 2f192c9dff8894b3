"""What a signature covers: whatever a worker acts on. Messages are made as Celery makes them; nothing is sent."""

from __future__ import annotations

import base64
import copy
import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
from celery import Celery, shared_task, signals
from kombu.exceptions import EncodeError
from kombu.transport.virtual import Channel
from kombu.utils.json import dumps, loads

from tailrace import redaction
from tailrace.celery import register
from tailrace.config.sign_keys import sign_keys
from tailrace.config.unknown import unknown_variables
from tailrace.errors import BadSettings
from tailrace.tasks import app, ingest_run
from tailrace.tasks.envelope import Malformed
from tailrace.tasks.signature import AHEAD_S, HEADER, Sent, check_signature, signature
from tailrace.tasks.signing import Signatures

NEW, OLD, OTHER = "new-5f0c1f3a9be24d7d8c6b", "old-9a8b7c6d5e4f3a2b1c0d", "other-0123456789abcdef00"
NEW, OLD, OTHER = NEW + NEW[::-1], OLD + OLD[::-1], OTHER + OTHER[::-1]
AT = 1_800_000_000


class Published:
    """Takes what an app sends, on its way to the broker, in the shape in which Redis would keep it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.messages: list[dict[str, Any]] = []
        monkeypatch.setattr(Channel, "_put", self._put)
        monkeypatch.setattr("kombu.transport.memory.Channel._put", self._put)

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.messages.append(loads(dumps(message)))  # type: ignore[no-untyped-call]

    def one(self) -> dict[str, Any]:
        (message,) = self.messages
        return message


@pytest.fixture
def published(monkeypatch: pytest.MonkeyPatch) -> Published:
    return Published(monkeypatch)


@pytest.fixture
def signed(monkeypatch: pytest.MonkeyPatch, published: Published) -> dict[str, Any]:
    """A request that an app of a host sent with the key OLD."""
    monkeypatch.setenv("TAILRACE_SIGN_KEY", OLD)
    monkeypatch.setattr("tailrace.tasks.signing.time.time", lambda: AT + 0.5)
    with Celery("host", broker="memory://", set_as_current=False) as host:
        register(host).send_task(
            "tailrace.ingest_run", ["run_1"], {"streams": ["ä\ud800"]}, expires=60, headers={"traceparent": "00-1"}
        )
    return published.one()


def checked(
    raw: dict[str, Any], *keys: str, queue: str = "tailrace", now: float = AT, **options: Any
) -> dict[str, Any]:
    raw = copy.deepcopy(raw)
    check_signature(raw, queue, [key.encode() for key in keys or (OLD,)], now, **options)
    return raw


def refusal(raw: dict[str, Any], *keys: str, **options: Any) -> str:
    with pytest.raises(Malformed) as refused:
        checked(raw, *keys, **options)
    assert refused.value.kind == "signature"
    return refused.value.reason


def unanswerable(made: dict[str, Any]) -> dict[str, Any]:
    """A message without whom to answer."""
    kept = {name: value for name, value in made["properties"].items() if name not in ("reply_to", "correlation_id")}
    return made | {"properties": kept}


def test_a_message_that_was_signed_fits(signed: dict[str, Any]) -> None:
    assert checked(signed) == unanswerable(signed)


@pytest.mark.parametrize("keys", [(OLD,), (NEW, OLD), (OLD, NEW), (OTHER, NEW, OLD)])
def test_every_key_verifies(signed: dict[str, Any], keys: tuple[str, ...]) -> None:
    checked(signed, *keys)


def test_the_first_key_signs(monkeypatch: pytest.MonkeyPatch, published: Published) -> None:
    monkeypatch.setenv("TAILRACE_SIGN_KEY", f"{NEW} , {OLD}")
    with Celery("host", broker="memory://", set_as_current=False) as host:
        host.send_task("tailrace.discover", queue="tailrace")
    checked(published.one(), NEW, now=published.one()["headers"][HEADER]["at"])
    assert "does not fit" in refusal(published.one(), OLD, now=published.one()["headers"][HEADER]["at"])


@pytest.mark.parametrize("keys", [(NEW,), (NEW, OTHER)])
def test_another_key_does_not_fit(signed: dict[str, Any], keys: tuple[str, ...]) -> None:
    assert "does not fit" in refusal(signed, *keys)


def body(change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def changed(raw: dict[str, Any]) -> None:
        text = change(json.loads(base64.b64decode(raw["body"])))
        raw["body"] = base64.b64encode(json.dumps(text).encode()).decode()

    return changed


def header(**changes: Any) -> Callable[[dict[str, Any]], None]:
    return lambda raw: raw["headers"].update(changes)


TAMPERED: dict[str, Callable[[dict[str, Any]], None]] = {
    "another argument": body(lambda text: [["run_2"], text[1], text[2]]),
    "another keyword": body(lambda text: [text[0], {}, text[2]]),
    "a callback": body(lambda text: [text[0], text[1], {"callbacks": [{"task": "theirs.task"}]}]),
    "the same, written otherwise": lambda raw: raw.update(
        body=base64.b64encode(base64.b64decode(raw["body"]) + b" ").decode()
    ),
    "another task": header(task="tailrace.cancel_run"),
    "another id": header(id="another"),
    "a later end": header(expires="2999-01-01T00:00:00+00:00"),
    "no end": header(expires=None),
    "a later beginning": header(eta="2999-01-01T00:00:00+00:00"),
    "more retries": header(retries=1),
    "a time limit": header(timelimit=[0.1, 0.1]),
    "a header of somebody's": header(traceparent="00-2"),
    "a header less": lambda raw: raw["headers"].pop("origin"),
    "another charset": lambda raw: raw.update({"content-encoding": "utf-7"}),
    "another content": lambda raw: raw.update({"content-type": "application/x-yaml"}),
    "another exchange": lambda raw: raw["properties"]["delivery_info"].update(exchange="x"),
    "retried elsewhere": lambda raw: raw["properties"]["delivery_info"].update(routing_key="elsewhere"),
    "signed now": lambda raw: raw["headers"][HEADER].update(at=AT + 1),
    "fewer headers covered": lambda raw: raw["headers"][HEADER]["headers"].remove("expires"),
    "a huge body": lambda raw: raw.update(body=base64.b64encode(b"[" * 5_000_000).decode()),
}


@pytest.mark.parametrize("change", TAMPERED.values(), ids=TAMPERED)
def test_a_message_that_was_changed_does_not_fit(
    signed: dict[str, Any], change: Callable[[dict[str, Any]], None]
) -> None:
    change(signed)
    assert refusal(signed)


@pytest.mark.parametrize("queue", ["tailrace.5f0c1f3a9be2", "celery", ""])
def test_nor_does_it_in_another_queue(signed: dict[str, Any], queue: str) -> None:
    assert "does not fit" in refusal(signed, queue=queue)


def test_what_was_added_later_is_taken_away(signed: dict[str, Any]) -> None:
    """Celery makes attributes of a request of whatever headers there are."""
    signed["properties"]["delivery_info"]["redelivered"] = True  # as kombu does with what nobody acknowledged
    before = copy.deepcopy(signed)
    signed["headers"] |= {"redelivered": True, "callbacks": [{"task": "theirs.task"}], "chord": {}}
    assert checked(signed) == unanswerable(before)


def test_whom_to_answer_is_not_covered_and_is_taken_away(signed: dict[str, Any]) -> None:
    signed["properties"] |= {"reply_to": "somebody", "correlation_id": "theirs"}
    assert checked(signed)["properties"].keys().isdisjoint({"reply_to", "correlation_id"})


def test_headers_with_keys_that_are_no_texts_are_signed_as_they_arrive() -> None:
    headers = {"task": "tailrace.discover", "odd": {1: "a", 10: "b", 2: "c"}}
    sent = Sent("tailrace", "", "tailrace", headers, "application/json", "utf-8", b"[]")
    arrived = sent._replace(headers=loads(dumps(headers)))
    assert signature(b"k" * 32, sent, 1) == signature(b"k" * 32, arrived, 1)


def test_a_compressed_body_is_refused_unread(signed: dict[str, Any]) -> None:
    signed["headers"]["compression"] = "application/x-gzip"
    assert "compressed" in refusal(signed)


@pytest.mark.parametrize(
    "found",
    [
        "text",
        [],
        {},
        {"v": 2},
        {"v": 1, "at": AT, "headers": [], "mac": "ü"},
        {"v": 1, "at": AT, "headers": ["nobody"], "mac": "0"},
        {"v": 1, "at": AT, "headers": [["task"]], "mac": "0"},
        {"v": 1, "at": "now", "headers": [], "mac": "0"},
        {"v": 1, "at": True, "headers": [], "mac": "0"},
        {"v": 1, "at": AT, "headers": None, "mac": "0"},
        {"v": 1, "at": AT, "headers": ["task"] * 201, "mac": "0"},
        {"v": 1, "at": AT, "headers": [], "mac": ""},
        {"v": 1, "at": 10**400, "headers": [], "mac": "0"},
    ],
)
def test_what_is_no_signature_is_refused(signed: dict[str, Any], found: object) -> None:
    signed["headers"][HEADER] = found
    assert refusal(signed)


@pytest.mark.parametrize("text", ["ä", "A", None, "====", "x" * 99_999])
def test_what_is_no_body_is_refused(signed: dict[str, Any], text: str | None) -> None:
    signed["body"] = text
    assert refusal(signed)


def test_an_unsigned_message_is_taken_only_where_that_is_allowed(signed: dict[str, Any]) -> None:
    del signed["headers"][HEADER]
    assert refusal(signed) == "it is not signed"
    assert checked(signed, unsigned=True) == signed
    signed["headers"][HEADER] = None
    assert refusal(signed) == "it is not signed"


def test_a_wrong_signature_is_refused_even_there(signed: dict[str, Any]) -> None:
    assert "does not fit" in refusal(signed, NEW, unsigned=True)


def test_a_copy_is_taken_as_long_as_it_is_not_too_old(signed: dict[str, Any]) -> None:
    checked(signed)
    checked(signed, now=AT + 10**9)
    checked(signed, now=AT + 60, max_age_s=60)
    assert "too old" in refusal(signed, now=AT + 61, max_age_s=60)


def test_clocks_may_differ_by_minutes(signed: dict[str, Any]) -> None:
    checked(signed, now=AT - AHEAD_S)
    assert "of the future" in refusal(signed, now=AT - AHEAD_S - 1)


def test_no_two_messages_have_the_same_signature() -> None:
    """Where one part ends and the next begins is covered too."""
    parts = [("q", "", "q", "t", "e", b"x"), ("q", "q", "", "t", "e", b"x"), ("q", "", "q", "te", "", b"x")]
    parts += [("q", "", "q", "t", "", b"ex"), ("", "q", "q", "t", "e", b"x"), ("q", "", "q", "t", "e", b"\nx")]
    made = [signature(OLD.encode(), Sent(*each[:3], {"a": 1}, *each[3:]), AT)["mac"] for each in parts]
    made += [signature(OLD.encode(), Sent(*parts[0][:3], {}, *parts[0][3:]), at)["mac"] for at in (AT, AT + 1)]
    assert len(set(made)) == len(made)


# --- who signs


def test_only_what_is_for_our_tasks_is_signed(monkeypatch: pytest.MonkeyPatch, published: Published) -> None:
    monkeypatch.setenv("TAILRACE_SIGN_KEY", OLD)
    with Celery("host", broker="memory://", set_as_current=False) as host:
        host.send_task("theirs.task", [1])
        host.send_task("tailrace.compact", queue="tailrace")
    assert [HEADER in message["headers"] for message in published.messages] == [False, True]


def test_without_a_key_nothing_changes(published: Published) -> None:
    with Celery("host", broker="memory://", set_as_current=False) as host:
        host.send_task("tailrace.compact", queue="tailrace")
    assert HEADER not in published.one()["headers"]
    Signatures({}).check("whatever", "tailrace")


def test_a_hosts_own_tasks_sign_what_they_ask_for(monkeypatch: pytest.MonkeyPatch, published: Published) -> None:
    """From a shared task, through a canvas, with the first protocol, through an exchange of the host's."""
    monkeypatch.setenv("TAILRACE_SIGN_KEY", OLD)

    @shared_task
    def order(run_id: str) -> None:
        host.signature("tailrace.ingest_run", [run_id], queue="tailrace").apply_async(
            link=host.signature("theirs.done")
        )

    with Celery("host", broker="memory://", set_as_current=False) as host:
        order.apply(("run_1",))
    with Celery("first", broker="memory://", set_as_current=False, task_protocol=1) as first:
        first.send_task("tailrace.ingest_run", ["run_1"], queue="tailrace")
    with Celery(
        "topics", broker="memory://", set_as_current=False, task_create_missing_queue_exchange_type="topic"
    ) as topics:
        topics.send_task("tailrace.ingest_run", ["run_1"], queue="tailrace")
    assert [bool(each["properties"]["delivery_info"]["exchange"]) for each in published.messages] == [
        False,
        False,
        True,
    ]
    assert ["task" in each["headers"] for each in published.messages] == [True, False, True]
    for message in published.messages:
        checked(message, now=message["headers"][HEADER]["at"])
    assert len(published.messages) == 3


def test_what_can_not_be_sent_is_said_by_who_sends_it(
    monkeypatch: pytest.MonkeyPatch, published: Published, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TAILRACE_SIGN_KEY", OLD)
    with Celery("host", broker="memory://", set_as_current=False) as host, pytest.raises(EncodeError):
        host.send_task("tailrace.ingest_run", [object()], queue="tailrace")
    assert (published.messages, caplog.records) == ([], [])


def test_a_retry_is_signed_anew(monkeypatch: pytest.MonkeyPatch, published: Published) -> None:
    """A worker hands the headers of a request on, its signature too."""
    monkeypatch.setenv("TAILRACE_SIGN_KEY", OLD)
    with Celery("host", broker="memory://", set_as_current=False) as host:
        for headers in ({}, {HEADER: {"v": 1, "mac": "old"}}):
            host.send_task("tailrace.compact", queue="tailrace", headers=headers, retries=1)
    for message in published.messages:
        checked(message, now=message["headers"][HEADER]["at"])
        assert HEADER not in message["headers"][HEADER]["headers"]


def test_what_a_host_sends_for_itself_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_SIGN_KEY", OLD)
    headers: dict[str, Any] = {}
    signals.before_task_publish.send(sender="theirs.task", body=object(), headers=headers)  # object(): no JSON
    assert headers == {}


# --- the keys


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (NEW[:31], "fewer than 32"),
        (f"{NEW},", "fewer than 32"),
        (f"{NEW},{NEW}", "twice"),
        (f"{NEW} {OLD}", "blanks"),
        (f"{NEW}ü", "non-ASCII"),
        ("ab" * 32, "guessed"),
        (",".join(f"{NEW}{n}" for n in range(9)), "1 to 8"),
    ],
)
def test_keys_that_can_not_be_meant_are_refused_and_not_shown(
    given: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TAILRACE_SIGN_KEY", given)
    monkeypatch.setenv("TAILRACE_REDIS_URL", "redis://localhost")
    with Celery("host", broker="memory://", set_as_current=False) as host:
        for call in (
            lambda: sign_keys({"TAILRACE_SIGN_KEY": given}),
            lambda: ingest_run.delay("run_1"),
            lambda: app.connection_for_read(),
            lambda: register(host),
        ):
            with pytest.raises(BadSettings, match="TAILRACE_SIGN_KEY") as refused:
                call()
            assert problem in str(refused.value)
            assert given[:8] not in str(refused.value)
            assert refused.value.__context__ is None


def test_keys_are_hidden_wherever_they_stand() -> None:
    fresh = "fresh-5f0c1f3a9be24d7d8c6b-7d8c6b"
    sign_keys({"TAILRACE_SIGN_KEY": f"{NEW},{fresh}"})
    assert redaction.redact(f"key {fresh}!") == "key ***!"
    assert unknown_variables(["TAILRACE_SIGN_KEYS"])[0].meant == "TAILRACE_SIGN_KEY"


def test_another_broker_than_redis_is_refused_with_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILRACE_SIGN_KEY", NEW)
    with pytest.raises(BadSettings, match="with Redis only"):
        app.connection_for_read("memory://").connect()


def test_remote_control_is_heard_only_where_nothing_is_signed() -> None:
    code = "from tailrace.tasks import app; print(app.conf.worker_enable_remote_control)"
    said = [
        subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True).stdout
        for environ in ({}, {"TAILRACE_SIGN_KEY": NEW}, {"TAILRACE_SIGN_KEY": "short"})
    ]
    assert [each.strip() for each in said] == ["True", "False", "False"]
