"""Public access tokens are taken as upstream takes them: signed by the environment's key, in time, for what they name."""

from __future__ import annotations

import base64
import time
import traceback

import pytest
from pydantic import SecretStr

from tailrace.serve.admission import Admitted, NotAdmitted
from tailrace.serve.tokens import Signer, admitted_by, is_public_token
from tests.tokens import OFFICIAL, OFFICIAL_KEY, OFFICIAL_SUBJECT, token

KEY = "tr_prod_of_this_test"
OTHER = "tr_prod_of_another_environment"


def signer(name: str = "production", key: str = KEY, *subjects: str, alone: bool = True) -> Signer:
    return Signer(name, SecretStr(key), frozenset({name, *subjects}), alone)


def refused(given: str, *signers: Signer) -> NotAdmitted:
    with pytest.raises(NotAdmitted) as caught:
        admitted_by(given, signers or [signer()])
    return caught.value


def test_a_token_of_the_official_client_lets_read_what_it_names() -> None:
    assert is_public_token(OFFICIAL)
    admitted = admitted_by(OFFICIAL, [signer("other", OTHER), signer("production", OFFICIAL_KEY)])
    assert admitted == Admitted(
        "production", ("read:runs:run_1", "read:tags:user:7"), frozenset({"payload", "metadata"})
    )


def test_one_made_by_hand_is_as_good() -> None:
    assert admitted_by(token(KEY, "read:runs"), [signer()]) == Admitted("production", ("read:runs",))


@pytest.mark.parametrize("length", [1, 31, 32, 64, 65, 200])
def test_keys_of_any_length_verify(length: int) -> None:
    key = "k" * length
    assert admitted_by(token(key), [signer(key=key)]).environment == "production"


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://evil.example.com"},
        {"iss": None},
        {"aud": "https://evil.example.com"},
        {"aud": None},
        {"exp": 1},
        {"exp": "soon"},
        {"exp": []},
        {"exp": 1e999},
        {"nbf": time.time() + 3_600},
        {"sub": 7},
        {"sub": None},
    ],
)
def test_a_signed_one_that_is_not_for_this_is_refused(claims: dict[str, object]) -> None:
    assert refused(token(KEY, "read:all", **claims)).said.startswith(("Public Access Token is", "Invalid Public"))


@pytest.mark.parametrize("claims", [{"exp": None}, {"iat": time.time() + 3_600}, {"iat": None}, {"jti": 7}])
def test_what_upstream_does_not_look_at_refuses_none(claims: dict[str, object]) -> None:
    assert admitted_by(token(KEY, **claims), [signer()]).environment == "production"


def test_one_that_is_over_was_no_guess_and_one_with_another_key_may_be() -> None:
    assert not refused(token(KEY, exp=1)).guessed
    assert refused(token(OTHER, exp=1)).guessed
    assert refused(token(OTHER, "read:all")).guessed


@pytest.mark.parametrize("alg", ["none", "None", "HS384", "HS512", "RS256", ""])
def test_another_way_of_signing_is_refused(alg: str) -> None:
    assert refused(token(KEY, "read:all", header={"alg": alg})).guessed


def test_an_extension_that_must_be_understood_is_refused() -> None:
    assert refused(token(KEY, "read:all", header={"crit": ["exp"]})).guessed
    assert refused(token(KEY, "read:all", header={"crit": ["b64"], "b64": False})).guessed


def test_a_changed_one_is_refused() -> None:
    head, payload, signature = token(KEY, "read:runs:run_1").split(".")
    _, other, _ = token(KEY, "read:all").split(".")
    assert refused(f"{head}.{other}.{signature}").guessed
    assert refused(f"{head}.{payload}.{signature[:-2]}").guessed
    assert refused(f"{head}.{payload}.").guessed


@pytest.mark.parametrize(
    "given",
    [
        "",
        "a.b",
        "a.b.c.d",
        "..",
        "é.é.é",
        "a." + base64.b64encode(b"[" * 5_000).decode() + ".c",
        base64.b64encode(b"[" * 5_000).decode() + ".e30.c",
        "e30." + base64.b64encode(b'{"pub":1}').decode() + ".c",
        "e30." + base64.b64encode(b'{"pub":"true"}').decode() + ".c",
        "e30." + base64.b64encode(b"[]").decode() + ".c",
        "e30." + base64.b64encode(b'{"pub":%s}' % (b"1" * 5_000)).decode() + ".c",
    ],
)
def test_odd_texts_are_no_tokens_and_raise_nothing_else(given: str) -> None:
    assert not is_public_token(given)
    refused(given)


def test_one_that_is_not_public_does_not_call_itself_so() -> None:
    assert not is_public_token(token(KEY, pub=False))
    assert not is_public_token(token(KEY, pub=None))


@pytest.mark.parametrize("scopes", [None, "read:all", {"read": "all"}, [7, None]])
def test_scopes_that_are_none_let_nothing_be_read(scopes: object) -> None:
    claims = {"scopes": scopes}
    assert admitted_by(token(KEY, **claims), [signer()]).scopes == ()


@pytest.mark.parametrize("realtime", [None, [], "x", {"skipColumns": "payload"}, {"skipColumns": [1]}])
def test_odd_columns_are_none(realtime: object) -> None:
    assert admitted_by(token(KEY, realtime=realtime), [signer()]).skip_columns == frozenset()


# --- environments upstream that share a key


def test_branches_share_a_key_and_the_subject_tells_them_apart() -> None:
    main = signer("main", KEY, "id_main", alone=False)
    feature = signer("feature", KEY, "id_feature", alone=False)
    for subject, name in (("id_main", "main"), ("id_feature", "feature"), ("feature", "feature")):
        assert admitted_by(token(KEY, sub=subject), [main, feature]).environment == name
    assert refused(token(KEY, "read:all", sub="id_of_a_branch_that_is_not_here"), main, feature).subject is not None


def test_one_of_a_branch_that_is_not_here_does_not_read_the_one_that_is() -> None:
    error = refused(token(KEY, "read:all", sub="id_feature"), signer("main", KEY, "id_main", alone=False))
    assert (error.said, error.subject, error.guessed) == ("Invalid Public Access Token", "id_feature", False)


def test_two_environments_of_one_name_upstream_are_refused() -> None:
    same = [signer("a", KEY, "id_1", alone=False), signer("b", KEY, "id_1", alone=False)]
    refused(token(KEY, "read:all", sub="id_1"), *same)


def test_what_a_refusal_says_and_holds_has_nothing_of_the_token_or_the_key() -> None:
    for given in (token(OTHER, "read:all"), token(KEY, exp=1), token(KEY, aud="x"), f"{token(KEY)}x"):
        error = refused(given)
        told = "".join(traceback.format_exception(error)) + repr(vars(error))
        assert error.__context__ is None
        assert not any(part in told for part in (*given.split("."), KEY)), told


def test_official_subject_is_known_where_it_is_configured() -> None:
    shared = signer("production", OFFICIAL_KEY, OFFICIAL_SUBJECT, alone=False)
    assert admitted_by(OFFICIAL, [shared]).environment == "production"
    refused(OFFICIAL, signer("production", OFFICIAL_KEY, alone=False))
