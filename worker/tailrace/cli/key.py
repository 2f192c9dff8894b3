"""`tailrace key`: who may read the archive over HTTP."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tailrace import arguments
from tailrace.cli import servers
from tailrace.cli.arguments import AsJson
from tailrace.cli.output import ago, say, shown, table, write, write_json
from tailrace.cli.runs import changing
from tailrace.config.own_keys import hashed, new_key
from tailrace.errors import BadArgument

if TYPE_CHECKING:
    from tailrace.store.access_keys import AccessKey, AccessKeys

key = typer.Typer(name="key", no_args_is_help=True)


@key.callback()
def keys() -> None:
    """Give, list and revoke the keys that `tailrace serve` takes. Each reads one environment of the archive."""


def _checked(name: str) -> str:
    try:
        return arguments.checked_environment("it", name)
    except BadArgument as error:
        raise typer.BadParameter(str(error)) from None


Name = Annotated[
    str, typer.Argument(metavar="NAME", help="What the key is called.", callback=_checked, show_default=False)
]


@key.command()
def add(
    name: Name,
    environment: Annotated[
        str,
        typer.Option(
            "--environment",
            "-e",
            metavar="NAME",
            envvar="TAILRACE_ENVIRONMENT",
            help="What it may read: all of this environment, and nothing else.",
            show_default=False,
        ),
    ],
    acts: Annotated[
        bool, typer.Option("--acts", help="It may also have runs ingested, retried and cancelled, in the console.")
    ] = False,
) -> None:
    """Make a key and print it, alone on the last line. It is not stored and can't be shown again.

    It is good at once. Each name is used once, so that the list says for ever who had access.
    """
    made = new_key()
    with changing():
        _table().add(name, environment, hashed(made), acts)
    does = "reads, and acts on," if acts else "reads"
    say(f"Key {shown(name)} {does} environment {shown(environment)}. It is shown this once:")
    write(made)


@key.command("list")
def list_keys(as_json: AsJson = False) -> None:
    """List the keys that there are and were, without what they are."""
    with changing():
        found = _table().all()
    if as_json:
        for each in found:
            write_json(each._asdict())
        return
    now = datetime.now(UTC)
    headings = ("key", "environment", "made", "by", "last used", "state")
    table(headings, ([*_row(each, now)] for each in found))
    if not found:
        say("tailrace: there are no keys; `tailrace key add NAME --environment E` makes one")


@key.command()
def revoke(name: Name) -> None:
    """Refuse a key from now on: within seconds, and whoever is reading with it then is cut off."""
    with changing():
        was_valid = _table().revoke(name)
    if was_valid is None:
        raise typer.BadParameter(f"there is no key {shown(name)}")
    say(f"Key {shown(name)} {'is refused from now on' if was_valid else 'was revoked before'}.")


def _row(each: AccessKey, now: datetime) -> tuple[str, ...]:
    state = f"revoked {ago(each.revoked_at, now)}" if each.revoked_at else "valid, acts" if each.acts else "valid"
    used = ago(each.last_used_at, now) or "never"
    return each.name, each.environment, ago(each.created_at, now), each.created_by, used, state


def _table() -> AccessKeys:
    from tailrace.store.access_keys import AccessKeys
    from tailrace.store.engine import create_engine

    return AccessKeys(
        create_engine(servers.database(), pool_size=1, max_overflow=0, application_name="tailrace command")
    )
