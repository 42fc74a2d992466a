"""What the commands' options have in common."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

__all__ = ["option", "random_split_options"]


def option(name: str, *names: str, **settings: Any) -> Any:
    """An option with its environment variable: ``--store`` is also FS_STORE."""
    variable = "FS_" + name.strip("-").replace("-", "_").upper()
    return click.option(
        name, *names, envvar=variable, show_envvar=True, show_default=True, **settings
    )


def random_split_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--seed``, ``--test-fraction`` and ``--train-videos``: how random:K splits are drawn."""
    for one in (
        option(
            "--train-videos",
            metavar="A,N",
            help="random:K puts A abnormal and N normal videos into training.",
        ),
        option(
            "--test-fraction",
            type=click.FloatRange(0, 1, min_open=True, max_open=True),
            default=0.5,
            help="random:K puts this share of the abnormal and of the normal videos into testing.",
        ),
        option("--seed", type=int, default=0, help="random:K draws with this seed."),
    ):
        command = one(command)
    return command
