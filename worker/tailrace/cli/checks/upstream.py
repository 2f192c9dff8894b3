"""Upstream: that Trigger.dev's API answers, that it takes the key, and that the key is that of the archive's runs."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tailrace.cli.checks.database import CLOCK_S, off
from tailrace.cli.checks.finding import Finding, fine, note, problem
from tailrace.cli.exits import GOOD_KEY, Exit

if TYPE_CHECKING:
    from tailrace.config.keys import Access
    from tailrace.source.client import Upstream
    from tailrace.source.probe import Answer
    from tailrace.store.diagnosis import Diagnosis, KnownRun

WEEK_S = 7 * 86_400.0
RUNS_ASKED = 5
"""Of runs that upstream has shown, and of runs that it did not know: one of each could be a mistake of a person's."""
KINDS_OF_KEYS = {"tr_dev_": "dev", "tr_stg_": "staging", "tr_prod_": "prod", "tr_preview_": "preview"}

TAKES_KEY = fine("upstream-takes-key", "upstream", "{whose}{url} answers and takes the key")
NO_KEY = note(
    "upstream-not-asked",
    "upstream",
    "not asked, because no key is set",
    "Without a key upstream says nothing. What only asks for runs, or reads the archive, needs none.",
)
PLAIN = problem(
    "upstream-plain",
    "upstream",
    "{whose}{url} is plain HTTP, to a host that is not this one",
    "Whoever is on the way reads the key and all that is streamed.",
    "Use https:// in TRIGGER_API_URL.",
)
PLAIN_NEAR = note(
    "upstream-plain-near",
    "upstream",
    "{whose}{url} is plain HTTP, within a private network",
    "Whoever is in that network reads the key and all that is streamed.",
    "Use https:// in TRIGGER_API_URL unless the network is yours alone.",
)
AWAY = problem(
    "upstream-away",
    "upstream",
    "{whose}{reason}",
    "Nothing answers at that address, or it breaks off: a wrong host or port, no way there, a certificate that is not "
    "trusted here.",
    "Check TRIGGER_API_URL, and that this machine reaches it.",
    Exit.UNREACHABLE,
)
HTML = problem(
    "upstream-html",
    "upstream",
    "{whose}{url} answers {status} with a web page",
    "Something else is there: Trigger.dev's dashboard, a login page, a proxy that blocks.",
    "TRIGGER_API_URL must be that of the API: https://api.trigger.dev, or the address of your own Trigger.dev.",
)
REDIRECTS = problem(
    "upstream-redirects",
    "upstream",
    "{whose}{url} answers {status} and sends everybody to {target}",
    "Tailrace follows no redirect: the key would go along to another host.",
    "Set TRIGGER_API_URL to the address it leads to, if that is your Trigger.dev.",
)
OTHER_PATH = problem(
    "upstream-path",
    "upstream",
    "{whose}{url} has a path, and what answers there is not Trigger.dev's API",
    "The API's own paths are added to it.",
    "Set TRIGGER_API_URL to scheme and host alone.",
)
NO_API = problem(
    "upstream-other",
    "upstream",
    "{whose}{url} is not Trigger.dev's API: it answers {status}: {said}",
    "Something answers, in another way than Trigger.dev does.",
    "Correct TRIGGER_API_URL.",
)
TROUBLED = problem(
    "upstream-troubled",
    "upstream",
    "{whose}{url} answers {status}: {said}",
    "Upstream is there and can't serve. Workers go on trying.",
    "Wait, or look at your own Trigger.dev.",
    Exit.UNREACHABLE,
)
KEY_REFUSED = problem(
    "key-refused",
    "key",
    "{whose}upstream answered {status}: {said}",
    "The key is mistyped, revoked or expired, or lacks the branch of a preview environment.",
    f"Give the workers {GOOD_KEY}.",
    Exit.KEY_REFUSED,
)
MAY_NOT_LIST = note(
    "key-may-not-list",
    "key",
    "{whose}the key may not list runs: {reason}",
    "What is asked for by its id is archived. Backfills find nothing.",
    "Use the environment's secret key, if you want backfills.",
)
MUST_LIST = problem(
    "key-may-not-discover",
    "key",
    "{whose}the key may not list runs, and TAILRACE_DISCOVER is set: {reason}",
    "No new run is found.",
    "Use the environment's secret key.",
    Exit.KEY_REFUSED,
)
LIST_FAILED = note(
    "list-failed",
    "upstream",
    "{whose}the list of runs can't be read: {reason}",
    "Backfills, and discovery's second look, need it; they go on trying.",
)
CLOCK = problem(
    "clock-upstream",
    "clock",
    "{whose}this machine's clock is {off} upstream's",
    "Backfills and discovery ask for runs of the wrong time, and tokens seem to have expired.",
    "Have this machine keep its time (NTP).",
)
OTHER_KIND = note(
    "key-kind",
    "key",
    "environment {environment} has a key of kind {kind}",
    "The name says another: perhaps the keys were mixed up.",
    "Look whether the key is the one that was meant.",
)
OTHER_URL = note(
    "environment-moved",
    "environments",
    "the archive knows environment {environment} at {known}, and here it is at {url}",
    "Another deployment serves it under the same name, or it moved and no worker has started since.",
    "Give each upstream a name of its own (TAILRACE_ENVIRONMENT) where they are two.",
)
OTHER_KEY = problem(
    "key-of-another",
    "environments",
    "upstream takes the key and knows none of the newest runs of environment {environment}, {run} for one",
    "It is the key of another environment, or of another project. Its runs would be mixed with those that are there, "
    "and those are never brought to their end. Or upstream has deleted them.",
    "Give the key that these runs belong to, or this deployment a name of its own (TAILRACE_ENVIRONMENT).",
    Exit.KEY_REFUSED,
)
TWO_DEPLOYMENTS = problem(
    "two-deployments",
    "environments",
    "environment {environment} has runs of two upstream environments: {known} is known to this key, {unknown} is not",
    "Two deployments with different keys share this archive under one name, and each gives up the other's runs as "
    "unknown. Or upstream has deleted a run.",
    "Give each a name of its own (TAILRACE_ENVIRONMENT), and ask again for what was given up.",
)
GIVEN_UP = problem(
    "run-given-up",
    "environments",
    "workers gave up {run} of environment {environment} as unknown upstream, and this key knows it",
    "The workers that serve it have the key of another environment. Or upstream took longer to show it than "
    "TAILRACE_UNKNOWN_RUN_SECONDS.",
    "Give all of them this key, or this deployment a name of its own (TAILRACE_ENVIRONMENT); then ask for it again.",
)


def address(access: Access, whose: str) -> Iterator[Finding]:
    """Look at the address alone, before anything is sent there."""
    parts = urlsplit(access.api_url)
    host = parts.hostname or ""
    if parts.scheme == "http" and not _is_here(host):
        yield (PLAIN_NEAR if _is_near(host) else PLAIN).found(whose=whose, url=access.api_url)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in ("localhost", socket.gethostname().lower()) or host.endswith(".localhost")


def _is_near(host: str) -> bool:
    """A private address; or a name of one word, or one that only means something inside a cluster or a home."""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return "." not in host or host.endswith((".local", ".internal", ".svc", ".lan", ".home.arpa"))


def answers(access: Access, upstream: Upstream, whose: str) -> Iterator[Finding]:
    """Ask upstream for a run that there is not, and tell what its answer shows. `TAKES_KEY`: all is well."""
    from tailrace.errors import WorkerError
    from tailrace.service.key_check import NO_SUCH_RUN
    from tailrace.source.probe import ask_for_run

    try:
        answer = ask_for_run(upstream, NO_SUCH_RUN)
    except WorkerError as error:
        yield AWAY.found(whose=whose, reason=error)
        return
    if answer.ahead_s is not None and abs(answer.ahead_s) > CLOCK_S:
        yield CLOCK.found(whose=whose, off=off(answer.ahead_s))
    if answer.status == 404 and answer.is_json:
        yield from _takes_key(access, upstream, whose)
    else:
        yield _shown_by(answer, access.api_url, whose)


def _takes_key(access: Access, upstream: Upstream, whose: str) -> Iterator[Finding]:
    """Tell upstream, which does not know a run, from any other API, which does not know the path: by the list of runs,
    which backfills and discovery need. Counts against the rate limit."""
    from tailrace.errors import NotFound, Unauthorized, WorkerError
    from tailrace.source.listing import ListFilter, list_runs

    listed: list[Finding] = []
    try:
        list_runs(upstream, ListFilter(datetime.now(UTC) - timedelta(minutes=1)), None)
    except NotFound as error:
        yield (OTHER_PATH if urlsplit(access.api_url).path else NO_API).found(
            whose=whose, url=access.api_url, status=404, said=error
        )
        return
    except Unauthorized as error:
        listed.append((MUST_LIST if access.discover else MAY_NOT_LIST).found(whose=whose, reason=error))
    except WorkerError as error:
        listed.append(LIST_FAILED.found(whose=whose, reason=error))
    yield TAKES_KEY.found(whose=whose, url=access.api_url)
    yield from listed


def _shown_by(answer: Answer, url: str, whose: str) -> Finding:
    """Return what an answer shows that is none of upstream's to a key that it takes."""
    what: dict[str, object] = {"whose": whose, "url": url, "status": answer.status, "said": answer.said or "(empty)"}
    if answer.redirects:
        return REDIRECTS.found(**what, target=_origin(answer.location, url))
    if answer.status in (401, 403) and not answer.is_html:
        return KEY_REFUSED.found(**what)
    if urlsplit(url).path:
        return OTHER_PATH.found(**what)
    if answer.is_html:
        return HTML.found(**what)
    return (TROUBLED if answer.status >= 500 or answer.status == 429 else NO_API).found(**what)


def _origin(location: str, url: str) -> str:
    """Where a redirect leads, without what could be a secret: its path and query."""
    try:
        parts = urlsplit(location)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "an address that can't be read"
    return f"{parts.scheme}://{parts.hostname}{port}" if parts.hostname else f"another path of {url}"


def kind_of_key(access: Access) -> Iterator[Finding]:
    """Compare the kind of the key, which its beginning tells, with the environment's name, where that tells one too."""
    key = access.key.get_secret_value()
    kind = next((kind for prefix, kind in KINDS_OF_KEYS.items() if key.startswith(prefix)), None)
    named = {kind for kind in KINDS_OF_KEYS.values() if kind in access.name.lower()}
    if kind is not None and named and kind not in named:
        yield OTHER_KIND.found(environment=access.name, kind=kind)


def whose_runs(access: Access, upstream: Upstream, diagnosis: Diagnosis) -> Iterator[Finding]:
    """Ask upstream for runs of this environment in the archive: one key shows the runs of one environment only.

    No key is stored, so this is how two that write to one archive show.
    """
    known_url = diagnosis.api_url(access.name)
    if known_url is not None and known_url != access.api_url:
        yield OTHER_URL.found(environment=access.name, known=known_url, url=access.api_url)
    runs = diagnosis.recent_runs(access.name, WEEK_S, RUNS_ASKED)
    known: list[KnownRun] = []
    unknown: list[KnownRun] = []
    for run in runs:
        (known if _knows(upstream, run.run_id) else unknown).append(run)
    foreign = [run for run in unknown if run.shown]  # that some worker's key has shown
    given_up = [run for run in known if not run.shown]  # that some worker's key did not know
    own = [run for run in known if run.shown]
    if foreign and known:
        yield TWO_DEPLOYMENTS.found(environment=access.name, known=known[0].run_id, unknown=foreign[0].run_id)
    elif given_up:
        yield GIVEN_UP.found(environment=access.name, run=given_up[0].run_id)
    elif foreign and not own:
        yield OTHER_KEY.found(environment=access.name, run=foreign[0].run_id)


def _knows(upstream: Upstream, run_id: str) -> bool:
    from tailrace.errors import NotFound

    try:
        upstream.run(run_id)
    except NotFound:
        return False
    return True
