"""Takes the Dockerfile's steps without Docker, and then uses what they made.

    sudo python docker/try_image.py [--target cpu] [--work DIR] [--mirror URL]
        [--build-arg NAME=VALUE ...] [--bind PATH ...]

Each stage is a layer of an overlay over a Debian made by debootstrap, with Debian's own Python of
the same minor version in the place of the base image's. RUN, COPY, ENV, ARG, WORKDIR and USER are
read from the Dockerfile, so this cannot drift from it. Then, as the image's user, in a network of
its own: the default command; that nothing of the image can be written; the health check without a
scheduler (which must fail) and with one; and an extraction of a small sample on that scheduler and
a worker, its status, and `verify`. Linux, root, debootstrap, iproute2; 5 GB in `--work` (cuda: 15).

`--bind PATH`: something of this machine that pip needs there (a certificate, its configuration, a
folder of wheels), read-only at the same place. PIP_* and proxy variables are passed on.
What this does not try: Docker itself, the base image, compose, and a GPU.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PASSED_ON = re.compile(r"(?i)pip_.*|https?_proxy|no_proxy|ssl_cert_file")
SCHEDULER = "dask scheduler --host 127.0.0.1"
WORKER = "dask worker tcp://127.0.0.1:8786 --nthreads 2 --dashboard-address :8788"
SAMPLE = "from jobs.sample import Recipe, write; write('/data/walk', Recipe(2, 16, 160, 120))"
EXTRACT = (
    "fs-submit extract --dataset folder --root /data/walk/videos --weights random "
    "--backbones timm:test_vit.r160_in1k --cluster tcp://127.0.0.1:8786"
)


@dataclass
class Stage:
    """One FROM of a Dockerfile, and the instructions after it: (name, rest of the line)."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)


def parse(text: str, given: Mapping[str, str]) -> list[Stage]:
    """A Dockerfile's stages; ``given`` are the build's arguments."""
    joined = re.sub(r"\\\n(\s*#.*\n)*", " ", text)
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in joined.splitlines():
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        instruction, _, rest = line.strip().partition(" ")
        if instruction == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(name, expand(base, arguments)))
        elif stages:
            stages[-1].instructions.append((instruction, rest.strip()))
        elif instruction == "ARG":
            name, _, value = rest.partition("=")
            arguments[name] = given.get(name, value)
        else:
            raise SystemExit(f"Dockerfile: {instruction} before the first FROM")
    return stages


def expand(text: str, known: Mapping[str, str]) -> str:
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda m: known.get(m[1] or m[2], ""), text)


@dataclass
class State:
    """What a stage hands on to the one built upon it, and its layers, the lowest first."""

    layers: list[Path]
    env: dict[str, str]
    folder: str = "/"
    user: str = "root"
    health: list[str] = field(default_factory=list)
    command: list[str] = field(default_factory=list)


def sh(*words: object, **settings: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], check=True, text=True, **settings)  # type: ignore[call-overload, no-any-return]


@dataclass
class Builder:
    work: Path
    mirror: str
    arguments: dict[str, str]
    binds: list[Path]
    states: dict[str, State] = field(default_factory=dict)

    def base(self, image: str) -> State:
        """A Debian with Python, in the place of ``python:X.Y.Z-slim-SUITE``."""
        found = re.fullmatch(r"python:(\d+\.\d+)\.\d+-slim-(\w+)(@.*)?", image)
        if not found:
            raise SystemExit(f"{image}: only python:X.Y.Z-slim-SUITE can be imitated")
        minor, suite = found[1], found[2]
        root = self.work / f"debian-{suite}"
        if not (root / ".made").exists():
            shutil.rmtree(root, ignore_errors=True)
            print(f"== debootstrap {suite} from {self.mirror}", flush=True)
            include = "--include=ca-certificates,python3,python3-venv"
            sh("debootstrap", "--variant=minbase", include, suite, root, self.mirror,
               stdout=subprocess.DEVNULL)  # fmt: skip
            (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
            (root / ".made").touch()
        said = sh("chroot", root, "python", "--version", stdout=subprocess.PIPE).stdout.split()[1]
        if not said.startswith(f"{minor}."):
            raise SystemExit(f"{image}: Debian {suite} has Python {said}, so it cannot stand in")
        print(f"== {image}: Debian {suite} with its own Python {said} stands in", flush=True)
        return State([root], {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"})

    def build(self, stage: Stage, stages: Mapping[str, Stage]) -> State:
        if stage.name in self.states:
            return self.states[stage.name]
        below = (
            self.build(stages[stage.base], stages)
            if stage.base in stages
            else self.base(stage.base)
        )
        layer = self.work / "layers" / stage.name
        layer.mkdir(parents=True)
        state = State(
            [*below.layers, layer], dict(below.env), below.folder, below.user, below.health,
            below.command,
        )  # fmt: skip
        arguments: dict[str, str] = {}
        for instruction, rest in stage.instructions:
            source = re.match(r"--from=(\S+)", rest)
            if source:
                self.build(stages[source[1]], stages)
            print(f"== {stage.name}: {instruction} {rest[:100]}", flush=True)
            known = {**state.env, **arguments}
            if instruction == "ENV":
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    state.env[name] = expand(value, known)
            elif instruction == "ARG":
                name, _, value = rest.partition("=")
                arguments[name] = self.arguments.get(name, value)
            elif instruction == "WORKDIR":
                state.folder = rest
                self.run(state, f"mkdir -p {rest}", {}, user="root", folder="/")
            elif instruction == "USER":
                state.user = rest
            elif instruction == "HEALTHCHECK":
                state.health = json.loads(rest[rest.index("CMD") + 3 :])
            elif instruction == "CMD":
                state.command = json.loads(rest)
            elif instruction == "COPY":
                self.copy(state, rest)
            elif instruction == "RUN":
                self.run(state, rest, arguments)
            else:
                raise SystemExit(f"{stage.name}: {instruction} is not imitated")
        self.states[stage.name] = state
        return state

    @contextmanager
    def mounted(self, state: State) -> Iterator[Path]:
        """The stage's files as one tree, with what a container has besides."""
        top = state.layers[-1]
        place, scratch = self.work / "root", self.work / "overlay" / top.name
        for folder in (top, place, scratch):
            folder.mkdir(parents=True, exist_ok=True)
        lower = ":".join(map(str, reversed(state.layers[:-1])))
        sh("mount", "-t", "overlay", "overlay", place, "-o",
           f"lowerdir={lower},upperdir={top},workdir={scratch}")  # fmt: skip
        try:
            sh("mount", "-t", "proc", "proc", place / "proc")
            sh("mount", "--rbind", "/dev", place / "dev")
            for path in [Path("/etc/resolv.conf"), *self.binds]:
                inside = place / path.relative_to("/")
                if path.is_dir():
                    inside.mkdir(parents=True, exist_ok=True)
                else:
                    inside.parent.mkdir(parents=True, exist_ok=True)
                    inside.touch()
                sh("mount", "--bind", "-o", "ro", path.resolve(), inside)
            yield place
        finally:
            sh("umount", "--recursive", "--lazy", place)

    def run(
        self,
        state: State,
        line: str,
        arguments: Mapping[str, str],
        *,
        user: str | None = None,
        folder: str | None = None,
    ) -> None:
        """RUN: a cache that it mounts is one that stages share, and no part of the layer."""
        caches = re.findall(r"--mount=type=cache,target=(\S+)", line)
        line = re.sub(r"--mount=\S+\s*", "", line)
        if "--mount" in line or line.startswith("--"):
            raise SystemExit(f"RUN {line}: this option is not imitated")
        with self.mounted(state) as root:
            for cache in caches:
                inside, outside = root / cache.lstrip("/"), self.work / "cache"
                for one in (inside, outside):
                    one.mkdir(parents=True, exist_ok=True)
                sh("mount", "--bind", outside, inside)
            sh(
                *self.words(
                    state, root, line, user or state.user, folder or state.folder, arguments
                )
            )

    def words(
        self,
        state: State,
        root: Path,
        line: str,
        user: str,
        folder: str,
        arguments: Mapping[str, str],
    ) -> list[str]:
        """A command line in the tree, with the image's environment and nothing else of ours."""
        passed = {name: value for name, value in os.environ.items() if PASSED_ON.fullmatch(name)}
        env = {**passed, "HOME": "/root", **state.env, **arguments}
        script = f"cd {shlex.quote(folder)} && {line}"
        return [
            "env", "-i", *(f"{name}={value}" for name, value in env.items()),
            "/usr/sbin/chroot", f"--userspec={user}:{user}", str(root), "/bin/sh", "-c", script,
        ]  # fmt: skip

    def copy(self, state: State, rest: str) -> None:
        words = shlex.split(rest)
        source = words.pop(0).removeprefix("--from=") if words[0].startswith("--from=") else None
        *paths, target = words
        with tempfile.TemporaryDirectory(dir=self.work) as between:
            # Out of one tree before the other is mounted: there is one place to mount them
            if source:
                with self.mounted(self.states[source]) as root:
                    for path in paths:
                        sh("cp", "-a", root / path.lstrip("/"), between)
            else:
                for path in paths:
                    sh("cp", "-a", "--no-preserve=ownership", CHECKOUT / path, between)
            with self.mounted(state) as root:
                place = root / str(Path(state.folder, target)).lstrip("/")
                for path in paths:
                    copied = Path(between, Path(path).name)
                    if copied.is_dir():
                        place.mkdir(parents=True, exist_ok=True)
                        sh("cp", "-a", f"{copied}/.", place)
                    else:
                        sh("cp", "-a", copied, place)


def use(builder: Builder, state: State) -> None:
    """What the image is for, as its user. Raises SystemExit on the first thing that is not so."""
    own_network()
    with builder.mounted(state) as root:

        def words(line: str) -> list[str]:
            return builder.words(state, root, line, state.user, state.folder, {})

        def check(line: str, *, fails: bool = False, quiet: bool = False) -> None:
            print(f"== as {state.user}: {line[:100]}", flush=True)
            out = subprocess.DEVNULL if quiet else None
            code = subprocess.run(words(line), stdout=out, stderr=out, check=False).returncode
            if (code != 0) is not fails:
                raise SystemExit(f"exit code {code}: {line}")

        health = shlex.join(state.health)
        check(shlex.join(state.command), quiet=True)
        check("test $(id -u) -ne 0 && test ! -w /opt/venv && test ! -w /usr && test -w /features")
        check(health, fails=True, quiet=True)
        servers = [
            subprocess.Popen(words(f"exec {line}"), stdout=log, stderr=log)
            for line, log in (
                ("dask scheduler --host 127.0.0.1", subprocess.DEVNULL),
                ("dask worker tcp://127.0.0.1:8786 --nthreads 2 --dashboard-address :8788",
                 subprocess.DEVNULL),
            )
        ]  # fmt: skip
        try:
            end = time.monotonic() + 120
            while subprocess.run(words(health), stderr=subprocess.DEVNULL, check=False).returncode:
                if time.monotonic() > end:
                    raise SystemExit("the health check of a scheduler failed for two minutes")
                time.sleep(2)
            check(health)
            check(f"python -c {shlex.quote(SAMPLE)}")
            check(EXTRACT)
            check(health.replace("8787", "8788"))
            check("fs-submit status")
            check("fs-submit verify")
        finally:
            for server in reversed(servers):
                server.terminate()
            for server in servers:
                server.wait(timeout=60)


def own_network() -> None:
    """Loopback and nothing else from here on: ports are free, and nobody outside is asked."""
    new_network = 0x40000000  # CLONE_NEWNET; os.unshare is there from Python 3.12 on
    if ctypes.CDLL(None, use_errno=True).unshare(new_network):
        raise OSError(ctypes.get_errno(), "no network of its own can be had")
    sh("ip", "link", "set", "lo", "up")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", default="cpu")
    parser.add_argument("--work", type=Path, help="kept between runs: Debian and pip's downloads")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian")
    parser.add_argument("--build-arg", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--bind", action="append", default=[], type=Path, metavar="PATH")
    asked = parser.parse_args()
    if os.geteuid() != 0 or not shutil.which("debootstrap"):
        sys.exit("this needs root, and debootstrap (apt-get install debootstrap)")
    if os.environ.get("TRY_IMAGE") != "inside":
        # Mounts of a namespace of its own are gone with it, however this ends
        os.environ["TRY_IMAGE"] = "inside"
        os.execvp("unshare", ["unshare", "--mount", "--", sys.executable, *sys.argv])
    work = (asked.work or Path(tempfile.mkdtemp(prefix="try-image-"))).resolve()
    work.mkdir(parents=True, exist_ok=True)
    given = dict(pair.split("=", 1) for pair in asked.build_arg)
    text = (CHECKOUT / "docker" / "Dockerfile").read_text()
    stages = {stage.name: stage for stage in parse(text, given)}
    if asked.target not in stages:
        sys.exit(f"the Dockerfile has no target {asked.target!r}: {', '.join(stages)}")
    shutil.rmtree(work / "layers", ignore_errors=True)
    shutil.rmtree(work / "overlay", ignore_errors=True)
    builder = Builder(work, asked.mirror, given, asked.bind)
    began = time.monotonic()
    try:
        state = builder.build(stages[asked.target], stages)
        print(f"== {asked.target} made in {time.monotonic() - began:.0f} s", flush=True)
        for layer in state.layers:
            size = sh("du", "-sm", layer, stdout=subprocess.PIPE).stdout.split()[0]
            print(f"   {layer.name:<16}{size:>8} MB", flush=True)
        use(builder, state)
    finally:
        if not asked.work:
            shutil.rmtree(work, ignore_errors=True)
    print(f"== {asked.target}: all steps taken, and all that was tried works")


if __name__ == "__main__":
    main()
