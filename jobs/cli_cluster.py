"""``--cluster`` and its options, and ``fs-submit cluster``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from jobs.cli_option import option

__all__ = ["cluster", "cluster_options"]


class Workers(click.ParamType):  # type: ignore[type-arg] # generic since click 8.5 only
    """``4``, or ``2:16``: between 2 and 16, as there is work."""

    name = "N or MIN:MAX"

    def convert(
        self, value: Any, param: click.Parameter | None, context: click.Context | None
    ) -> int | tuple[int, int]:
        if not isinstance(value, str):
            return value  # type: ignore[no-any-return]
        least, colon, most = value.partition(":")
        numbers = [least, most] if colon else [least]
        if not all(n.isdecimal() and int(n) for n in numbers):
            self.fail(
                f"{value!r}: give a number, or the least and the most, as 2:16", param, context
            )
        if not colon:
            return int(least)
        if int(least) > int(most):
            self.fail(f"{value!r}: the least is more than the most", param, context)
        return int(least), int(most)


_slurm = option(
    "--slurm",
    multiple=True,
    metavar="OPTION=VALUE",
    help="What a job asks for: long options of sbatch, repeated: partition=gpu, gres=gpu:1, "
    "account=lab.  [cpus-per-task=4 mem=16G time=04:00:00]",
)


def cluster_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--cluster``, ``--workers``, ``--slurm`` and the ``--tls-`` options."""
    path = click.Path(path_type=Path)
    for one in (
        option("--tls-key", type=path, help="Its key."),
        option("--tls-cert", type=path, help="This side's certificate, PEM."),
        option(
            "--tls-ca-file",
            type=path,
            help="Of a tls:// scheduler: the authority that signed all certificates, PEM.",
        ),
        _slurm,
        option(
            "--workers",
            type=Workers(),
            help="Worker processes; with slurm also MIN:MAX, as there is work.  [one a GPU, or one "
            "for every 4 cores; with slurm 1]",
        ),
        option(
            "--cluster",
            default="local",
            help="local; cuda: one worker a GPU of this machine; slurm; or a Dask scheduler: "
            "tcp://host:port, tls://host:port.",
        ),
    ):
        command = one(command)
    return command


@click.group()
def cluster() -> None:
    """What --cluster would do."""


@cluster.command()
@_slurm
def script(slurm: tuple[str, ...]) -> None:
    """The script that --cluster slurm gives to sbatch for each job. Submits nothing.

    Needs no SLURM here. The scheduler's address and the certificates are filled in when it runs.
    """
    from jobs.slurm import job_script, parse

    click.echo(job_script(parse(slurm)), nl=False)
