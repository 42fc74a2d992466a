"""What is wrong with a store, in words and for `mend` to act on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

import numpy.typing as npt

# What a way out begins with, where `mend` can do something.
REPAIR: Final = "fs-submit verify --repair"


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: where (inside the store's folder), what, and what to do.

    `mendable`: `mend` puts it right, or marks it missing so that the next extract does.
    """

    where: str
    what: str
    way_out: str
    mendable: bool = True

    def __str__(self) -> str:
        return f"{self.where}: {self.what}. {self.way_out}"


@dataclass
class Findings:
    """What `verify` found, for people (`problems`) and for `mend` (the rest)."""

    url: str
    problems: list[Problem] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)  # remarks that are no problem
    checked: int = 0  # chunks read
    clips: dict[str, set[int]] = field(default_factory=dict)  # backbone -> to be computed again
    # Backbone -> clips with values that were never marked done, on an object store.
    unmarked: dict[str, list[int]] = field(default_factory=dict)
    chunks: list[str] = field(default_factory=list)  # damaged files, to be removed
    strays: list[str] = field(default_factory=list)  # chunks of fused arrays that mislead
    statuses: list[str] = field(default_factory=list)  # backbones whose status is damaged
    columns: dict[str, npt.NDArray[Any]] = field(default_factory=dict)  # as they must be
    runs: set[str] = field(default_factory=set)  # scores that are damaged

    def add(self, where: str, what: str, way_out: str, *, mendable: bool = True) -> None:
        self.problems.append(Problem(where, what, way_out, mendable))
