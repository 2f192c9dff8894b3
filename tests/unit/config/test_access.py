"""Key, URL and branch are checked alike by the worker's settings and the Streams API."""

from __future__ import annotations

import pytest

from tailrace.config.settings import load
from tailrace.errors import BadSettings
from tailrace.streams import NotConfigured
from tailrace.streams.client import Client

KEY, URL, BRANCH = "TRIGGER_SECRET_KEY", "TRIGGER_API_URL", "TRIGGER_PREVIEW_BRANCH"
Found = tuple[str, str, str | None]


def by_settings(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Found:
    settings = load(environ)
    return settings.key(), settings.api_url, settings.preview_branch


def by_streams(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Found:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    endpoint = Client().servers().endpoint()
    return endpoint.key(), endpoint.api_url, endpoint.preview_branch


USERS = pytest.mark.parametrize("user", [by_settings, by_streams])


@USERS
@pytest.mark.parametrize(
    ("environ", "found"),
    [
        ({KEY: " k\n"}, ("k", "https://api.trigger.dev", None)),
        ({KEY: "k", URL: " "}, ("k", "https://api.trigger.dev", None)),
        ({KEY: " ", "TRIGGER_ACCESS_TOKEN": "t", URL: " http://x:1// "}, ("t", "http://x:1", None)),
        ({KEY: "tr_preview_k", BRANCH: " b "}, ("tr_preview_k", "https://api.trigger.dev", "b")),
        ({KEY: "k", "TRIGGER_DEV_BRANCH": " default "}, ("k", "https://api.trigger.dev", None)),
        ({KEY: "k", BRANCH: "default"}, ("k", "https://api.trigger.dev", "default")),
        ({KEY: "k", BRANCH: " ", "VERCEL_GIT_COMMIT_REF": "v"}, ("k", "https://api.trigger.dev", "v")),
    ],
)
def test_what_is_good_is_taken_alike(
    user: object, environ: dict[str, str], found: Found, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(user)
    assert user(environ, monkeypatch) == found


@USERS
@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({KEY: "tr_pat_Geheim"}, "TRIGGER_SECRET_KEY is a personal access token"),
        ({KEY: "tr_oat_Geheim"}, "TRIGGER_SECRET_KEY is an organisation's token"),
        ({KEY: "pk_prod_Geheim"}, "TRIGGER_SECRET_KEY is a public key of an old kind"),
        ({KEY: "tr_dev_Geh eim"}, "TRIGGER_SECRET_KEY holds characters that no key has"),
        ({KEY: "tr_dev_Gehäim"}, "TRIGGER_SECRET_KEY holds characters that no key has"),
        ({KEY: "tr_preview_Geheim"}, "set TRIGGER_PREVIEW_BRANCH too"),
        ({KEY: "k", URL: "ftp://x"}, "TRIGGER_API_URL must be http:// or https://"),
        ({KEY: "k", URL: "http://x y"}, "TRIGGER_API_URL must be http:// or https://"),
        ({KEY: "k", URL: "http://bücher"}, "TRIGGER_API_URL must be http:// or https://"),
        ({KEY: "k", URL: "http://x?a=1"}, "TRIGGER_API_URL must be http:// or https://"),
        ({KEY: "k", URL: "http://x:99999999"}, "TRIGGER_API_URL can't be read"),
        ({KEY: "k", URL: "https://u/x@h"}, "TRIGGER_API_URL must not hold a user or password"),
        ({KEY: "k", URL: "http://user:Geheim@x"}, "TRIGGER_API_URL must not hold a user or password"),
        ({KEY: "k", BRANCH: "a\nb"}, "TRIGGER_PREVIEW_BRANCH must be printable ASCII"),
        ({KEY: "k", BRANCH: "ä"}, "TRIGGER_PREVIEW_BRANCH must be printable ASCII"),
    ],
)
def test_what_can_not_be_right_is_refused_alike(
    user: object, environ: dict[str, str], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(user)
    with pytest.raises((BadSettings, NotConfigured), match=message) as refusal:
        user(environ, monkeypatch)
    assert "Geh" not in str(refusal.value)
