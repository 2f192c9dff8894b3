"""What the files for deploying start: read from Dockerfile, compose.yaml, operate/, Procfile and app.json, for tests of them."""

from __future__ import annotations

import configparser
import functools
import json
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
KUBERNETES = ROOT / "operate" / "kubernetes"
SYSTEMD = ROOT / "operate" / "systemd"
IMAGE = "tailrace"


@dataclass(frozen=True)
class Process:
    """One command that a file starts.

    ``environ`` has what the file sets, with "" where the value comes from elsewhere. ``grace_s`` is the time between SIGTERM and
    SIGKILL, None where the file leaves it to the platform. ``probes`` are paths over HTTP, by what they decide.
    """

    where: str
    argv: tuple[str, ...]
    environ: Mapping[str, str] = field(default_factory=dict)
    grace_s: float | None = None
    probes: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def is_worker(self) -> bool:
        return self.argv[1:2] == ("worker",)

    @property
    def is_server(self) -> bool:
        return self.argv[1:2] == ("serve",)

    def option(self, name: str) -> str | None:
        """Return the value given to an option of the command, None if it has none."""
        return self.argv[self.argv.index(name) + 1] if name in self.argv else None


@functools.cache
def loaded(path: Path) -> list[Any]:
    """Return the documents of a YAML file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document is not None]


# --- Docker


def instructions(dockerfile: str) -> list[tuple[str, str]]:
    """Return a Dockerfile's instructions with their arguments, lines that go on joined."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", dockerfile, flags=re.MULTILINE))
    return [(words[0], words[1]) for line in text.splitlines() if len(words := line.strip().split(None, 1)) == 2]


def dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the Dockerfile."""
    return instructions((ROOT / "Dockerfile").read_text())


def image() -> Process:
    """Return what the image runs when nothing else is said, and the probe of its health check."""
    words = dict(dockerfile())  # the last of each
    check = words["HEALTHCHECK"].partition("CMD")[2]
    environ = dict(pair.split("=", 1) for pair in shlex.split(words["ENV"]))
    return Process("Dockerfile", tuple(json.loads(words["CMD"])), environ, probes={"live": _asked(check)})


def _asked(code: str) -> tuple[str, int]:
    """Return path and port of the URL that a health check opens."""
    found = re.search(r"http://127\.0\.0\.1:(\d+)(/\w+)", code)
    assert found, f"no URL in {code}"
    return found[2], int(found[1])


def compose() -> dict[str, Any]:
    """Return compose.yaml."""
    [document] = loaded(ROOT / "compose.yaml")
    return document  # type: ignore[no-any-return]


def composed() -> Iterator[Process]:
    """Return our services of compose.yaml."""
    for name, service in compose()["services"].items():
        if "build" in service:
            check = service.get("healthcheck", {})
            probes = {"live": _asked(check["test"][-1])} if "test" in check else {}
            grace = service.get("stop_grace_period")
            yield Process(
                f"compose.yaml: {name}",
                tuple(service["command"]),
                {key: "" if "${" in value else value for key, value in service["environment"].items()},
                float(grace.removesuffix("s")) if grace else None,
                probes,
            )


# --- Kubernetes


def kubernetes() -> list[dict[str, Any]]:
    """Return every object of operate/kubernetes."""
    return [
        document
        for path in sorted(KUBERNETES.rglob("*.yaml"))
        if path.name != "kustomization.yaml"
        for document in loaded(path)
    ]


def named(kind: str) -> dict[str, dict[str, Any]]:
    """Return the objects of a kind, by name."""
    return {each["metadata"]["name"]: each for each in kubernetes() if each["kind"] == kind}


def pods() -> Iterator[tuple[str, dict[str, Any]]]:
    """Return name and pod template's spec of everything that runs pods."""
    for kind in ("Deployment", "Job"):
        for name, each in named(kind).items():
            yield name, each["spec"]["template"]["spec"]


def in_pods() -> Iterator[Process]:
    """Return what the pods run."""
    for name, pod in pods():
        for container in pod["containers"]:
            ports = {port["name"]: port["containerPort"] for port in container.get("ports", ())}
            probes = {
                kind.removesuffix("Probe"): (get["path"], ports[get["port"]])
                for kind in ("livenessProbe", "readinessProbe", "startupProbe")
                if (get := container.get(kind, {}).get("httpGet"))
            }
            yield Process(
                f"kubernetes: {name}",
                tuple(container["args"]),
                _environ(container),
                pod.get("terminationGracePeriodSeconds"),
                probes,
            )


def _environ(container: dict[str, Any]) -> dict[str, str]:
    """Return a container's variables; a name of a secret or config that no file has is a KeyError."""
    environ: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        if "configMapRef" in source:
            environ |= named("ConfigMap")[source["configMapRef"]["name"]]["data"]
        else:
            environ |= dict.fromkeys(named("Secret")[source["secretRef"]["name"]]["stringData"], "")
    for variable in container.get("env", ()):
        if "value" not in variable:
            secret = variable["valueFrom"]["secretKeyRef"]
            assert secret["key"] in named("Secret")[secret["name"]]["stringData"]
        environ[variable["name"]] = variable.get("value", "")
    return environ


# --- systemd, Heroku


def units() -> Iterator[Process]:
    """Return what the services of operate/systemd run."""
    for path in sorted(SYSTEMD.glob("*.service")):
        unit = configparser.ConfigParser(strict=False, interpolation=None, delimiters=("=",))
        unit.optionxform = str  # type: ignore[assignment,method-assign]
        unit.read_string(path.read_text())
        service = unit["Service"]
        environ = dict([service["Environment"].split("=", 1)]) if "Environment" in service else {}
        stop = service.get("TimeoutStopSec")
        yield Process(
            f"systemd: {path.name}",
            tuple(shlex.split(service["ExecStart"].replace("%i", "1"))),
            environ,
            float(stop) if stop else None,
        )


def procfile() -> Iterator[Process]:
    """Return the lines of the Procfile, with the variables of app.json."""
    app = json.loads((ROOT / "app.json").read_text())
    environ = {name: each.get("value", "") for name, each in app["env"].items()}
    for line in (ROOT / "Procfile").read_text().splitlines():
        name, _, command = line.partition(":")
        # https://devcenter.heroku.com/articles/dynos#graceful-shutdown-with-sigterm: 30 seconds.
        # $PORT: Heroku's, of a web dyno.
        words = tuple("5000" if word == "$PORT" else word for word in shlex.split(command))
        yield Process(f"Procfile: {name}", words, environ, 30.0)


@functools.cache
def processes() -> list[Process]:
    """Return everything that any of the files starts."""
    return [image(), *composed(), *in_pods(), *units(), *procfile()]
