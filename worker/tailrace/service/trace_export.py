"""Whether this process makes spans, and whether what makes them is installed. The only importer of `service.otlp`."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import Final

from tailrace.errors import BadSettings
from tailrace.tracing import Traces, send_to, traces

__all__ = ["check", "start", "stop"]

OTLP: Final = "otlp"
"""The setting that asks for spans."""
NEEDED: Final = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
DISABLED_VARIABLE: Final = "OTEL_SDK_DISABLED"


def check(wanted: str) -> None:
    """Make sure that spans can be made, if they are wanted; imports nothing that makes them.

    Raises:
        BadSettings: it is not installed.
    """
    if wanted == OTLP and not all(map(_is_there, NEEDED)):
        raise BadSettings(
            "TAILRACE_TRACES is otlp, but OpenTelemetry's SDK is not installed: pip install 'tailrace[traces]'"
        )


def start(wanted: str, worker: str, environ: Mapping[str, str]) -> Traces | None:
    """Make spans from now on, if they are wanted; return what to `stop`. After a fork: what sends them is a thread.

    Args:
        worker: the name of this process.
        environ: with the OTEL_ variables that say where spans go.

    Raises:
        BadSettings: what makes them is not installed, or a variable of it can't be meant.
    """
    check(wanted)
    if wanted != OTLP or environ.get(DISABLED_VARIABLE, "").strip().lower() == "true":
        return None
    from tailrace.service.otlp import over_http  # imports OpenTelemetry, which others need not have

    begun = over_http(worker, environ)
    send_to(begun)
    return begun


def stop(begun: Traces | None, timeout_s: float) -> None:
    """Make no more spans, and send what has not been sent, for no longer than ``timeout_s``."""
    if begun is None:
        return
    if traces() is begun:
        send_to(Traces())
    begun.stop(timeout_s)


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # a package that it is in
        return False
