"""``fs-submit datasets``: what is known, and whether a download is complete."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from jobs.cli_option import option

__all__ = ["datasets"]


@click.group(invoke_without_command=True)
@click.option("--json", "as_json", is_flag=True, help="For machines.")
@click.pass_context
def datasets(context: click.Context, as_json: bool) -> None:
    """The datasets known: where each can be had, its size, licence, citation and layout."""
    if context.invoked_subcommand is None:
        from jobs.datasets.listing import as_plain, text

        click.echo(json.dumps(as_plain(), indent=2) if as_json else text())


@datasets.command()
@option("--dataset", required=True, help="ped1, ped2, avenue, shanghaitech, ...")
@option("--root", type=click.Path(path_type=Path), help="Where it lies.  [./data/DATASET]")
@option(
    "--labels",
    type=click.Path(path_type=Path),
    help="Its ground truth, if that lies elsewhere: file or folder, as the dataset has it.",
)
@click.option("--exact", is_flag=True, help="Count frames as extract does, and find damage: slow.")
@click.option("--json", "as_json", is_flag=True, help="For machines.")
def check(dataset: str, root: Path | None, labels: Path | None, exact: bool, as_json: bool) -> None:
    """Is a download complete, and does its ground truth fit? Says what is there and what is wrong.

    Exit code: 0 all well, 1 there are problems.
    """
    from jobs.datasets import get
    from jobs.datasets.check import check, text

    get(dataset)
    report = check(dataset, root or Path("data") / dataset, labels, exact=exact)
    click.echo(json.dumps(report.as_json(), indent=2) if as_json else text(report))
    sys.exit(1 if report.problems else 0)
