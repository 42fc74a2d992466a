"""What the commands' options have in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import click

from featurestore.errors import UsageError
from featurestore.place import use

__all__ = ["option", "random_split_options", "storage_options"]


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


class _Pairs(click.types.StringParamType):
    """In the environment pairs are apart by blanks; JSON is one."""

    def split_envvar_value(self, rv: str) -> list[str]:
        return [rv] if rv.lstrip().startswith("{") else rv.split()


def storage_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """``--storage-options``: of all object stores that the command opens. It gets no argument."""
    made: Callable[..., Any] = option(
        "--storage-options",
        type=_Pairs(),
        multiple=True,
        expose_value=False,
        metavar="NAME=VALUE",
        callback=lambda context, parameter, texts: use(_storage(texts)),
        help="Of an object store: endpoint=http://..., repeated; or all as JSON.",
    )(command)
    return made


def _storage(texts: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if text.lstrip().startswith("{"):
            try:
                found |= {str(k): str(v) for k, v in json.loads(text).items()}
            except ValueError:
                # Without the text: it may hold a secret.
                raise UsageError("--storage-options: begins as JSON, but is none") from None
        elif equals and name:
            found[name.strip()] = value
        else:
            raise UsageError("--storage-options: give name=value, or all as JSON")
    return found
