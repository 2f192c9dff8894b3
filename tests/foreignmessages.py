"""Messages as anybody may push them into the queue, and the part of each that is wrong."""

from __future__ import annotations

import base64
import json
import pickle
import random
import uuid
from collections.abc import Iterator
from typing import Any

CANARY = "CANARYsecret4711"
"""In every body: no log may show it."""
TASK = "tailrace.ingest_run"
GOOD_BODY = [["run_ok"], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]


def message(
    body: Any = GOOD_BODY, *, headers: Any = ..., task: Any = TASK, raw: bytes | None = None, **more: Any
) -> Any:
    """Return what kombu would keep in Redis for this body. ``headers`` replace the usual, ``more`` the envelope's own."""
    usual = {"task": task, "id": str(uuid.uuid4()), "lang": "py", "root_id": None, "parent_id": None}
    text = raw if raw is not None else json.dumps(body).encode()
    return {
        "body": base64.b64encode(text).decode(),
        "content-encoding": "utf-8",
        "content-type": "application/json",
        "headers": usual if headers is ... else headers,
        "properties": {
            "delivery_info": {"exchange": "", "routing_key": "tailrace"},
            "delivery_tag": str(uuid.uuid4()),
            "body_encoding": "base64",
            "delivery_mode": 2,
            "priority": 0,
            "correlation_id": "1",
        },
        **more,
    }


def with_header(**headers: Any) -> Any:
    """Return a request that is good but for these headers; of value ... there is none."""
    made = message()
    made["headers"] = {name: value for name, value in (made["headers"] | headers).items() if value is not ...}
    return made


def with_property(**properties: Any) -> Any:
    made = message()
    kept = (made["properties"] | properties).items()
    made["properties"] = {name: value for name, value in kept if value is not ...}
    return made


def first_protocol(**said: Any) -> Any:
    """Return a message of Celery's first protocol, whose body says all."""
    body = {"task": TASK, "id": str(uuid.uuid4()), "args": ["run_ok"], "kwargs": {}, "retries": 0, "eta": None}
    whole = {name: value for name, value in (body | said).items() if value is not ...}
    return message(whole, headers={})


def asking(*args: Any, task: str = TASK, **kwargs: Any) -> Any:
    return message([list(args), kwargs, {}], task=task)


STREAM = "tailrace.ingest_stream"

BAD: dict[str, tuple[str, Any]] = {
    # name: what is wrong, the message; bytes are pushed as they are
    "empty list": ("body", message([])),
    "two parts": ("body", message([[CANARY], {}])),
    "four parts": ("body", message([[CANARY], {}, {}, {}])),
    "an object": ("body", message({"a": CANARY})),
    "an object of three": ("body", message({"a": 1, "b": 2, "c": CANARY})),
    "null": ("body", message(None)),
    "a number": ("body", message(5)),
    "a string of three": ("body", message("abc")),
    "args no list": ("body", message([5, {}, {}])),
    "args a string": ("body", message([CANARY, {}, {}])),
    "args null": ("body", message([None, {}, {}])),
    "kwargs no dict": ("body", message([[CANARY], [], {}])),
    "kwargs null": ("body", message([[CANARY], None, {}])),
    "embed null": ("body", message([[CANARY], {}, None])),
    "embed a list": ("body", message([[CANARY], {}, [1]])),
    "not JSON": ("content", message(raw=CANARY.encode())),
    "not UTF-8": ("content", message(raw=b'["\xff\xfe' + CANARY.encode())),
    "no bytes": ("body", message(raw=b"")),
    "pickle": (
        "content",
        message(raw=pickle.dumps(((CANARY,), {}, {})), **{"content-type": "application/x-python-serialize"}),
    ),
    "yaml": ("content", message(raw=b"[[a], {}, {}]", **{"content-type": "application/x-yaml"})),
    "no content type": ("body", message(**{"content-type": None})),
    "deep": ("content", message(raw=b"[" * 100_000)),
    "compressed badly": ("content", with_header(compression="application/x-gzip")),
    "compressed by nobody": ("content", with_header(compression="klingon")),
    "headers null": ("task", message(headers=None)),
    "headers empty": ("task", message(headers={})),
    "headers a list": ("headers", message(headers=[1])),
    "headers a string": ("headers", message(headers=CANARY)),
    "id missing": ("headers", with_header(id=...)),
    "id null": ("headers", with_header(id=None)),
    "id a list": ("headers", with_header(id=[1])),
    "id huge": ("headers", with_header(id="x" * 100_000)),
    "id half a pair": ("headers", with_header(id="\ud800")),
    "eta bogus": ("headers", with_header(eta="bogus")),
    "eta a number": ("headers", with_header(eta=5)),
    "eta empty": ("headers", with_header(eta="")),
    "eta out of time": ("headers", with_header(eta="9999-12-31T23:59:59-14:00")),
    "expires bogus": ("headers", with_header(expires="bogus")),
    "expires an object": ("headers", with_header(expires={})),
    "expires zero": ("headers", with_header(expires=0)),
    "retries a word": ("headers", with_header(retries="many")),
    "timelimit a number": ("headers", with_header(timelimit=5)),
    "timelimit of words": ("headers", with_header(timelimit=["a", "b"])),
    "shadow a list": ("headers", with_header(shadow=[1])),
    "stamps a list": ("headers", with_header(stamped_headers="x", stamps=[1])),
    "task missing": ("task", with_header(task=...)),
    "task unknown": ("task", message(task="tailrace.nosuch")),
    "task a secret": ("task", message(task=f"Authorization: Bearer {CANARY}")),
    "task huge": ("task", message(task="x" * 1_000_000)),
    "what Celery brings": ("task", asking({"task": TASK, "args": [], "kwargs": {}}, [[CANARY]], task="celery.map")),
    "task null": ("task", message(task=None)),
    "task a number": ("task", message(task=5)),
    "task a list": ("fault", message(task=["tailrace.ingest_run"])),
    "task an object": ("fault", message(task={"a": CANARY})),
    "task half a pair": ("task", message(task="\ud800")),
    "garbage": ("content", b"garbage"),
    "bytes": ("content", b"\xff\x00\xfe"),
    "nothing": ("content", b""),
    "JSON, no message": ("envelope", {}),
    "JSON null": ("envelope", None),
    "a JSON list": ("envelope", [1, 2]),
    "a JSON string": ("envelope", CANARY),
    "no properties": ("envelope", {"body": CANARY}),
    "properties a list": ("envelope", message(properties=[1])),
    "no delivery tag": ("envelope", with_property(delivery_tag=...)),
    "a delivery tag of lists": ("envelope", with_property(delivery_tag=[1])),
    "no delivery info": ("envelope", with_property(delivery_info=...)),
    "delivery info empty": ("envelope", with_property(delivery_info={})),
    "a body that is an object": ("envelope", message() | {"body": {"a": CANARY}}),
    "a body not in base64": ("content", message() | {"body": f"{CANARY}="}),
    "an unknown body encoding": ("fault", with_property(body_encoding="klingon")),
    "first protocol: args no list": ("body", first_protocol(args=5)),
    "first protocol: kwargs no dict": ("body", first_protocol(kwargs=[])),
    "first protocol: no id": ("headers", first_protocol(id=...)),
    "first protocol: no task": ("task", first_protocol(task=...)),
    "first protocol: task unknown": ("task", first_protocol(task="nosuch")),
    "first protocol: task a list": ("fault", first_protocol(task=[CANARY])),
    "first protocol: expires bogus": ("headers", first_protocol(expires="bogus")),
    "first protocol: too many arguments": ("arguments", first_protocol(args=list("abcdef"))),
    "no argument": ("arguments", asking()),
    "too many arguments": ("arguments", asking("run_1", None, CANARY)),
    "an unknown argument": ("arguments", asking("run_1", bogus=CANARY)),
    "run id null": ("arguments", asking(None)),
    "run id a list": ("arguments", asking([CANARY])),
    "run id an object": ("arguments", asking({"a": CANARY})),
    "run id huge": ("arguments", asking(CANARY * 300_000)),
    "run id with NUL": ("arguments", asking(f"{CANARY}\0")),
    "run id half a pair": ("arguments", asking("\ud800")),
    "streams a string": ("arguments", asking("run_1", streams=CANARY)),
    "batch limit a string": ("arguments", asking("run_1", batch_max_bytes=CANARY)),
    "batch limit NaN": ("arguments", asking("run_1", batch_max_age_ms=float("nan"))),
    "then a number": ("arguments", asking("run_1", then=5)),
    "environment a number": ("arguments", asking("run_1", environment=7)),
    **{
        f"stream id {value!r}": ("arguments", asking(value, task=STREAM))
        for value in (-1, 0, 2**63, "x", None, 1.5, True, [[1]], {"a": 1})
    },
    "stream id of 400 digits": ("arguments", asking(10**400, task=STREAM)),
    "cancel nobody": ("arguments", asking(None, task="tailrace.cancel_run")),
    "backfill since never": ("arguments", asking(CANARY, task="tailrace.backfill")),
    "backfill of one status": ("arguments", asking("7d", statuses="COMPLETED", task="tailrace.backfill")),
    "discover something": ("arguments", asking(CANARY, task="tailrace.discover")),
}


def stored(made: Any) -> bytes:
    return made if isinstance(made, bytes) else json.dumps(made).encode()


def fuzzed(seed: int, count: int) -> Iterator[bytes]:
    """Yield bytes at random, and good messages that were changed at random places."""
    chance = random.Random(seed)
    odd: list[Any] = [None, 0, -1, True, 1e308, "", "\0", "\ud800", [], {}, [[]], {"a": []}, "x" * 5_000, 2**70]
    for number in range(count):
        if number % 4 == 0:
            yield chance.randbytes(chance.randrange(200))
            continue
        made = chance.choice((message, first_protocol))()
        if number % 4 == 1:  # bytes
            text = bytearray(stored(made))
            for _ in range(chance.randrange(1, 6)):
                text[chance.randrange(len(text))] = chance.randrange(256)
            yield bytes(text)
            continue
        if number % 4 == 2:  # values of the envelope
            place = chance.choice((made, made["headers"], made["properties"], made["properties"]["delivery_info"]))
            name = chance.choice([*place, "task", "id"])
            place[name] = chance.choice(odd)
        else:  # values of the body
            body = json.loads(base64.b64decode(made["body"]))
            place = chance.choice((body, body[1])) if isinstance(body, list) else body
            name = chance.randrange(3) if isinstance(place, list) else chance.choice([*place, "streams", "then"])
            place[name] = chance.choice(odd)
            made["body"] = base64.b64encode(json.dumps(body).encode()).decode()
        yield stored(made)
