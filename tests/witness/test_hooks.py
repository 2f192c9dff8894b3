"""The official hooks in a real Chromium, with nothing changed but the base URL: what a frontend's user sees.

Runs where Chromium and Node are.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import jwt
import pytest

from tailrace.serve.recorded import RecordedStore
from tests.upstream import create_app, running
from tests.witness.browser import seen
from tests.witness.recorded import AI, EVEN, NOW, chunks, recordings
from tests.witness.scripts import TIMING, run_script

KEY = "tr_dev_" + "k" * 33


@pytest.fixture(scope="module")
def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("the hooks are shown by Chromium")


def public_token(*scopes: str) -> str:
    """As a backend makes it for its pages (`auth.createPublicToken`)."""
    claims = {"sub": "env_1", "pub": True, "scopes": scopes, "exp": time.time() + 600}
    claims |= {"iss": "https://id.trigger.dev", "aud": "https://api.trigger.dev"}
    return jwt.encode(claims, KEY, "HS256")


@pytest.mark.timeout(300)
def test_a_page_shows_a_run_and_its_streams(official_client: Path, chromium: str, tmp_path: Path) -> None:
    assert run_script(official_client, "bundle.mjs", None) == "made"
    script = (official_client / "page.js").read_bytes()
    streams = {key: chunks(AI, key) for key in ("ai-output", "progress")}
    app = create_app(
        RecordedStore(recordings(), speed=0),
        api_key=KEY,
        timing=TIMING,
        now_ms=lambda: int(NOW.timestamp() * 1000),
    )
    with running(app) as server:
        asked = {
            "url": server.url,
            "token": public_token(f"read:runs:{AI}", "read:tags:even"),
            "runId": AI,
            "streamKey": "ai-output",
            "tag": "even",
            "expected": {"streams": {key: len(written) for key, written in streams.items()}, "tagged": len(EVEN)},
        }
        found = seen(chromium, script, asked, tmp_path)
    assert found["errors"] == []
    assert found["over"] == {"id": AI, "status": "COMPLETED"}
    assert found["withStreams"]["streams"] == streams
    assert found["withStreams"]["run"] == found["run"]
    assert (found["run"]["id"], found["run"]["realtimeStreams"]) == (AI, list(streams))
    assert found["stream"] == streams["ai-output"]
    assert found["lastEventId"] == str(len(streams["ai-output"]) - 1)
    assert found["latest"] == streams["ai-output"][-1:]
    assert set(found["tagged"]) == set(EVEN)
    assert found["shown"].startswith(f"{AI} COMPLETED")
    assert "".join(part.get("delta", "") for part in streams["ai-output"])[:40] in found["shown"]
