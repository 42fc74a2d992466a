"""The README's tables say what the code says."""

import re
from pathlib import Path

import click

from featurestore.schema import FEATURES
from jobs.cli import cli
from jobs.specs import SPECS

README = (Path(__file__).parent.parent / "README.md").read_text()


def network_rows() -> list[str]:
    rows = []
    for name, spec in SPECS.items():
        p = spec.preprocessing
        resize = f"short side {p.resize[0]}" if len(p.resize) == 1 else "x".join(map(str, p.resize))
        rows.append(
            f"| `{name}` | `{spec.model}` | {spec.channels} | {resize}, {p.crop} "
            f"| `{spec.file_name}` | {spec.licence} |"
        )
    return rows


def test_the_table_of_networks() -> None:
    for row in network_rows():
        assert row in README, f"README lacks: {row}"


def test_every_array_is_named() -> None:
    for name in FEATURES:
        assert re.search(rf"\b{name}\b", README), name


def test_every_command_of_the_readme_parses() -> None:
    lines = re.findall(r"^    fs-submit (.+?)(?:\s{2,}#.*)?$", README, flags=re.MULTILINE)
    assert len(lines) >= 4
    for line in lines:
        command, *words = line.replace("'", "").split()
        parsed = cli.commands[command].make_context(command, words)
        assert isinstance(parsed, click.Context)
