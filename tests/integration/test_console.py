"""The console over a real archive, asked as a browser asks: who may look, what is shown, what may be done."""

from __future__ import annotations

import asyncio
import html
import ipaddress
import json
import re
from collections.abc import Awaitable, Callable
from http.cookies import SimpleCookie

import httpx
import pytest
import sqlalchemy as sa
from starlette.applications import Starlette

from tailrace.config.settings import Settings
from tailrace.serve.archive_access import archive_access
from tailrace.serve.console.app import add_console, make_console
from tailrace.serve.console.visitors import Proxy
from tailrace.store.access_keys import AccessKeys
from tailrace.store.statements import TookTooLong
from tests import consoles
from tests.consoles import HOSTILE, SAME, hidden
from tests.integration.schema_rows import Archive

Ask = Callable[[httpx.AsyncClient], Awaitable[None]]


class Asked:
    """A console of this test's."""

    def __init__(self, engine: sa.Engine, database_url: str) -> None:
        self.engine = engine
        self._url = database_url

    def by(self, key: str | None, ask: Ask, proxy: Proxy | None = None, **settings: object) -> None:
        """Ask, signed in with a key."""

        async def asking() -> None:
            app, console = consoles.application(self.engine, self._url, proxy, **settings)
            async with consoles.asking(app, console, key) as client:
                await ask(client)

        asyncio.run(asking())


@pytest.fixture
def console(engine: sa.Engine, database_url: str) -> Asked:
    return Asked(engine, database_url)


def path(run_id: str, environment: str = "default", more: str = "") -> str:
    return f"/console/runs/{environment}/{run_id}{more}"


# --- who may look


def test_nobody_sees_anything_without_a_key(console: Asked, archive: Archive) -> None:
    archive.whole_stream(['"secret"'])

    async def ask(client: httpx.AsyncClient) -> None:
        for at in ("/", "/console/fleet", path("run_1"), path("run_1", more="/news"), path("run_1", more="/download")):
            page = await client.get(at)
            assert (page.status_code, page.headers["location"].partition("?")[0]) == (303, "/console/sign-in"), at
            assert (await client.get(at, headers={"accept": "application/json"})).status_code == 401
        assert (await client.get("/console/static/console.css")).status_code == 200
        for key in ("", "wrong", "tlr_" + "x" * 43):
            refused = await client.post("/console/sign-in", data={"key": key}, headers=SAME)
            assert refused.status_code == 401
            assert "set-cookie" not in refused.headers
            assert not key or key not in refused.text

    console.by(None, ask)


def test_a_key_signs_in_by_a_cookie_that_scripts_and_other_sites_do_not_get(console: Asked) -> None:
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        form = {"key": key, "onward": "/console/fleet"}
        answer = await client.post("/console/sign-in", data=form, headers=SAME)
        assert answer.headers["location"] == "/console/fleet"
        (cookie,) = SimpleCookie(answer.headers["set-cookie"]).values()
        assert (cookie["httponly"], cookie["samesite"], cookie["path"]) == (True, "strict", "/")
        assert key not in answer.headers["set-cookie"]
        page = await client.get("/")
        assert page.status_code == 200
        assert key not in page.text
        over_tls = await client.post("/console/sign-in", data=form, headers={**SAME, "x-forwarded-proto": "https"})
        (cookie,) = SimpleCookie(over_tls.headers["set-cookie"]).values()
        assert (cookie.key, cookie["secure"]) == ("__Host-tailrace", True)
        assert (await client.post("/console/sign-out", headers=SAME)).status_code == 303
        assert (await client.get("/")).status_code == 303

    console.by(None, ask)


def test_a_key_that_is_revoked_shows_nothing_more(console: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tailrace.serve.archive_access.KEPT_S", 0.0)
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        assert (await client.get("/")).status_code == 200
        assert AccessKeys(console.engine).revoke("key of default")
        assert (await client.get("/")).status_code == 303

    console.by(key, ask)


@pytest.mark.parametrize(
    "onward", ["https://evil.example/", "//evil.example", "/\\evil.example", "/console/\nx", "javascript:alert(1)", "x"]
)
def test_nobody_is_sent_to_another_site_after_signing_in(console: Asked, onward: str) -> None:
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.post("/console/sign-in", data={"key": key, "onward": onward}, headers=SAME)
        assert answer.headers["location"] == "/"

    console.by(None, ask)


def test_another_sites_page_signs_nobody_in_or_out(console: Asked) -> None:
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        for headers in ({}, {"sec-fetch-site": "cross-site"}, {"origin": "https://evil.example"}):
            assert (await client.post("/console/sign-in", data={"key": key}, headers=headers)).status_code == 403
            assert (await client.post("/console/sign-out", headers=headers)).status_code == 403
        assert (await client.get("/")).status_code == 200

    console.by(key, ask)


def test_a_link_from_another_site_is_followed_once_more_by_ours(console: Asked) -> None:
    """A browser keeps a strict cookie back when the link is another site's; to a link of ours it sends it."""

    async def ask(client: httpx.AsyncClient) -> None:
        headers = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
        page = await client.get("/?tag=%22%3E%3Cscript%3E", headers=headers)
        assert page.status_code == 200
        assert 'http-equiv="refresh" content="0; url=/?tag=%22%3E%3Cscript%3E"' in page.text
        page = await client.get(path("a%2Fb"), headers=headers)
        assert f'url={path("a%2Fb")}"' in page.text
        for elsewhere in ("//evil.example/", "///evil.example", "//console/evil.example"):
            page = await client.get(httpx.URL(consoles.HERE).copy_with(raw_path=elsewhere.encode()), headers=headers)
            assert 'content="0; url=/"' in page.text, elsewhere

    console.by(None, ask)


def test_nobody_reads_another_environment(console: Asked, archive: Archive) -> None:
    archive.run("INSERT INTO tailrace.environments (name, api_url) VALUES ('other', 'https://x')")
    archive.whole_stream(['"mine"'], "run_mine")
    stream = archive.stream("run_theirs", "ai", "other")
    archive.segment(stream, ['"theirs"'])
    archive.settle(stream, 0, ['"theirs"'])
    archive.run(
        "UPDATE tailrace.environments SET halted_at = now(), halted_reason = 'their reason' WHERE name = 'other'"
    )
    key = consoles.key(console.engine, acts=True)

    async def ask(client: httpx.AsyncClient) -> None:
        for at in ("/", "/?environment=other", "/?q=run_theirs", "/?q=run_theirs&environment=other"):
            page = await client.get(at)
            assert page.status_code == 200
            assert f"other/{'run_theirs'}" not in page.text
            assert ("run_mine" in page.text) == ("q=" not in at)
        for more in ("", "/news", "/download", "/cancel", "/retry", "/ingest"):
            assert (await client.get(path("run_theirs", "other", more))).status_code == 404, more
        fleet = await client.get("/console/fleet")
        assert "their reason" not in fleet.text
        assert "run_theirs" not in fleet.text
        form = hidden(await client.get("/console/ingest?run_id=run_x&environment=default"))
        answer = await client.post("/console/ingest", data={**form, "environment": "other"}, headers=SAME)
        assert answer.status_code == 303
        assert archive.rows(
            "SELECT e.name FROM tailrace.audit a JOIN tailrace.environments e ON e.id = a.environment_id"
        ) == [
            ("default",)  # a key's own environment counts, whatever the form says
        ]

    console.by(key, ask)


def test_a_proxy_names_who_looks_and_they_see_every_environment(console: Asked, archive: Archive) -> None:
    archive.run("INSERT INTO tailrace.environments (name, api_url) VALUES ('other', 'https://x')")
    archive.value("SELECT tailrace.request_ingest('run_theirs', NULL, 'other')")
    local = [ipaddress.ip_network("127.0.0.0/8")]

    async def ask(client: httpx.AsyncClient) -> None:
        assert (await client.get("/")).status_code == 401
        assert (await client.get("/console/sign-in")).status_code == 401
        page = await client.get("/", headers={"x-user": "ada <b>"})
        assert "run_theirs" in page.text
        assert "ada &lt;b&gt;" in page.text
        assert (
            await client.get(path("run_theirs", "other", "/cancel"), headers={"x-user": "ada <b>"})
        ).status_code == 403
        form = hidden(await client.get(path("run_theirs", "other", "/cancel"), headers={"x-user": "bob"}))
        headers = {"x-user": "bob", **SAME}
        assert (
            await client.post(path("run_theirs", "other", "/cancel"), data=form, headers=headers)
        ).status_code == 303
        assert archive.rows("SELECT who, action, outcome FROM tailrace.audit") == [
            ("bob", "cancel", "0 streams stopped")
        ]

    console.by(None, ask, Proxy("x-user", local, {"bob"}))

    async def ask_from_elsewhere(client: httpx.AsyncClient) -> None:
        assert (await client.get("/", headers={"x-user": "bob"})).status_code == 401

    console.by(None, ask_from_elsewhere, Proxy("x-user", [ipaddress.ip_network("10.0.0.0/8")], {"bob"}))


# --- what is shown


def test_every_answer_carries_the_policy_and_none_is_kept(console: Asked, archive: Archive) -> None:
    archive.whole_stream(['"text"'])
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        kept = ("/", "/console/fleet", path("run_1"), path("run_1", more="/news"), path("run_1", more="/download"))
        for at in (*kept, "/console/nowhere", "/console/static/run.js", "/?since=never", "/console/sign-in"):
            answer = await client.get(at)
            assert "default-src 'none'" in answer.headers["content-security-policy"], at
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["cache-control"] == ("no-cache" if "static" in at else "no-store")
        assert (await client.put("/")).status_code == 405

    console.by(key, ask)


@pytest.mark.unbalanced
def test_whatever_a_chunk_a_key_a_tag_or_a_task_says_is_text(console: Asked, archive: Archive) -> None:
    """As far as HTML shows it; tests/browser/test_console.py has a browser look."""
    texts = [json.dumps(each) for each in HOSTILE]
    texts += [json.dumps({"type": "text-delta", "id": "1", "delta": each}) for each in HOSTILE]
    texts += [
        json.dumps({"type": "tool-input-available", "toolCallId": each, "toolName": each, "input": each})
        for each in HOSTILE
    ]
    stream = archive.whole_stream(texts, "run_1", HOSTILE[2])
    archive.quarantine(stream, 0, HOSTILE[0].encode() + b"\xff")
    archive.run("UPDATE tailrace.streams SET quarantine_count = 1, last_error = %s", HOSTILE[1])
    archive.run(
        "UPDATE tailrace.runs SET tags = %s, task_identifier = %s, status = %s", list(HOSTILE), HOSTILE[0], HOSTILE[1]
    )
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        for at in (
            "/",
            "/console/fleet",
            *(path("run_1", more=f"?view={view}") for view in ("text", "parts", "chunks", "arrivals")),
        ):
            page = await client.get(at)
            assert page.status_code == 200
            assert re.findall(r"<(?:img|style|svg/onload|b)\b", page.text) == []
            assert set(re.findall(r"<script[^>]*>", page.text)) <= {
                f'<script type="module" src="/console/static/{name}.js">' for name in ("console", "run", "fleet")
            }
            assert "{{ 7 * 7 }}" in page.text or "/runs/" not in at

    console.by(key, ask)


@pytest.mark.unbalanced
def test_a_run_is_shown_with_its_streams_gaps_text_and_chunks(console: Asked, archive: Archive) -> None:
    stream = archive.stream("run_1", "a/b c")
    archive.segment(stream, [json.dumps(f"word {number} ") for number in range(150)], first=10)
    archive.hole(stream, 0, 9, "trimmed")
    archive.settle(stream, 159, ["x"] * 150)
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        at = path("run_1", more="?stream=a%2Fb+c")
        page = (await client.get(at)).text
        assert "word 0 word 1 " in page
        assert '<rect class="lost" x="0.0" y="0" width="62.5" height="100"><title>0 to 9: trimmed</title>' in page
        chunks = (await client.get(f"{at}&view=chunks&from=155")).text
        assert [int(each) for each in re.findall(r'<tr id="chunk-(\d+)">', chunks)] == [155, 156, 157, 158, 159]
        first = (await client.get(f"{at}&view=chunks")).text
        assert len(re.findall(r'<tr id="chunk-', first)) == 100
        assert "from=110" in first
        assert (await client.get(f"{at}&view=arrivals")).status_code == 200
        for wrong in ("&view=other", "&from=-1", "&generation=99999999999", "&from=" + "9" * 19):
            assert (await client.get(at + wrong)).status_code == 400
        assert (await client.get(path("run_1", more="?stream=none"))).status_code == 400
        assert (await client.get(path("run_2"))).status_code == 404

    console.by(key, ask)


def test_while_a_stream_grows_its_news_are_what_came_after_an_index(console: Asked, archive: Archive) -> None:
    stream = archive.whole_stream(['"one "', '"two "', '{"type":"x"}'])
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        told = (await client.get(path("run_1", more="/news?stream=ai&from=1"))).json()
        assert (told["open"], told["verdict"], told["checkpoint"], told["generation"]) == (True, "open", 2, 0)
        assert told["chunks"] == [[1, None, "two "], [2, "x", None]]
        assert told["streams"][str(stream)][:3] == ["pending", "open", 3]
        assert "one two" in (await client.get(path("run_1"))).text
        bare = (await client.get(path("run_1", more="?bare=yes"))).text
        assert "one two" not in bare
        assert '<rect class="held"' in bare

    console.by(key, ask)


@pytest.mark.parametrize(
    "at",
    [
        "/console/runs/default/%00",
        "/console/runs/default/run_1?stream=%00",
        "/console/runs/default/run_1?stream=%ED%A0%80",
        "/console/runs/default/%FF%FE",
        "/console/runs/default/run_1/news?from=9223372036854775807",
        "/console/runs/default/run_1?view=chunks&from=9223372036854775807",
        "/console/runs/default/run_1?view=parts&from=9223372036854775807&generation=2147483647",
        "/console/runs/default/run_1/",
        "/console/runs/default",
        "/console/runs//",
        "/console/static/../app.py",
        "/console/static/%2e%2e%2fapp.py",
        "/?before=9223372036854775807",
        "/?tag=%00",
        "/?q=%27%22%5C%3A%26%7C%21%28",
        "/?since=2199-01-01&until=2000-01-01",
        "//",
    ],
)
def test_no_address_breaks_a_page(console: Asked, archive: Archive, at: str) -> None:
    archive.whole_stream(['"x"'])
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.get(httpx.URL(consoles.HERE).copy_with(raw_path=at.encode()))
        assert answer.status_code in (200, 400, 404, 422), answer.text
        assert "Traceback" not in answer.text

    console.by(key, ask)


def test_what_takes_too_long_is_not_shown_and_the_rest_of_the_page_is(
    console: Asked, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive.whole_stream(['"x"'])
    key = consoles.key(console.engine)

    def slow(*_: object, **__: object) -> None:
        raise TookTooLong("canceling statement due to statement timeout")

    async def ask(client: httpx.AsyncClient) -> None:
        for view in ("text", "parts", "chunks", "arrivals"):
            monkeypatch.setattr("tailrace.store.viewing.Viewing._ask", slow)
            page = await client.get(path("run_1", more=f"?view={view}"))
            assert page.status_code == 200
            assert "too large to be shown here" in page.text
            assert "FROM tailrace." in page.text
            assert 'class="held"' in page.text

    console.by(key, ask)


def test_files_are_sent_once_to_a_browser_that_keeps_them(console: Asked) -> None:
    async def ask(client: httpx.AsyncClient) -> None:
        first = await client.get("/console/static/console.css")
        assert first.headers["content-type"].startswith("text/css")
        again = await client.get("/console/static/console.css", headers={"if-none-match": first.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")

    console.by(None, ask)


def test_the_settings_name_the_proxy_and_who_acts(console: Asked, database_url: str, archive: Archive) -> None:
    archive.whole_stream(['"x"'])

    async def go() -> None:
        settings = Settings(console_user_header="X-User", console_actors="bob")  # type: ignore[arg-type]
        made = make_console(settings, database_url, archive_access(settings, console.engine))
        app = Starlette()
        add_console(app, made)
        async with consoles.asking(app, made) as client:
            assert (await client.get("/")).status_code == 401
            for name, status in (("ada", 403), ("bob", 200)):
                assert (await client.get("/", headers={"x-user": name})).status_code == 200
                assert (await client.get(path("run_1", more="/cancel"), headers={"x-user": name})).status_code == status

    asyncio.run(go())


def test_a_stream_is_downloaded_whole_as_json_lines_and_as_text(
    console: Asked, archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tailrace.serve.console.download.PART_CHUNKS", 2)
    texts = ['"one "', '{"a": 1.10, "a": 2}', '"\\u0000"', '"Ünï"', '"end"']
    archive.whole_stream(texts, "run_1", 'a"b\r\nc')
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        answer = await client.get(path("run_1", more="/download"))
        assert answer.headers["content-disposition"].startswith('attachment; filename="run_1-a_b__c.jsonl"')
        lines = [json.loads(line) for line in answer.text.splitlines()]
        assert [line["data_text"] for line in lines] == texts
        assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]
        whole = await client.get(path("run_1", more="/download?as=text"))
        assert whole.text == "one \ufffdÜnïend"
        monkeypatch.setattr("tailrace.serve.console.app.TEXT_MOST_BYTES", 1)
        assert (await client.get(path("run_1", more="/download?as=text"))).status_code == 413
        assert (await client.get(path("run_1", more="/download?stream=none"))).status_code == 404

    console.by(key, ask)


def test_a_search_is_its_address(console: Asked, archive: Archive) -> None:
    for number in range(60):
        archive.value("SELECT tailrace.request_ingest(%s)", f"run_{number}")
    archive.run("UPDATE tailrace.runs SET tags = '{a b&c}' WHERE run_id IN ('run_1', 'run_59')")
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        def shown(page: httpx.Response) -> list[str]:
            return re.findall(r"data-row>(run_\d+)<", page.text)

        first = await client.get("/")
        (older,) = re.findall(r'<a href="([^"]+)" rel="next">', first.text)
        second = await client.get(html.unescape(older))
        assert shown(first) + shown(second) == [f"run_{number}" for number in reversed(range(60))]
        assert shown(await client.get("/?tag=a+b%26c")) == ["run_59", "run_1"]
        assert (await client.get("/?q=run_7")).headers["location"] == path("run_7")
        assert shown(await client.get("/?q=run_none")) == []
        wrong = await client.get("/?since=never&task=%22x")
        assert wrong.status_code == 400
        assert 'value="never"' in wrong.text
        assert 'value="&#34;x"' in wrong.text

    console.by(key, ask)


# --- what may be done


def test_who_only_reads_is_offered_nothing_and_refused(console: Asked, archive: Archive) -> None:
    archive.whole_stream(['"x"'])
    key = consoles.key(console.engine)

    async def ask(client: httpx.AsyncClient) -> None:
        page = (await client.get(path("run_1"))).text
        assert "Cancel…" not in page
        assert "/console/ingest" not in page
        for at in (path("run_1", more="/cancel"), path("run_1", more="/retry"), "/console/ingest"):
            assert (await client.get(at)).status_code == 403
            assert (await client.post(at, data={"run_id": "run_1", "pledge": "x"}, headers=SAME)).status_code == 403
        assert archive.value("SELECT count(*) FROM tailrace.audit") == 0

    console.by(key, ask)


def test_what_is_done_was_asked_before_and_is_noted(console: Asked, archive: Archive) -> None:
    stream = archive.whole_stream(['"x"'])
    key = consoles.key(console.engine, acts=True)

    async def ask(client: httpx.AsyncClient) -> None:
        async def answered(action: str) -> httpx.Response:
            asking = await client.get(path("run_1", more=f"/{action}"))
            assert asking.status_code == 200
            return await client.post(path("run_1", more=f"/{action}"), data=hidden(asking), headers=SAME)

        for action in ("cancel", "retry", "ingest"):
            before = archive.value("SELECT count(*) FROM tailrace.audit")
            done = await answered(action)
            assert (done.status_code, done.headers["location"]) == (303, path("run_1"))
            assert archive.value("SELECT count(*) FROM tailrace.audit") == before + 1
            state = archive.value("SELECT state FROM tailrace.streams WHERE id = %s", stream)
            assert state == {"cancel": "cancelled", "retry": "active", "ingest": "active"}[action]
        assert archive.rows("SELECT who, run_id, action, outcome FROM tailrace.audit ORDER BY id") == [
            ("key key of default that acts", "run_1", "cancel", "1 streams stopped"),
            ("key key of default that acts", "run_1", "retry", "1 streams are read again"),
            ("key key of default that acts", "run_1", "ingest", "asked for"),
        ]
        assert "1 streams stopped" in (await client.get(path("run_1"))).text

    console.by(key, ask)


def test_nothing_is_done_that_a_page_of_ours_did_not_ask(console: Asked, archive: Archive) -> None:
    archive.whole_stream(['"x"'])
    key = consoles.key(console.engine, acts=True)

    async def ask(client: httpx.AsyncClient) -> None:
        at = path("run_1", more="/cancel")
        form = hidden(await client.get(at))
        other = hidden(await client.get(path("run_1", more="/retry")))
        assert (await client.post(at, data=form)).status_code == 403
        assert (await client.post(at, data=form, headers={"sec-fetch-site": "cross-site"})).status_code == 403
        assert (await client.post(at, data=form, headers={"origin": "https://evil.example"})).status_code == 403
        assert (await client.post(at, data=other, headers=SAME)).status_code == 400
        assert (await client.post(at, data={}, headers=SAME)).status_code == 415
        assert (await client.post(at, json=form, headers=SAME)).status_code == 415
        assert (await client.post(at, data={"pledge": "x" * 20_000}, headers=SAME)).status_code == 413
        assert archive.value("SELECT count(*) FROM tailrace.audit") == 0
        assert archive.value("SELECT state FROM tailrace.streams") == "pending"

    console.by(key, ask)


def test_what_is_refused_is_noted_too(console: Asked, archive: Archive) -> None:
    key = consoles.key(console.engine, acts=True)
    archive.rows("SELECT * FROM tailrace.forget_run('default', 'run_gone')")

    async def ask(client: httpx.AsyncClient) -> None:
        form = hidden(await client.get("/console/ingest?run_id=run_gone"))
        refused = await client.post("/console/ingest", data=form, headers=SAME)
        assert refused.status_code == 400
        assert "forgotten" in refused.text
        (outcome,) = archive.row("SELECT outcome FROM tailrace.audit")
        assert outcome.startswith("refused: ")
        form = hidden(await client.get("/console/ingest?run_id=run_new"))
        assert (await client.post("/console/ingest", data=form, headers=SAME)).headers["location"] == path("run_new")
        assert archive.value("SELECT count(*) FROM tailrace.runs") == 1

    console.by(key, ask)


def test_the_secret_key_of_an_environment_acts(console: Asked, archive: Archive) -> None:
    archive.whole_stream(['"x"'])

    async def ask(client: httpx.AsyncClient) -> None:
        form = hidden(await client.get(path("run_1", more="/cancel")))
        assert (await client.post(path("run_1", more="/cancel"), data=form, headers=SAME)).status_code == 303
        assert archive.rows("SELECT who FROM tailrace.audit") == [("secret key",)]

    console.by("tr_prod_of_this_test", ask, secret_key="tr_prod_of_this_test")


def test_forgetting_a_run_forgets_what_was_done_to_it(archive: Archive) -> None:
    archive.run(
        "INSERT INTO tailrace.audit (who, environment_id, run_id, action) SELECT 'x', id, 'run_1', 'cancel' FROM tailrace.environments"
    )
    left = "SELECT place FROM tailrace.traces_of('default', 'run_1', '{}')"
    assert archive.rows(left) == [("audit",)]
    archive.rows("SELECT * FROM tailrace.forget_run('default', 'run_1')")
    assert archive.rows(left) == []
