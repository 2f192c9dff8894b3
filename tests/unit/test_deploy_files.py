"""The files for deploying start what there is, set what is read, and leave the time that stopping takes."""

from __future__ import annotations

import ast
import json
import re
import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer
from alembic.config import CommandLine
from celery.bin.base import CLIContext
from celery.bin.celery import celery

from tailrace import celery as scheduled
from tailrace.cli.app import app
from tailrace.config.settings import Settings, variables
from tailrace.config.urls import DATABASE_VARIABLES, REDIS_MASTER_VARIABLE, REDIS_VARIABLES
from tailrace.serve.draining import DRAIN_S
from tests import deployfiles, operating
from tests.deployfiles import IMAGE, KUBERNETES, ROOT, SYSTEMD, Process, kubernetes, loaded, named, pods, processes

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
ROOM_S = 5.0
"""What a worker may take beyond TAILRACE_DRAIN_SECONDS: Celery looks for its end every other second. docs/deployment.md says 15 s."""
OTHERS = {"PATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}
PLATFORMS = ROOT / "docs" / "platforms.md"

each_process = pytest.mark.parametrize("process", processes(), ids=lambda process: process.where)
each_worker = pytest.mark.parametrize(
    "process", [each for each in processes() if each.is_worker], ids=lambda process: process.where
)

each_server = pytest.mark.parametrize(
    "process", [each for each in processes() if each.is_server], ids=lambda process: process.where
)


def parse(argv: tuple[str, ...]) -> None:
    """Have the program itself take a command line apart, without running it. What it refuses raises."""
    program = Path(argv[0]).name
    if program == "tailrace":
        _parsed(typer.main.get_command(app), argv[1:])
    elif program == "celery":
        assert argv[1:3] == ("-A", "tailrace.celery"), argv
        _parsed(celery, argv[3:], obj=CLIContext(app=scheduled.app, no_color=True, workdir=None, quiet=True))
    elif program == "alembic":
        CommandLine().parser.parse_args(argv[1:])
    else:
        raise AssertionError(f"what is {program}?")


def _parsed(group: Any, argv: tuple[str, ...], **context: Any) -> None:
    assert argv[0] in group.commands, f"there is no command {argv[0]}"
    group.commands[argv[0]].make_context(argv[0], list(argv[1:]), **context)


# --- what is started


def test_every_kind_of_file_was_read() -> None:
    kinds = [process.where.partition(":")[0] for process in processes()]
    assert {kind: kinds.count(kind) for kind in kinds} == {
        "Dockerfile": 1,
        "compose.yaml": 5,
        "kubernetes": 5,
        "systemd": 5,
        "Procfile": 4,
    }
    assert len([process for process in processes() if process.is_worker]) == 5
    assert len([process for process in processes() if process.is_server]) == 4


@each_process
def test_every_command_is_one_that_its_program_takes(process: Process) -> None:
    parse(process.argv)


def test_a_command_that_is_none_is_refused() -> None:
    for argv in (
        "tailrace werker",
        "tailrace worker --metrik 1",
        "celery -A tailrace.celery beat --nope",
        "sh -c true",
    ):
        with pytest.raises(BaseException, match=r"no command|No such option|such option|what is sh"):
            parse(tuple(shlex.split(argv)))


@each_process
def test_every_variable_is_a_setting(process: Process) -> None:
    known = {name for variable in variables() for name in variable.names}
    known |= {*DATABASE_VARIABLES, *REDIS_VARIABLES, REDIS_MASTER_VARIABLE, *OTHERS}
    assert set(process.environ) <= known


@each_process
def test_values_are_allowed(process: Process) -> None:
    fields = {name: variable.field for variable in variables() for name in variable.names}
    Settings(**{fields[name]: value for name, value in process.environ.items() if value and name in fields})


# --- stopping and being asked


@each_worker
def test_a_worker_has_the_time_to_drain(process: Process) -> None:
    drain_s = float(process.environ.get("TAILRACE_DRAIN_SECONDS") or Settings().drain_seconds)
    grace_s = 10.0 if process.grace_s is None and process.where == "Dockerfile" else process.grace_s
    if process.where == "Dockerfile":  # `docker stop` waits ten seconds unless told otherwise: the page tells
        assert f"docker stop --time {round(drain_s + 2 * ROOM_S)}" in PLATFORMS.read_text()
        return
    assert grace_s is not None
    assert grace_s >= drain_s + ROOM_S


@each_server
def test_a_server_has_the_time_to_drain(process: Process) -> None:
    """Answers to their end, then what hangs: each within DRAIN_S; and what Kubernetes does before it tells it."""
    before_s = 0
    for _, pod in pods():
        for container in pod["containers"]:
            if process.where == f"kubernetes: tailrace-{container['name']}":
                [sleep, seconds] = container["lifecycle"]["preStop"]["exec"]["command"]
                assert sleep == "sleep"
                before_s = int(seconds)
    assert process.grace_s is not None
    assert process.grace_s >= before_s + 2 * DRAIN_S + ROOM_S


@each_process
def test_probes_ask_the_port_that_is_served(process: Process) -> None:
    for decides, (path, port) in process.probes.items():
        # A load balancer's question is answered where readers are.
        of_readers = process.is_server and path == "/healthcheck"
        assert str(port) == ((not of_readers and process.option("--metrics-port")) or process.option("--port"))
        if of_readers:
            assert decides in ("live", "readiness")  # Compose only shows it; nothing is restarted for it
            continue
        # A database that is away makes a worker not ready, and must not have it restarted.
        assert path in {"live": {"/live", "/metrics"}, "liveness": {"/live"}, "startup": {"/live"}}.get(
            decides, {"/ready", "/metrics"}
        )
    if process.probes and process.where != "Dockerfile":
        assert (process.option("--metrics-host") or process.option("--host")) == "0.0.0.0"


def test_servers_are_probed_in_every_way() -> None:
    """Nobody is sent to one whose database is away, and it is not restarted for that."""
    [server] = [process for process in deployfiles.in_pods() if process.is_server]
    assert server.probes == {
        "liveness": ("/live", 9464),
        "readiness": ("/healthcheck", 8787),
        "startup": ("/live", 9464),
    }


def test_workers_are_probed_in_every_way() -> None:
    [worker] = [process for process in deployfiles.in_pods() if process.is_worker]
    assert worker.probes == {
        "liveness": ("/live", 9464),
        "readiness": ("/ready", 9464),
        "startup": ("/live", 9464),
    }


# --- the image


def test_the_image_is_built_of_what_is_there() -> None:
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    for word, rest in deployfiles.dockerfile():
        if word == "COPY" and not rest.startswith("--from"):
            for source in rest.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in ignored, f".dockerignore keeps {source} out"


def test_the_image_runs_as_the_user_that_the_pods_name() -> None:
    words = dict(deployfiles.dockerfile())
    user = words["USER"]
    assert user == "10001:10001"
    assert "useradd --uid 10001 " in " ".join(rest for _, rest in deployfiles.dockerfile())
    for _, pod in pods():
        security = pod["securityContext"]
        assert f"{security['runAsUser']}:{security['runAsGroup']}" == user


def test_what_builds_is_not_in_what_runs() -> None:
    words = deployfiles.dockerfile()
    stages = [index for index, (word, _) in enumerate(words) if word == "FROM"]
    assert len(stages) == 2
    last = " ".join(rest for _, rest in words[stages[1] :])
    assert not re.search(r"\bpip\b|apt-get|\bgcc\b|build-essential", last)


def test_all_files_mean_one_version() -> None:
    assert f'org.opencontainers.image.version="{VERSION}"' in dict(deployfiles.dockerfile())["LABEL"]
    images = {service["image"] for service in deployfiles.compose()["services"].values() if "build" in service}
    images |= {
        container["image"] for name, pod in pods() if name == "tailrace-migrate" for container in pod["containers"]
    }
    assert images == {f"{IMAGE}:{VERSION}"}
    [kustomization] = loaded(KUBERNETES / "base" / "kustomization.yaml")
    assert [each["newTag"] for each in kustomization["images"]] == [VERSION]


# --- Compose


def test_compose_listens_on_this_machine_only() -> None:
    ports = [port for service in deployfiles.compose()["services"].values() for port in service.get("ports", ())]
    assert len(ports) == 5
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_asks_for_what_the_example_has() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (ROOT / "compose.yaml").read_text()))
    example = dict(re.findall(r"^(\w+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(example) == asked
    assert not any(value for name, value in example.items() if re.search("PASSWORD|KEY", name))


def test_compose_mounts_what_is_there_and_evicts_nothing() -> None:
    services = deployfiles.compose()["services"]
    mounted = [volume.split(":")[0] for service in services.values() for volume in service.get("volumes", ())]
    for source in mounted:
        assert source in deployfiles.compose()["volumes"] or (ROOT / source).is_dir()
    assert "--maxmemory-policy noeviction" in " ".join(services["valkey"]["command"])


def test_prometheus_scrapes_what_compose_serves() -> None:
    [config] = loaded(ROOT / "operate" / "prometheus" / "prometheus.yml")
    served = {
        process.where.removeprefix("compose.yaml: "): process.option("--metrics-port") or process.option("--port")
        for process in deployfiles.composed()
    }
    for job in config["scrape_configs"]:
        for each in job.get("static_configs", ()):
            for target in each["targets"]:
                name, port = target.split(":")
                assert served[name] == port
        for each in job.get("dns_sd_configs", ()):
            assert [served[name] for name in each["names"]] == [str(each["port"])]
    [source] = loaded(ROOT / "operate/grafana/provisioning/datasources/prometheus.yml")
    assert source["datasources"][0]["url"] == "http://prometheus:9090"


# --- Kubernetes


@pytest.mark.parametrize(("name", "pod"), list(pods()), ids=lambda value: value if isinstance(value, str) else "")
def test_pods_may_do_nothing_that_they_need_not(name: str, pod: dict[str, Any]) -> None:
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["automountServiceAccountToken"] is False
    # A service named tailrace-exporter would set TAILRACE_EXPORTER_PORT and more, which look like mistyped settings.
    assert pod["enableServiceLinks"] is False
    for container in pod["containers"]:
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert container["resources"]["limits"].keys() == {"memory"}  # a limit of CPU stalls every stream at once


def test_selectors_find_their_pods() -> None:
    deployments = named("Deployment")
    labels = {name: each["spec"]["template"]["metadata"]["labels"] for name, each in deployments.items()}
    for name, each in deployments.items():
        assert each["spec"]["selector"]["matchLabels"] == labels[name]
    budgets, services = named("PodDisruptionBudget"), named("Service")
    assert {name: each["spec"]["selector"]["matchLabels"] for name, each in budgets.items()} == {
        name: labels[name] for name in ("tailrace-worker", "tailrace-serve")
    }
    assert {name: each["spec"]["selector"] for name, each in services.items()} == {
        name: labels[name] for name in ("tailrace-exporter", "tailrace-serve")
    }
    assert named("ScaledObject")["tailrace-worker"]["spec"]["scaleTargetRef"]["name"] in deployments
    [monitored] = named("PodMonitor")["tailrace"]["spec"]["selector"]["matchExpressions"]
    assert set(monitored["values"]) <= {each["app"] for each in labels.values()}


def test_a_worker_more_is_wanted_before_the_slots_are_gone() -> None:
    slots = int(named("ConfigMap")["tailrace"]["data"]["TAILRACE_SLOTS"])
    scaled = named("ScaledObject")["tailrace-worker"]["spec"]
    [streams] = [trigger for trigger in scaled["triggers"] if trigger["name"] == "streams"]
    assert 0.5 * slots <= float(streams["metadata"]["targetQueryValue"]) <= 0.8 * slots
    assert scaled["minReplicaCount"] == named("Deployment")["tailrace-worker"]["spec"]["replicas"] == 2


def test_secrets_of_the_example_are_none() -> None:
    for secret in named("Secret").values():
        for value in secret["stringData"].values():
            assert re.fullmatch(r"KEY|\w+://(WORKERS|OWNER|SERVER)?:PASSWORD@HOST:\d+/(DATABASE|0)", value)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl is not installed")
@pytest.mark.parametrize("folder", ["base", "keda"])
def test_kustomize_makes_them_what_is_applied(folder: str) -> None:
    made = subprocess.run(
        ["kubectl", "kustomize", KUBERNETES / folder], check=True, capture_output=True, text=True, timeout=60
    ).stdout
    [worker] = re.findall(r"kind: Deployment\nmetadata:\n(?:  .*\n)*?  name: tailrace-worker\n(?:.*\n)*?---", made)
    assert f"image: {IMAGE}:{VERSION}" in worker
    assert ("\n  replicas:" in worker) == (folder == "base")  # KEDA's number is not set back
    assert len(re.findall(r"^kind: ", made, re.MULTILINE)) == {"base": 9, "keda": 10}[folder]


def test_kustomize_is_given_every_file() -> None:
    listed = {
        (path.parent / name).resolve()
        for path in KUBERNETES.rglob("kustomization.yaml")
        for name in loaded(path)[0]["resources"]
    }
    apart = {KUBERNETES / name for name in ("migrate.yaml", "secrets.example.yaml", "podmonitor.yaml")}
    files = {path for path in KUBERNETES.rglob("*.yaml") if path.name != "kustomization.yaml"}
    assert files == apart | (listed - {KUBERNETES / "base"})
    assert len(kubernetes()) == 15


# --- systemd


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_takes_the_units(tmp_path: Path) -> None:
    units, programs = tmp_path / "etc/systemd/system", tmp_path / "opt/tailrace/bin"
    units.mkdir(parents=True)
    programs.mkdir(parents=True)
    for path in [*SYSTEMD.glob("*.service"), *SYSTEMD.glob("*.target")]:
        shutil.copy(path, units)
    for name in ("tailrace", "celery"):
        (programs / name).write_text("#!/bin/sh\n")
        (programs / name).chmod(0o755)
    for path in sorted(units.iterdir()):
        name = path.name.replace("@.", "@1.")
        command = [
            "systemd-analyze",
            "verify",
            "--recursive-errors=no",
            "--man=no",
            f"--root={tmp_path}",
            f"/etc/systemd/system/{name}",
        ]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", ""), name


def test_units_share_what_keeps_them_in() -> None:
    def hardening(path: Path) -> str:
        return path.read_text().split("# Of the machine it needs", 1)[1].partition("\n[Install]")[0].strip()

    assert len({hardening(path) for path in SYSTEMD.glob("*.service")}) == 1


# --- Heroku


def test_heroku_installs_the_pinned_worker_and_starts_the_procfile() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["-c constraints.txt", ".[worker,serve]"]
    manifest = json.loads((ROOT / "app.json").read_text())
    kinds = {process.where.removeprefix("Procfile: ") for process in deployfiles.procfile()}
    assert set(manifest["formation"]) == kinds - {"release"}


# --- the pages


@pytest.mark.parametrize("page", ["platforms.md", "try.md"])
def test_every_command_of_the_page_is_one(page: str) -> None:
    text = (ROOT / "docs" / page).read_text()
    lines = [line for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL) for line in block.splitlines()]
    found = [
        match[1]
        for line in lines
        if (match := re.search(r"(?:^|/| )(tailrace [a-z].*)$", line.split(" #")[0].rstrip()))
    ]
    assert len(found) >= 3
    for line in found:
        parse(tuple(shlex.split(line)))


def test_scaling_names_what_the_files_have() -> None:
    [block] = operating.blocks("Scale")
    compose, kubectl, systemd, heroku = (tuple(shlex.split(line)) for line in block.text.splitlines())
    assert compose[:-1] == ("docker", "compose", "up", "-d", "--scale")
    assert compose[-1].partition("=")[0] in deployfiles.compose()["services"]
    assert kubectl[:2] == ("kubectl", "scale")
    assert kubectl[2].removeprefix("deployment/") in named("Deployment")
    unit = re.sub(r"@\d+$", "@.service", systemd[-1])
    assert systemd[:-1] == ("sudo", "systemctl", "enable", "--now")
    assert (SYSTEMD / unit).exists()
    assert heroku[:2] == ("heroku", "ps:scale")
    assert f"Procfile: {heroku[2].partition('=')[0]}" in {each.where for each in deployfiles.procfile()}


def test_every_file_that_the_page_names_is_there() -> None:
    files = re.findall(
        r"`((?:operate/|\.env\.|app\.json|compose\.yaml|Dockerfile|Procfile|requirements)[^`* ]*)`",
        PLATFORMS.read_text(),
    )
    assert len(set(files)) >= 8
    assert [name for name in files if not (ROOT / name).exists()] == []


def test_the_health_check_is_python() -> None:
    check = json.loads(dict(deployfiles.dockerfile())["HEALTHCHECK"].partition("CMD")[2])
    assert check[:2] == ["python3", "-c"]
    ast.parse(check[2])
