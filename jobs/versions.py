"""Whether the hosts of a cluster have the same software; said before any work starts."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from featurestore.errors import UsageError

if TYPE_CHECKING:
    from distributed import Client

__all__ = ["OURS", "by_value", "check_versions", "differences", "installed"]

OURS = "video-anomaly-feature-store"
EVERYWHERE = (OURS, "numpy", "zarr", "distributed")
MAJOR = ("numpy", "zarr")  # of these the first number must be the same
ON_WORKERS = ("torch",)
ABSENT = "not installed"

Versions = Mapping[str, str]


def installed() -> dict[str, str]:
    """Package -> its version here, ``python`` too; imports none of them."""
    found = {"python": platform.python_version()}
    for name in (*EVERYWHERE, *ON_WORKERS):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ABSENT
    return found


def check_versions(client: Client, say: Callable[[str], None]) -> None:
    """Compare scheduler and workers with this process; ``say`` a line for what may be borne.

    Raises:
        UsageError: our own package differs somewhere, or numpy or zarr by their first number.
    """
    with by_value():
        scheduler = client.run_on_scheduler(installed)
        workers = client.run(installed)
    fatal, bearable = differences(installed(), scheduler, workers)
    for line in bearable:
        say(f"warning: {line}")
    if fatal:
        raise UsageError(
            "the hosts of this cluster have other versions than this one: "
            + "; ".join(fatal)
            + ". Install the same everywhere: pip install -c constraints.txt"
        )


@contextmanager
def by_value() -> Iterator[None]:
    """``installed`` travels as code: a host without our package must be able to say so."""
    import cloudpickle

    module = sys.modules[__name__]
    cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        cloudpickle.unregister_pickle_by_value(module)


def differences(
    here: Versions, scheduler: Versions, workers: Mapping[str, Versions]
) -> tuple[list[str], list[str]]:
    """Lines on what differs from ``here``: those that forbid to go on, and the others."""
    fatal: list[str] = []
    bearable: list[str] = []
    for name in ("python", *EVERYWHERE, *ON_WORKERS):
        others: dict[str, list[str]] = {}
        if name not in ON_WORKERS and scheduler[name] != here[name]:
            others.setdefault(scheduler[name], []).append("the scheduler")
        for address, there in workers.items():
            if there[name] != here[name]:
                others.setdefault(there[name], []).append(f"worker {address}")
        for found, where in others.items():
            more = f" and {len(where) - 2} more" if len(where) > 2 else ""
            line = f"{name} {here[name]} here, {found} on {', '.join(where[:2])}{more}"
            must = name == OURS or (name in MAJOR and _major(found) != _major(here[name]))
            (fatal if must else bearable).append(line)
    return fatal, bearable


def _major(text: str) -> str:
    return text.partition(".")[0]
