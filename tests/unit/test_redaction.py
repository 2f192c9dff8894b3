"""Secrets are hidden in what others say: by what they are, and by what secrets look like."""

from __future__ import annotations

import time
from collections.abc import Callable

import httpx
import pytest
from httpx_sse import ServerSentEvent

from tailrace.config.urls import redis_url
from tailrace.errors import RequestRefused, SourceUnavailable, Unauthorized, WorkerError
from tailrace.redaction import HIDDEN, REMEMBERED, SHORTEST, excerpt, redact, remember
from tailrace.source.answers import json_of, refuse
from tailrace.source.body import BodyText
from tailrace.source.client import Endpoint, client_options
from tailrace.source.connection import wire_of
from tailrace.store.engine import normal_url
from tailrace.store.statements import REASON_MAX_CHARS, fitting
from tailrace.wire.feed import array_literal
from tailrace.wire.run_fields import moment, run_id, status, tags, text, timestamp
from tailrace.wire.v1 import parse_id
from tailrace.wire.v2 import V2Decoder

S = "Xq7hiddenXq7"  # what must never be seen
JWT = f"eyJhbGciOiJIUzI1NiJ9.{S}.{S}"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"postgresql://user:{S}@db:5432/x", f"postgresql://user:{HIDDEN}@db:5432/x"),
        (f"redis://:{S}@h/0 and rediss://u:{S}@i", f"redis://:{HIDDEN}@h/0 and rediss://u:{HIDDEN}@i"),
        (f"redis://:{S}@{S}/{S}@h/0", f"redis://:{HIDDEN}@h/0"),  # not percent-encoded
        (f"sentinel://:{S}@a:1;sentinel://:{S}@b:2", f"sentinel://:{HIDDEN}@b:2"),
        (f"could not connect to 'postgres://u:{S}@h/d'", f"could not connect to 'postgres://u:{HIDDEN}@h/d'"),
        (f"Authorization: Bearer {S}", f"Authorization: Bearer {HIDDEN}"),
        (f"authorization: Basic {S}==", f"authorization: Basic {HIDDEN}"),
        (f"{{'Authorization': 'Bearer {S}'}}", f"{{'Authorization': 'Bearer {HIDDEN}'}}"),
        (f'{{"authorization":"{S}"}}', f'{{"authorization":"{HIDDEN}"}}'),
        (f"[(b'authorization', b'Bearer {S}')]", f"[(b'authorization', b'Bearer {HIDDEN}')]"),
        (f"sent Bearer {S}.", f"sent Bearer {HIDDEN}"),
        (f"key tr_dev_{S} refused", f"key tr_dev_{HIDDEN} refused"),
        (f"tr_stg_{S},tr_prod_{S};tr_preview_{S}", f"tr_stg_{HIDDEN},tr_prod_{HIDDEN};tr_preview_{HIDDEN}"),
        (f"tr_prod_sk_{S}", f"tr_prod_sk_{HIDDEN}"),
        (f"tr_pat_{S} tr_oat_{S} pk_dev_{S}", f"tr_pat_{HIDDEN} tr_oat_{HIDDEN} pk_dev_{HIDDEN}"),
        (f"key 'tlr_{S}' refused", f"key 'tlr_{HIDDEN}' refused"),
        (f"token={JWT}&x=1", f"token={HIDDEN}&x=1"),
        (f"'{JWT[:-1]}", f"'{HIDDEN}"),
        (f"host=db password={S} dbname=x", f"host=db password={HIDDEN} dbname=x"),
        (f"host=db password='{S}'", f"host=db password='{HIDDEN}'"),
        (f"?a=1&ssl_password={S}&b=2", f"?a=1&ssl_password={HIDDEN}&b=2"),
        (f'"password": "{S}"', f'"password": "{HIDDEN}"'),
        (f"secret_key={S}", f"secret_key={HIDDEN}"),
    ],
)
def test_redact_hides_secrets(text: str, expected: str) -> None:
    assert redact(text) == expected
    assert redact(expected) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lease_token=17 token 18 lost to worker@host",
        "http://localhost:3030/realtime/v1/streams/run_abc/ai-output",
        "GET https://api.trigger.dev/realtime/v1/runs/run_abc?offset=-1 answered 401",
        "set TRIGGER_SECRET_KEY (tr_dev_..., tr_prod_...)",
        'password authentication failed for user "u"',
        "redis://localhost:6379/0",
        "postgresql://user@host/name",
        "the authorization header is missing",
        "eyJ",
    ],
)
def test_redact_leaves_other_texts_alone(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize(
    "unit",
    ["a", "://", "://a:", "eyJ", "eyJaaaaaaaa.", "tr_dev_", "authorization: ", "password=", "Bearer ", "@", " :"],
)
def test_redact_takes_time_in_proportion_to_the_text(unit: str) -> None:
    start = time.process_time()
    redact(unit * (200_000 // len(unit)))
    assert time.process_time() - start < 20  # a quadratic one takes minutes


# --- the actual secrets

ODD = "can't\"look like ä%2F"  # nothing that a pattern would know


def test_what_was_remembered_is_hidden_in_every_spelling() -> None:
    remember(ODD)
    for spelling in (ODD, repr(ODD), "can%27t%22look%20like%20%C3%A4%252F", "can't\\\"look like \\u00e4%2F"):
        assert HIDDEN in redact(f"<{spelling}>"), spelling
        assert "look" not in redact(f"<{spelling}>"), spelling


def test_one_that_is_part_of_another_leaves_nothing_of_it() -> None:
    remember("plainsecret")
    remember("plainsecretandmore")
    assert redact("a plainsecretandmore b plainsecret c") == f"a {HIDDEN} b {HIDDEN} c"


def test_a_short_one_does_not_hide_words() -> None:
    remember("o" * (SHORTEST - 1))
    assert redact("ooooo") == "ooooo"


def test_the_last_ones_are_kept() -> None:
    remember("theveryfirstone")
    for n in range(REMEMBERED):
        remember(f"another-one-{n}-")
    assert redact("theveryfirstone") == "theveryfirstone"
    assert redact(f"another-one-{REMEMBERED - 1}-") == HIDDEN


def test_a_secret_at_the_cut_is_hidden() -> None:
    remember("halfofthisisnotknown")
    assert "half" not in excerpt("x" * 90 + "halfofthisisnotknown", 100)
    assert "half" not in fitting("x" * (REASON_MAX_CHARS - 5) + "halfofthisisnotknown")


# --- where secrets come in, and errors out


def test_keys_and_passwords_are_remembered_where_they_come_in() -> None:
    client_options(Endpoint("http://h", lambda: "keyofaclient"), None)
    normal_url("postgresql://u:dbp%40ssword@h/d?sslpassword=keyfilepass")
    redis_url({"REDIS_URL": "redis://:brokerpass@h/0"})
    said = redact("keyofaclient, dbp@ssword, dbp%40ssword, keyfilepass, brokerpass")
    assert said == ", ".join([HIDDEN] * 5)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 410, 422, 429, 500, 502, 503])
def test_an_answer_that_echoes_the_request_shows_no_key(status: int) -> None:
    remember("echoedkey")
    with pytest.raises(WorkerError) as refused:
        refuse(status, "You sent: echoedkey " + "x" * 500, "stream 'a' of run run_1")
    assert "echoedkey" not in str(refused.value)
    assert HIDDEN in str(refused.value)


def test_json_that_is_none_shows_no_key() -> None:
    remember("echoedkey")
    with pytest.raises(WorkerError, match="is not JSON") as refused:
        json_of("x" * 190 + "echoedkey", "GET /run")
    assert "echo" not in str(refused.value)


def answer(**headers: str) -> httpx.Response:
    return httpx.Response(200, headers={name.replace("_", "-"): value for name, value in headers.items()})


@pytest.mark.parametrize(
    "say",
    [
        lambda said: run_id({"id": [said]}, "id"),
        lambda said: status({"status": [said]}, "status"),
        lambda said: text({"task": [said]}, "task"),
        lambda said: tags([said, 5], "tags"),
        lambda said: moment({"createdAt": said}, "createdAt"),
        lambda said: timestamp(said),
        lambda said: array_literal(said),
        lambda said: array_literal(f'{{"{said}}}'),
        lambda said: parse_id(said),
        lambda said: list(V2Decoder().decode([ServerSentEvent(event="error", data=said)])),
        lambda said: wire_of(answer(content_type=said)),
        lambda said: wire_of(answer(content_type="text/event-stream", x_stream_version=said)),
        lambda said: BodyText(answer(content_encoding=said)),
    ],
)
def test_an_error_that_cuts_what_upstream_said_shows_no_half_of_a_key(say: Callable[[str], object]) -> None:
    """Wherever the cut is: half of a key is not known as one."""
    remember("EchoedKeyEchoedKey")
    for before in range(210):
        with pytest.raises(WorkerError) as refused:
            say("x" * before + "EchoedKeyEchoedKey")
        assert "echoed" not in str(refused.value).lower(), before


@pytest.mark.parametrize("kind", [WorkerError, SourceUnavailable, Unauthorized, RequestRefused])
def test_every_error_of_ours_is_redacted_when_it_is_made(kind: type[WorkerError]) -> None:
    remember("echoedkey")
    assert str(kind("it said echoedkey")) == f"it said {HIDDEN}"
