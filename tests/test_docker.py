"""What docker/ says agrees with itself and with the code; building it needs docker/try_image.py."""

import fnmatch
import importlib.util
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest
import yaml
from distributed.cli import dask_scheduler, dask_worker

from jobs import cluster, processor
from jobs.cli import cli

CHECKOUT = Path(__file__).resolve().parent.parent
DOCKER = CHECKOUT / "docker"
COMPOSE = ("compose.yaml", "compose.cuda.yaml")
MANIFESTS = sorted((DOCKER / "kubernetes").glob("*.yaml"))


def load_try_image() -> ModuleType:
    """docker/ is no package: a name like that would hide the one of Docker's own client."""
    spec = importlib.util.spec_from_file_location("try_image", DOCKER / "try_image.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["try_image"] = module  # dataclasses look themselves up there
    spec.loader.exec_module(module)
    return module


TRY_IMAGE = load_try_image()
STAGES = {stage.name: stage for stage in TRY_IMAGE.parse((DOCKER / "Dockerfile").read_text(), {})}


def instructions(target: str) -> list[tuple[str, str]]:
    """All that makes a target, the base's first."""
    stage = STAGES[target]
    below = instructions(stage.base) if stage.base in STAGES else []
    return below + stage.instructions


def compose(name: str) -> dict[str, Any]:
    """A compose file with every variable at its default, `/videos` where one has none."""
    text = (DOCKER / name).read_text()
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)
    text = re.sub(r"\$\{\w+:\?[^}]*\}", "/videos", text)
    assert "${" not in text
    return yaml.safe_load(text)


def manifests() -> list[dict[str, Any]]:
    return [one for path in MANIFESTS for one in yaml.safe_load_all(path.read_text())]


def containers(value: Any) -> list[dict[str, Any]]:
    """Every container of a manifest, however deep."""
    if isinstance(value, list):
        return [found for one in value for found in containers(one)]
    if not isinstance(value, dict):
        return []
    return [*value.get("containers", []), *containers(list(value.values()))]


def check_command(words: list[str]) -> None:
    """That `fs-submit` or `dask` has this command with these options."""
    program, *words = words
    if program == "fs-submit":
        if words not in (["--help"], []):
            context = cli.commands[words[0]].make_context(words[0], words[1:])
            assert isinstance(context, click.Context)
        return
    assert program == "dask"
    main = {"scheduler": dask_scheduler.main, "worker": dask_worker.main}[words[0]]
    main.make_context(words[0], words[1:])


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_a_target(target: str) -> None:
    made = instructions(target)
    users = [rest for name, rest in made if name == "USER"]
    assert users, "it runs as root"
    assert users[-1].isdigit(), "Kubernetes sees only by a number that it is not root"
    assert int(users[-1]) > 0
    assert [name for name, _ in made].count("HEALTHCHECK") == 1
    assert ("CMD", '["fs-submit", "--help"]') in made
    # No tool, cache or source of the stages before: files come from them, commands run there
    pips = [rest for name, rest in made if name == "RUN" and "pip" in rest]
    assert not pips


def test_the_pinned_python_is_what_the_project_wants() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())
    least = re.fullmatch(r">=(\d+)\.(\d+)", project["project"]["requires-python"])
    tested = re.search(r"\(Python (\d+)\.(\d+),", (CHECKOUT / "constraints.txt").read_text())
    assert least
    assert tested
    bases = {stage.base for stage in STAGES.values() if stage.base not in STAGES}
    assert len(bases) == 1
    pinned = re.fullmatch(r"python:(\d+)\.(\d+)\.\d+-slim-\w+", bases.pop())
    assert pinned
    assert pinned.groups() == tested.groups(), "constraints.txt was tested with another Python"
    assert tuple(map(int, pinned.groups())) >= tuple(map(int, least.groups()))


def test_every_installation_is_constrained() -> None:
    lines = [
        line
        for stage in STAGES.values()
        for name, rest in stage.instructions
        if name == "RUN"
        for line in rest.split("&&")
        if "pip install" in line
    ]
    assert len(lines) >= 4
    for line in lines:
        # The project itself is installed alone; torch without its needs, which come after it
        assert "-c constraints.txt" in line or (
            "--no-deps" in line and line.rstrip().endswith(" .")
        ), line


def test_all_that_is_copied_is_let_through() -> None:
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    let = [line.removeprefix("!") for line in lines if line.startswith("!")]
    copied = [
        word
        for stage in STAGES.values()
        for name, rest in stage.instructions
        if name == "COPY" and not rest.startswith("--from")
        for word in shlex.split(rest)[:-1]
    ]
    assert "jobs" in copied
    for word in copied:
        assert (CHECKOUT / word).exists()
        assert any(fnmatch.fnmatch(word, pattern) for pattern in let), f"{word} is ignored"
    assert set(let) == set(copied)


def test_workers_are_set_as_local_ones_are(monkeypatch: pytest.MonkeyPatch) -> None:
    env = {}
    for name, rest in instructions("cpu"):
        if name == "ENV":
            env.update(pair.split("=", 1) for pair in shlex.split(rest))
    ours = ("distributed.worker.", "distributed.scheduler.allowed-failures")
    same = {key: value for key, value in cluster._CONFIG.items() if key.startswith(ours)}
    assert len(same) >= 6
    for key, value in same.items():
        variable = "DASK_" + key.upper().replace("-", "_").replace(".", "__")
        assert env.get(variable) == str(value), f"{variable} is not as jobs/cluster.py has it"
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    assert processor.large_pages().items() <= env.items()


def test_requirements_are_those_of_the_project() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]
    script = [sys.executable, DOCKER / "requirements.py"]
    said = subprocess.run(
        [*script, "objects"], cwd=CHECKOUT, check=True, capture_output=True, text=True
    ).stdout.splitlines()
    wanted = project["dependencies"] + project["optional-dependencies"]["objects"]
    assert said == wanted
    wrong = subprocess.run(
        [*script, "nothing"], cwd=CHECKOUT, check=False, capture_output=True, text=True
    )
    assert wrong.returncode == 1
    assert "no extra 'nothing'" in wrong.stderr


@pytest.mark.parametrize("name", COMPOSE)
def test_compose_builds_targets_that_there_are(name: str) -> None:
    services = compose(name)["services"]
    built = {role: one for role, one in services.items() if "build" in one}
    assert {"scheduler", "worker", "submit"} == set(built)
    for one in built.values():
        target = one["build"]["target"]
        assert target in STAGES
        assert one["image"] == f"feature-store:{target}"


def test_compose_runs_commands_that_there_are() -> None:
    services = compose("compose.yaml")["services"]
    for role in ("scheduler", "worker"):
        check_command(services[role]["command"])
    submit = services["submit"]
    check_command([*submit["entrypoint"], *submit["command"]])
    # What the head of the file tells to type
    typed = re.findall(r"run --rm submit (.+)", (DOCKER / "compose.yaml").read_text())
    assert len(typed) >= 3
    for line in typed:
        if line != "COMMAND ...":
            check_command(["fs-submit", *line.split()])
    variables = {p.envvar for c in cli.commands.values() for p in c.params if p.envvar}
    ours = {name for name in submit["environment"] if name.startswith("FS_")}
    assert ours
    assert ours <= variables


def test_compose_publishes_on_loopback_only() -> None:
    ports = [
        port
        for one in compose("compose.yaml")["services"].values()
        for port in one.get("ports", [])
    ]
    assert len(ports) == 2
    for port in ports:
        assert port.startswith("127.0.0.1:")
        assert not port.endswith(":8786"), "whoever reaches the scheduler can run anything"


def test_manifests_run_commands_that_there_are() -> None:
    kinds = {one["kind"] for one in manifests()}
    assert {"DaskCluster", "Job", "PersistentVolumeClaim", "NetworkPolicy"} <= kinds
    found = containers(manifests())
    assert {one["name"] for one in found} == {"scheduler", "worker", "submit"}
    for one in found:
        check_command(one["args"])


def test_manifests_name_each_other() -> None:
    by_kind: dict[str, list[dict[str, Any]]] = {}
    for one in manifests():
        by_kind.setdefault(one["kind"], []).append(one)
    [dask], [job] = by_kind["DaskCluster"], by_kind["Job"]
    env = {e["name"]: e["value"] for e in containers(job)[0]["env"]}
    # The operator names a cluster's service NAME-scheduler
    assert env["FS_CLUSTER"] == f"tcp://{dask['metadata']['name']}-scheduler:8786"
    there = {claim["metadata"]["name"] for claim in by_kind["PersistentVolumeClaim"]}
    worker, submit = dask["spec"]["worker"]["spec"], job["spec"]["template"]["spec"]
    for pod in (worker, submit):
        used = {v["persistentVolumeClaim"]["claimName"] for v in pod["volumes"]}
        assert used == there
    mounts = [pod["containers"][0]["volumeMounts"] for pod in (worker, submit)]
    assert mounts[0] == mounts[1], "workers read and write at the driver's paths"
    for pod in (worker, submit, dask["spec"]["scheduler"]["spec"]):
        assert pod["securityContext"]["runAsNonRoot"]
        assert str(pod["securityContext"]["runAsUser"]) in dict(instructions("cpu")).values()


def test_no_image_floats() -> None:
    images = [stage.base for stage in STAGES.values() if stage.base not in STAGES]
    images += [one["image"] for name in COMPOSE for one in compose(name)["services"].values()]
    images += [one["image"] for one in containers(manifests())]
    assert len(images) > 6
    for image in images:
        _, _, tag = image.rpartition("/")[2].partition(":")
        assert tag, f"{image} has no tag"
        assert tag != "latest", image


def test_a_dockerfile_is_read_as_docker_reads_it() -> None:
    text = (
        "# comment\nARG IMAGE=debian:12\nFROM ${IMAGE} AS one\nRUN a \\\n # why\n  && b\n"
        "ENV A=1 \\\n    B=$A\nFROM one AS two\nCOPY --from=one /x /y\n"
    )
    one, two = TRY_IMAGE.parse(text, {"IMAGE": "debian:13"})
    assert (one.name, one.base, two.name, two.base) == ("one", "debian:13", "two", "one")
    assert [(name, rest.split()) for name, rest in one.instructions] == [
        ("RUN", ["a", "&&", "b"]),
        ("ENV", ["A=1", "B=$A"]),
    ]
    assert two.instructions == [("COPY", "--from=one /x /y")]
