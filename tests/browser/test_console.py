"""The console in a real Chromium, looked at as a person does. Where there is none these are skipped."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
import sqlalchemy as sa

from tailrace.store.engine import create_engine
from tests import consoles
from tests.browser.chromium import Browser, Page, browsing, chromium
from tests.consoles import HOSTILE
from tests.integration.schema_rows import EPOCH_MS, Archive
from tests.leaks import lasting


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    program = chromium()
    if program is None:
        pytest.skip("the pages are looked at with Chromium")
    with browsing(program, tmp_path_factory.mktemp("chromium")) as browser, lasting("chromium"):
        yield browser


@pytest.fixture
def engine(database_url: str) -> Iterator[sa.Engine]:
    engine = create_engine(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def archive(database_url: str) -> Iterator[Archive]:
    archive = Archive(database_url)
    with archive.connection:
        yield archive


@pytest.fixture
def url(engine: sa.Engine, database_url: str) -> Iterator[str]:
    with consoles.served(engine, database_url) as server:
        yield server.url


@pytest.fixture
def page(browser: Browser, url: str, engine: sa.Engine) -> Page:
    """Signed in, as somebody who may act."""
    key = consoles.key(engine, acts=True)
    page = browser.page()
    page.open(url + "/")
    assert page.do("location.pathname") == "/console/sign-in"
    page.do(f"document.querySelector('input[name=key]').value = {json.dumps(key)}")
    page.following("document.querySelector('main form').requestSubmit()")
    assert page.do("location.pathname") == "/"
    assert page.do("document.cookie") == ""  # scripts do not get it
    return page


def hostile_run(archive: Archive) -> None:
    texts = [json.dumps(each) for each in HOSTILE]
    message = [{"type": "start"}, {"type": "text-start", "id": "1"}]
    message += [{"type": "text-delta", "id": "1", "delta": each} for each in HOSTILE]
    message += [{"type": "reasoning-delta", "id": each, "delta": each} for each in HOSTILE]
    message += [
        {"type": "tool-input-available", "toolCallId": each, "toolName": each, "input": {each: each}}
        for each in HOSTILE
    ]
    message += [{"type": "tool-output-error", "toolCallId": HOSTILE[0], "errorText": HOSTILE[1]}]
    message += [{"type": "data-x", "data": each} for each in HOSTILE]
    archive.whole_stream(texts + [json.dumps(each) for each in message], "run_1", HOSTILE[2])
    archive.run("UPDATE tailrace.streams SET last_error = %s, lag = 5", HOSTILE[1])
    archive.run(
        "UPDATE tailrace.runs SET tags = %s, task_identifier = %s, status = %s", list(HOSTILE), HOSTILE[0], HOSTILE[1]
    )


def at(url: str, more: str = "", run_id: str = "run_1") -> str:
    return f"{url}/console/runs/default/{run_id}{more}"


@pytest.mark.parametrize("view", ["text", "parts", "chunks", "arrivals"])
def test_hostile_chunks_are_seen_as_text_and_nothing_of_them_runs(
    page: Page, url: str, archive: Archive, view: str
) -> None:
    hostile_run(archive)
    page.complaints.clear()
    page.open(at(url, f"?view={view}"))
    page.do("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.until("window.pwned === undefined && document.getElementById('live') !== null")
    assert page.do("document.querySelectorAll('main img, main script, main style, main iframe').length") == 0
    assert page.complaints == []
    seen = str(page.do("document.querySelector('main').textContent"))
    if view == "chunks":
        for text in (json.dumps(each) for each in HOSTILE):
            assert text in seen
    elif view != "arrivals":
        for text in HOSTILE[:6]:
            assert text in seen
    hosts = {each.split("/")[2] for each in page.asked if not each.startswith(("about:", "data:"))}
    assert hosts == {url.split("/")[2]}


def test_hostile_names_are_text_in_lists_too(page: Page, url: str, archive: Archive) -> None:
    hostile_run(archive)
    page.complaints.clear()
    for where in ("/", "/?tag=%3Cscript%3Ewindow.pwned+%3D+1%3C%2Fscript%3E", "/console/fleet"):
        page.open(url + where)
        assert page.do("window.pwned === undefined && document.querySelectorAll('main img, main script').length === 0")
    assert page.complaints == []


def test_an_inline_script_would_not_run_even_if_one_got_in(page: Page, url: str) -> None:
    """The policy is the second wall: without it this test's own script would run."""
    page.do(
        "const script = document.createElement('script'); script.textContent = 'window.pwned = 1'; document.body.append(script);"
        "const image = document.createElement('img'); image.setAttribute('onerror', 'window.pwned = 1'); image.src = '/none';"
        "document.body.append(image); new Promise(done => image.addEventListener('error', () => setTimeout(done, 0)))"
    )
    assert page.do("window.pwned === undefined")
    assert any("Content Security Policy" in each for each in page.complaints)


def test_a_text_grows_while_somebody_looks_and_stays_text(page: Page, url: str, archive: Archive) -> None:
    stream = archive.whole_stream(['"Once "'])
    page.open(at(url))
    page.until("document.getElementById('text').textContent === 'Once '")
    page.do(
        "window.markup = 0; new MutationObserver(all => all.forEach(each => each.addedNodes.forEach(node => {"
        " if (node.nodeType === 1 && node.parentElement?.id === 'text') window.markup += 1; })))"
        ".observe(document.body, { childList: true, subtree: true })"
    )
    archive.segment(stream, ['"upon "', json.dumps(HOSTILE[1]), '"a time"'], first=1)
    archive.settle(stream, 3, ['"Once "', '"upon "', json.dumps(HOSTILE[1]), '"a time"'])
    page.until(f"document.getElementById('text').textContent === {json.dumps(f'Once upon {HOSTILE[1]}a time')}")
    page.until("document.querySelector('[data-now=chunks]').textContent === '4'")
    assert page.do("window.pwned === undefined && window.markup === 0")
    archive.run("UPDATE tailrace.streams SET state = 'active'")
    archive.run("UPDATE tailrace.streams SET state = 'sealed', verdict = 'complete'")
    archive.run("UPDATE tailrace.runs SET state = 'sealed'")
    page.until("document.getElementById('live') === null && document.body.innerText.includes('sealed')")
    assert page.complaints == []


def test_pictures_are_made_anew_while_the_text_stays(page: Page, url: str, archive: Archive) -> None:
    stream = archive.whole_stream(['"Once "'])
    page.open(at(url))
    page.do("window.seen = document.querySelector('svg.held-large'); document.getElementById('run').dataset.every = 20")
    archive.run("UPDATE tailrace.streams SET lag = 3 WHERE id = %s", stream)
    page.until(
        "document.querySelector('svg.held-large') !== window.seen && document.querySelector('rect.unread') !== null"
    )
    assert page.do("document.getElementById('text').textContent") == "Once "
    assert page.complaints == []


def test_keys_lead_through_runs_to_a_chunk(page: Page, url: str, archive: Archive) -> None:
    ms = [EPOCH_MS, EPOCH_MS + 10, EPOCH_MS + 9_000]
    for number in range(3):
        archive.whole_stream(['"a"', '"b"', '"c"'], f"run_{number}", emitted_ms=ms)
    page.open(url + "/")
    page.press("j", "j")
    assert page.do("document.activeElement.textContent") == "run_1"
    page.press("k")
    page.following("document.activeElement.click()")
    assert page.do("location.pathname") == "/console/runs/default/run_2"
    page.following("setTimeout(() => document.dispatchEvent(new KeyboardEvent('keydown', { key: '4' })))")
    assert "9.0 s" in page.text()
    page.following("document.querySelector('main td a[href*=\"view=chunks\"]').click()")
    assert page.do("document.querySelectorAll('tr[id^=chunk-]').length") == 3
    page.press("?")
    assert page.do("document.querySelector('dialog').open")
    page.press("Escape")
    page.following("for (const key of 'gf') document.dispatchEvent(new KeyboardEvent('keydown', { key }))")
    assert page.do("location.pathname") == "/console/fleet"


def test_a_link_that_somebody_was_sent_opens_for_who_is_signed_in(page: Page, url: str, archive: Archive) -> None:
    """The browser keeps the cookie back at first, because the link stands on another site."""
    archive.whole_stream(['"a"'])
    page.open(f"data:text/html,<a href='{at(url, '?view=chunks')}'>look</a>")
    page.following("document.querySelector('a').click()", pages=2)
    assert page.do("location.href") == at(url, "?view=chunks")
    assert page.do("document.querySelectorAll('tr[id^=chunk-]').length") == 1


def test_a_run_is_cancelled_after_it_was_asked(page: Page, url: str, archive: Archive) -> None:
    archive.whole_stream(['"a"'])
    page.open(at(url))
    page.following("[...document.querySelectorAll('main a')].find(each => each.textContent === 'Cancel…').click()")
    assert "Cancel this run?" in page.text()
    assert archive.value("SELECT count(*) FROM tailrace.audit") == 0
    page.following("document.querySelector('main form').requestSubmit()")
    assert page.do("location.pathname") == "/console/runs/default/run_1"
    assert "1 streams stopped" in page.text()
    assert archive.row("SELECT action, outcome FROM tailrace.audit") == ("cancel", "1 streams stopped")


@pytest.mark.parametrize("where", ["/", "/console/fleet", "/console/runs/default/run_1?view=chunks"])
def test_on_a_phone_no_page_is_wider_than_the_screen(page: Page, url: str, archive: Archive, where: str) -> None:
    archive.whole_stream(
        [json.dumps("a_long_word_without_any_blank" * 20)], "run_1", "a_long_key_without_any_blank" * 5
    )
    page.look(width=360, height=740, phone=True)
    page.open(url + where)
    assert page.do("document.documentElement.scrollWidth <= 360"), page.do("document.documentElement.scrollWidth")


def test_light_and_dark_follow_the_system_and_can_be_read(page: Page, url: str) -> None:
    grounds = []
    for dark in (False, True):
        page.look(dark=dark)
        page.open(url + "/")
        ground, ink = page.do(
            "(({ backgroundColor, color }) => [backgroundColor, color])(getComputedStyle(document.body))"
        )
        assert contrast(ground, ink) > 7
        grounds.append(ground)
    assert grounds[0] != grounds[1]


def contrast(one: str, other: str) -> float:
    """WCAG 2's, of two colours as a browser writes them."""

    def light(colour: str) -> float:
        parts = [int(each) / 255 for each in colour[4:-1].split(",")]
        linear = [each / 12.92 if each <= 0.04045 else ((each + 0.055) / 1.055) ** 2.4 for each in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    dark, bright = sorted((light(one), light(other)))
    return (bright + 0.05) / (dark + 0.05)
