"""`tailrace roles`: a role for each errand, with the rights that it takes and no more."""

from __future__ import annotations

from typing import Annotated

import typer

from tailrace.cli import servers
from tailrace.cli.exits import Exit
from tailrace.cli.output import say, write


def roles(
    print_only: Annotated[bool, typer.Option("--print", help="Print the SQL and change nothing.")] = False,
    timeout: Annotated[
        int, typer.Option("--timeout", metavar="SECONDS", min=1, help="Statement timeout of those who only read.")
    ] = 60,
) -> None:
    """Make the roles tailrace_runtime (workers), tailrace_reader (sees the views only), tailrace_enqueuer (asks for
    runs), tailrace_monitor (sees states, no chunk), tailrace_maintenance (prunes, forgets, exports, gives keys) and
    tailrace_server (tailrace serve). Safe to repeat.

    Where the database does not let this account make roles, prints the SQL for somebody who may. Run it again after
    each migration.
    """
    from tailrace.store.roles import set_up, statements

    if print_only:
        for statement in statements(timeout_s=timeout):
            write(f"{statement};")
        return
    done = set_up(servers.database(), timeout_s=timeout)
    if done.refused is None:
        say("The roles are set up. Grant them to the accounts that log in (docs/security.md says which to whom).")
        return
    say(f"tailrace: this account can't set roles up ({done.refused}). Somebody who may can run:")
    write(done.script.rstrip())
    raise typer.Exit(Exit.FAILED)
