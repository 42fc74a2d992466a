"""Rules of the house that no type checker holds: who imports whom, what starts fast, sizes."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.catalog import NewVideo
from featurestore.schema import BACKBONES, FEATURES, FUSED
from featurestore.store import create

CHECKOUT = Path(__file__).resolve().parent.parent

# Every package's rule: what it may never import, wherever in a file the import stands.
NETWORKS = {"torch", "torchvision", "timm", "pytorchvideo", "openvino"}
FORBIDDEN = {
    "featurestore": {"jobs", "detector", "distributed", "av", "decord"} | NETWORKS,
    "detector": {"jobs", "distributed", "av", "decord"} | NETWORKS,
    # The command line alone sees the detector.
    "jobs": {"tests"},
}
SOURCES = ("featurestore", "jobs", "detector", "tests", "docker", ".ci")


def files(*suffixes: str, under: tuple[str, ...] = SOURCES) -> list[Path]:
    found = [p for folder in under for p in (CHECKOUT / folder).rglob("*") if p.is_file()]
    found = [p for p in found if "__pycache__" not in p.parts]
    return sorted(p for p in found if not suffixes or p.suffix in suffixes)


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, inside functions and by `import_module("...")` too."""
    package = path.relative_to(CHECKOUT).with_suffix("").parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            yield ".".join([*above, *([node.module] if node.module else [])]), node.lineno
        elif isinstance(node, ast.Call) and node.args:
            called = node.func.attr if isinstance(node.func, ast.Attribute) else None
            called = node.func.id if isinstance(node.func, ast.Name) else called
            name = node.args[0]
            named = isinstance(name, ast.Constant) and isinstance(name.value, str)
            if named and called in ("import_module", "__import__"):
                yield name.value, node.lineno


@pytest.mark.parametrize("package", FORBIDDEN)
def test_arrows(package: str) -> None:
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{line} imports {module}"
        for path in files(".py", under=(package,))
        for module, line in imports(path)
        if module.split(".")[0] in FORBIDDEN[package]
    ]
    assert not wrong, "\n".join(wrong)


def test_only_the_command_line_sees_the_detector() -> None:
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{line}"
        for path in files(".py", under=("jobs",))
        for module, line in imports(path)
        if module.split(".")[0] == "detector" and not path.name.startswith("cli")
    ]
    assert not wrong, "\n".join(wrong)


def test_all_imports_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above would pass just as well if it found nothing."""
    monkeypatch.setattr(sys.modules[__name__], "CHECKOUT", tmp_path)
    path = tmp_path / "featurestore" / "io" / "a.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "import os.path\nfrom . import b\nfrom ..c import d\n"
        "def f():\n    from torch import nn\n    importlib.import_module('jobs.cli')\n"
    )
    found = [module for module, _ in imports(path)]
    assert found == ["os.path", "featurestore.io", "featurestore.c", "torch", "jobs.cli"]


@pytest.mark.parametrize("module", ["featurestore", "jobs", "jobs.specs"])
def test_tables_need_no_networks(module: str) -> None:
    assert not loaded(f"import {module}") & NETWORKS


COMMANDS = [
    ["--help"],
    ["extract", "--help"],
    ["datasets"],
    ["status"],
    ["status", "--json"],
    ["split", "list"],
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with a store in its place, so that `status` has something to tell."""
    folder = tmp_path_factory.mktemp("folder")
    (folder / "features").mkdir()
    store = create(folder / "features" / "ped2.zarr", dataset="ped2", block=32)
    store.append([NewVideo(f"Test{i:03d}", f"Test/Test{i:03d}", 180) for i in range(12)])
    made = {"model": "r3d_18.k400", "weights": "RANDOM(seed=0)", "engine": "torch"}
    for name in BACKBONES:
        provenance = {**made, "precision": "float32", "versions": {"torch": "2"}}
        store.add_features(name, FEATURES[name].channels, attributes=provenance)
    for name in FUSED:
        store.add_fused(name)
    store.commit()
    return folder


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_commands_that_only_look_load_no_networks(arguments: list[str], folder: Path) -> None:
    run = f"import sys; sys.argv[1:] = {arguments}\nfrom jobs.cli import main\nmain()"
    code = f"try:\n{indent(run)}\nexcept SystemExit as end:\n    assert not end.code"
    modules = loaded(code, cwd=folder)
    assert not modules & NETWORKS
    assert "click" in modules  # the command did run


@pytest.mark.parametrize("path", files(".py"), ids=lambda p: str(p.relative_to(CHECKOUT)))
def test_a_file_fits_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 450, "more than one idea? split it"


def test_no_paths_of_a_developers_machine() -> None:
    # Written in pieces, or this file would be the first to be found.
    somewhere = re.compile("/" + r"(work/(main|shared)|tmp/(env|plan)|root/[\w.]|home/\w|Users/\w)")
    top = [p for p in CHECKOUT.iterdir() if p.is_file() and p.name != ".git"]
    wrong = [
        f"{path.relative_to(CHECKOUT)}:{number}: {line.strip()}"
        for path in [*top, *files()]
        if b"\0" not in (content := path.read_bytes())
        for number, line in enumerate(content.decode(errors="replace").splitlines(), 1)
        if somewhere.search(line)
    ]
    assert not wrong, "\n".join(wrong)


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(CHECKOUT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path}


def loaded(code: str, cwd: Path | None = None) -> set[str]:
    """Top-level modules loaded after `code` ran in a fresh interpreter."""
    tail = "import sys; print('LOADED', *sorted({m.split('.')[0] for m in sys.modules}))"
    result = subprocess.run(
        [sys.executable, "-c", f"{code}\n{tail}"],
        cwd=cwd,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.rpartition("LOADED")[2].split())


def indent(code: str) -> str:
    return "\n".join("    " + line for line in code.splitlines())
