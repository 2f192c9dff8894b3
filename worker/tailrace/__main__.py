"""The command `tailrace`, also as ``python -m tailrace``."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command line and end the process with its exit code. An expected error is one message, no traceback."""
    from tailrace.cli.exits import advice_for, exit_for, expected, missing_extra

    try:
        from tailrace.cli.app import app
    except ModuleNotFoundError as error:  # callers of .delay install less than a worker does
        missing = missing_extra(error)
        if missing is None:
            raise
        sys.exit(f"tailrace: {missing}")

    try:
        app(prog_name="tailrace")
    except Exception as raised:
        known = expected(raised)
        if known is None:
            raise
        from tailrace.errors import BadSettings
        from tailrace.redaction import redact

        # What settings say of themselves holds no secret, but examples that look like one.
        said = str(known) if isinstance(known, BadSettings) else redact(str(known))
        message = "\n".join(filter(None, (said, advice_for(known))))
        sys.stderr.write("".join(f"tailrace: {line}\n" for line in message.splitlines()))
        sys.exit(int(exit_for(known)))


if __name__ == "__main__":
    main()
