"""The console as an application: ``/`` and what is under ``/console``. Everything else is another's."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any
from urllib.parse import parse_qs, unquote

import structlog
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from tailrace.config.console import checked_actors, checked_proxies
from tailrace.config.settings import Settings
from tailrace.errors import StoreUnavailable, TerminalError, WorkerError
from tailrace.serve.admission import Admission, NotAdmitted
from tailrace.serve.console import shown_sql
from tailrace.serve.console.archive import ConsoleArchive
from tailrace.serve.console.download import TEXT_MOST_BYTES, attached, json_lines, place_of
from tailrace.serve.console.fleet_page import fleet_values
from tailrace.serve.console.pages import HEADERS, STATIC, path_of, query, render, run_path, static
from tailrace.serve.console.questions import FIELDS, BadQuestion, number, wanted
from tailrace.serve.console.run_page import VIEWS, AskedStream, news, run_values, the_run, the_stream
from tailrace.serve.console.same_origin import from_elsewhere, from_our_page
from tailrace.serve.console.visitors import Proxy, Visitor, Visitors, cookie_name, over_tls
from tailrace.serve.late_answers import LateAnswers
from tailrace.store.audit import Action
from tailrace.store.queries import RunStatus
from tailrace.store.statements import NotMigrated, TookTooLong
from tailrace.wire.statuses import RUNNING, TERMINAL

__all__ = ["Console", "add_console", "make_console"]

log = structlog.get_logger("tailrace")

RUNS_SHOWN = 50
FORM_MOST_BYTES = 16_384
VERDICTS = ("complete", "complete_with_gaps", "possibly_truncated", "failed", "open", "pruned", "gone")
STATUSES = tuple(sorted(TERMINAL | RUNNING | {"QUEUED", "DELAYED", "PENDING_VERSION"}))
METHODS = frozenset({"GET", "HEAD", "POST"})


class _Refused(Exception):
    """An answer in place of the page that was asked for."""

    def __init__(self, status: int, title: str, said: str) -> None:
        super().__init__(title)
        self.status = status
        self.title = title
        self.said = said


NOT_FOUND = _Refused(404, "Not found", "There is no such page, or it is not for you to see.")
TOO_LONG = _Refused(503, "That takes too long", "Look for less: for a shorter time, a task or a tag.")
NO_RUN = _Refused(
    404, "No such run", "The archive has no run of this id in this environment, or it is not for you to see."
)


class Console:
    """Answers requests for pages. One event loop."""

    def __init__(
        self,
        archive: ConsoleArchive,
        visitors: Visitors,
        late_answers: LateAnswers,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._archive = archive
        self._visitors = visitors
        self._late_answers = late_answers
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        visitor: Visitor | None = None
        try:
            if request.method not in METHODS:
                raise _Refused(405, "Not allowed", "Pages are only looked at.")
            segments = _segments(scope)
            response = await self._open(request, segments)
            if response is None:
                visitor = await self._visitors.who(request)
                if visitor is None:
                    response = self._stranger(request)
                else:
                    response = await self._answer(request, segments, visitor)
        except _Refused as refused:
            response = _problem(request, visitor, refused)
        except BadQuestion as error:
            response = _problem(request, visitor, _Refused(400, "That can't be looked for", f"{error}."))
        except StoreUnavailable:
            response = _problem(
                request,
                visitor,
                _Refused(503, "The archive is away", "Postgres does not answer. Try again in a moment."),
            )
        except NotMigrated as error:
            response = _problem(request, visitor, _Refused(503, "There is no archive yet", str(error)))
        except TookTooLong:
            response = _problem(request, visitor, TOO_LONG)
        except TerminalError as error:
            response = _problem(request, visitor, _Refused(422, "The archive refuses", str(error)))
        await response(scope, receive, send)

    def close(self) -> None:
        """Close the archive's connections, after what is under way."""
        self._archive.close()

    async def _open(self, request: Request, segments: list[str]) -> Response | None:
        """Answer what needs nobody's right."""
        match segments:
            case ["console", "static", name] if name in STATIC:
                return static(request, name)
            case ["console", "sign-in"] if not self._visitors.by_proxy:
                if request.method == "POST":
                    return await self._sign_in(request)
                return render(request, "sign_in.html", None, {"onward": _onward(request), "refused": None})
            case ["console", "sign-out"] if request.method == "POST" and not self._visitors.by_proxy:
                if not from_our_page(request.headers):
                    raise _Refused(403, "Not from here", "Another site's page sent this.")
                self._visitors.sign_out(request.cookies.get(cookie_name(request)))
                response = RedirectResponse("/console/sign-in", 303, HEADERS)
                response.delete_cookie(cookie_name(request), **_COOKIE, secure=over_tls(request))
                return response
            case _:
                return None

    def _stranger(self, request: Request) -> Response:
        """Answer somebody who may not look: with the form, or once more by a link of ours, to which browsers send the
        cookie that they keep back when another site's link is followed (SameSite=Strict)."""
        if self._visitors.by_proxy:
            raise _Refused(401, "Who are you?", "The proxy in front of this server did not say who asks.")
        here = _safe(path_of(request.scope) + (f"?{request.url.query}" if request.url.query else "")) or "/"
        if request.method == "GET" and from_elsewhere(request.headers) and cookie_name(request) not in request.cookies:
            return render(request, "again.html", None, {"onward": here})
        if request.method == "GET" and "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(f"/console/sign-in{query(onward=None if here == '/' else here)}", 303, HEADERS)
        raise _Refused(401, "Sign in first", "The key has to be shown again.")

    async def _sign_in(self, request: Request) -> Response:
        if not from_our_page(request.headers):
            raise _Refused(403, "Not from here", "Another site's page sent this.")
        form = await _form(request)
        onward = _safe(form.get("onward", ""))
        try:
            token = await self._visitors.sign_in(form.get("key", "").strip())
        except NotAdmitted as error:
            await self._late_answers.answer(error, request.receive)  # late, if it was a guess
            return render(request, "sign_in.html", None, {"onward": onward, "refused": error.said}, 401)
        response = RedirectResponse(onward or "/", 303, HEADERS)
        response.set_cookie(cookie_name(request), token, **_COOKIE, secure=over_tls(request))
        return response

    async def _answer(self, request: Request, segments: list[str], visitor: Visitor) -> Response:
        match segments:
            case [""]:
                return await self._runs(request, visitor)
            case ["console"] | ["console", ""]:
                return RedirectResponse("/", 303, HEADERS)
            case ["console", "fleet"]:
                values = await self._archive.run(fleet_values, self._archive, visitor.environment)
                return render(request, "fleet.html", visitor, values)
            case ["console", "ingest"]:
                return await self._act(request, visitor, Action.INGEST, None, None)
            case ["console", "runs", environment, run_id, *more]:
                if not visitor.sees(environment):
                    raise NO_RUN
                return await self._of_run(request, visitor, environment, run_id, more)
            case _:
                raise NOT_FOUND

    async def _runs(self, request: Request, visitor: Visitor) -> Response:
        asked = request.query_params
        seen = visitor.environment
        values: dict[str, Any] = {
            "asked": {name: asked.get(name, "") for name in FIELDS},
            "verdicts": VERDICTS,
            "statuses": STATUSES,
            "problem": None,
            "runs": [],
            "older": None,
            "sql": "",
            "is_newest": not asked.get("before"),
        }
        try:
            what = wanted(asked, seen, self._now())
        except BadQuestion as error:
            return render(request, "runs.html", visitor, values | {"problem": f"{error}."}, 400)
        page = await self._archive.run(self._archive.search.page, what, RUNS_SHOWN)
        if what.run_id is not None and len(page.runs) == 1:  # who looks for a run wants to see it
            return RedirectResponse(run_path(page.runs[0].environment, what.run_id), 303, HEADERS)
        older = None
        if page.more is not None:
            older = "/" + query(**{name: asked.get(name, "") for name in FIELDS}, before=page.more)
        values |= {"runs": page.runs, "older": older, "sql": shown_sql.of_runs(what, RUNS_SHOWN)}
        return render(request, "runs.html", visitor, values)

    async def _of_run(
        self, request: Request, visitor: Visitor, environment: str, run_id: str, more: list[str]
    ) -> Response:
        run = await self._archive.run(the_run, self._archive, environment, run_id)
        if run is None:
            raise NO_RUN
        match more:
            case []:
                values = await self._archive.run(run_values, self._archive, run, _asked_stream(request))
                return render(request, "run.html", visitor, values | {"asked": _asked_stream(request)})
            case ["news"]:
                told = await self._archive.run(news, self._archive, run, _asked_stream(request))
                return Response(told, 200, HEADERS, "application/json")
            case ["download"]:
                return await self._download(request, run)
            case [name] if name in set(Action):
                return await self._act(request, visitor, Action(name), environment, run_id)
            case _:
                raise NOT_FOUND

    async def _download(self, request: Request, run: RunStatus) -> Response:
        asked = _asked_stream(request)
        streams = await self._archive.run(self._archive.overview.streams_progress, run.id)
        stream = the_stream(streams, asked.key)
        if stream is None:
            raise _Refused(404, "No such stream", "The run has no stream of this name.")
        name = f"{run.run_id}-{stream.stream_key}"
        if request.query_params.get("as") != "text":
            lines = json_lines(self._archive, place_of(stream), stream.stream_key)
            headers = {**HEADERS, **attached(f"{name}.jsonl")}
            return StreamingResponse(lines, 200, headers, "application/x-ndjson")
        if stream.bytes > TEXT_MOST_BYTES:
            raise _Refused(413, "Too large for here", f"`tailrace text {run.run_id}` writes it.")
        texts = await self._archive.run(self._archive.overview.texts, run, stream.stream_key)
        whole = [each.text for each in texts if asked.generation is None or each.generation == asked.generation]
        said = "\n".join(each for each in whole if each is not None)
        return Response(said, 200, {**HEADERS, **attached(f"{name}.txt")}, "text/plain")

    async def _act(
        self, request: Request, visitor: Visitor, action: Action, environment: str | None, run_id: str | None
    ) -> Response:
        """Ask before something is done; then, when the answer comes from the page that asked, do it."""
        if not visitor.acts:
            raise _Refused(
                403, "Not for you to do", "This key only reads: `tailrace key add --acts` makes one that acts."
            )
        asked = request.query_params
        form = await _form(request) if request.method == "POST" else {}
        environment = environment or visitor.environment or form.get("environment") or asked.get("environment") or ""
        run_id = run_id or (form.get("run_id") or asked.get("run_id") or "").strip()
        if not visitor.sees(environment):
            raise NO_RUN
        what = f"{action.value}\0{environment}\0{run_id}"
        values: dict[str, Any] = {
            "action": action,
            "environment": environment,
            "run_id": run_id,
            "known": None,
            "pledge": self._visitors.pledge(visitor, what),
            "problem": None,
        }
        if request.method == "POST":
            if not from_our_page(request.headers):
                raise _Refused(403, "Not from here", "Another site's page sent this.")
            if self._visitors.keeps(visitor, what, form.get("pledge", "")):
                return await self._do(request, visitor, values)
            values["problem"] = (
                "Nothing was done: this page asked for something else, or before the server started anew."
            )
        if run_id and environment:
            values["known"] = await self._archive.run(the_run, self._archive, environment, run_id)
        return render(request, "act.html", visitor, values, 400 if values["problem"] else 200)

    async def _do(self, request: Request, visitor: Visitor, values: dict[str, Any]) -> Response:
        action, environment, run_id = values["action"], values["environment"], values["run_id"]
        try:
            outcome = await self._archive.run(
                self._archive.act, visitor.name, visitor.key_id, environment, run_id, action
            )
        except WorkerError as error:
            if isinstance(error, StoreUnavailable):
                raise
            return render(request, "act.html", visitor, values | {"problem": str(error)}, 400)
        log.info("console_action", action=action.value, environment=environment, run_id=run_id, outcome=outcome)
        return RedirectResponse(run_path(environment, run_id), 303, HEADERS)


_COOKIE: dict[str, Any] = {"path": "/", "httponly": True, "samesite": "strict"}


def make_console(settings: Settings, database_url: str, admission: Admission) -> Console:
    """Make the console of an archive, for those whom ``admission`` admits, or whom the proxy of the settings names."""
    proxy = None
    if settings.console_user_header is not None:
        actors = checked_actors(settings.console_actors) if settings.console_actors is not None else ()
        proxy = Proxy(settings.console_user_header, checked_proxies(settings.console_proxies), actors)
    return Console(ConsoleArchive(database_url), Visitors(admission, proxy), LateAnswers())


def add_console(app: Starlette, console: Console) -> None:
    """Have an application that `serve.app` made show the console too."""
    app.router.default = _Both(console, app.router.default)


class _Both:
    def __init__(self, console: Console, others: ASGIApp) -> None:
        self._console = console
        self._others = others

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mine = scope["type"] == "http" and _segments(scope)[0] in ("", "console")
        await (self._console if mine else self._others)(scope, receive, send)


def _segments(scope: Scope) -> list[str]:
    # Cut first, decoded after: an encoded slash is part of a segment.
    return [unquote(segment) for segment in path_of(scope).split("/")[1:]] or [""]


def _asked_stream(request: Request) -> AskedStream:
    asked = request.query_params
    view = asked.get("view", VIEWS[0])
    if view not in VIEWS:
        raise BadQuestion("There is no such view")
    generation = number("generation", asked.get("generation", ""), None)
    first = number("from", asked.get("from", ""), 0)
    if generation is not None and generation > 2_147_483_647:
        raise BadQuestion("generation is too large")
    return AskedStream(asked.get("stream"), view, generation, first or 0, asked.get("bare") == "yes")


def _onward(request: Request) -> str:
    return _safe(request.query_params.get("onward", ""))


def _safe(onward: str) -> str:
    """Return an address of ours, or nothing: nobody is sent to another site after signing in."""
    ours = onward == "/" or onward.startswith(("/?", "/console/"))
    return onward if ours and onward.isprintable() and "\\" not in onward else ""


async def _form(request: Request) -> dict[str, str]:
    """Read a form of ours. Raises _Refused when it is none."""
    if request.headers.get("content-type", "").partition(";")[0] != "application/x-www-form-urlencoded":
        raise _Refused(415, "Not a form", "A form was expected.")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > FORM_MOST_BYTES:
            raise _Refused(413, "Too large", "A form holds less.")
    try:
        return {name: values[-1] for name, values in parse_qs(body.decode(), max_num_fields=20).items()}
    except ValueError:
        raise _Refused(400, "Not a form", "It can't be read.") from None


def _problem(request: Request, visitor: Visitor | None, refused: _Refused) -> Response:
    values = {"title": refused.title, "said": refused.said}
    return render(request, "problem.html", visitor, values, refused.status)
