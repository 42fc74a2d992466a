"""Labels and splits: what a command asks for -> what the store is told.

All that can be wrong is found before anything is written: `asked` reads what ``--split`` names,
`prepare` reads the ground truth and checks one against the other, `record` writes.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import replace as changed
from pathlib import Path

from featurestore import splits
from featurestore.catalog import NewVideo, Video
from featurestore.errors import DatasetError, SplitError, UsageError
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN, Truth, fit
from featurestore.splits import Split, random_splits, read_csv, restricted
from featurestore.store import Store
from jobs import datasets
from jobs.datasets import folder
from jobs.video import Source

__all__ = ["Asked", "Plan", "Row", "asked", "prepare", "record", "rows_of"]

OFFICIAL = "official"


@dataclass(frozen=True)
class Asked:
    """What ``--split`` asks for, read and understood.

    ``given`` are splits that come with this package (then ``ours``) or from files. ``random`` are
    drawn, ``counts`` of each label to train or all but ``test_fraction``.
    """

    given: Mapping[str, Split]
    ours: frozenset[str] = frozenset()
    official: bool = False
    explicit: bool = True  # else: all that are known, as far as there are any
    random: int = 0
    seed: int = 0
    test_fraction: float = 0.5
    counts: Mapping[int, int] | None = None


@dataclass(frozen=True)
class Row:
    """A video that the store has or is about to get: its frames as decoded, and its state."""

    frames: int
    state: str

    @classmethod
    def of(cls, video: Video | NewVideo) -> Row:
        return cls(video.frames, video.state)


@dataclass(frozen=True)
class Plan:
    """What to record: all of it fits the videos, and each other."""

    truths: Sequence[Truth]
    splits: Sequence[Split]
    remarks: Sequence[str] = ()


def asked(
    texts: Collection[str],
    dataset: str,
    root: Path,
    *,
    seed: int = 0,
    test_fraction: float = 0.5,
    train_videos: str | None = None,
) -> Asked:
    """Understand ``--split``: official, random:K, a name, FILE or NAME=FILE; several by comma.

    Nothing asked for means all that are known of the dataset.

    Raises:
        SplitError: no such split, a file that cannot be used.
        UsageError: a number that is none.
    """
    known = datasets.named_splits(dataset) if dataset in datasets.DATASETS else {}
    base = Asked({}, seed=seed, test_fraction=test_fraction, counts=_counts(train_videos))
    if not texts:
        official = dataset in datasets.DATASETS and (
            dataset != "folder" or (root / folder.LABELS).is_file()
        )
        return changed(base, given=known, ours=frozenset(known), official=official, explicit=False)
    given: dict[str, Split] = {}
    ours: set[str] = set()
    # A file's own name may have a comma.
    apart = [[t] if Path(t).exists() else t.split(",") for t in texts]
    for text in (one for several in apart for one in several if one):
        name, _, file = text.rpartition("=")
        if text == OFFICIAL:
            base = changed(base, official=True)
        elif text.startswith("random:"):
            base = changed(base, random=_count(text))
        elif text in known:
            given[text] = known[text]
            ours.add(text)
        elif Path(file).suffix or Path(file).exists():
            split = read_csv(Path(file), name or None, str(file))
            if given.setdefault(split.name, split) is not split:
                raise SplitError(f"--split {text}: there are two of the name {split.name}")
        else:
            raise SplitError(
                f"--split {text!r}: no such split of {dataset}, and no such file; choose from "
                f"{', '.join([OFFICIAL, *known])}, random:K, or give a CSV file with "
                f"{','.join(splits.COLUMNS)}"
            )
    return changed(base, given=given, ours=frozenset(ours))


def rows_of(store: Store | None) -> dict[str, Row]:
    """The videos that count in a store, by name."""
    videos = store.videos() if store else []
    return {v.name: Row.of(v) for v in videos if v.state != "superseded"}


def prepare(
    wanted: Asked,
    store: Store | None,
    rows: Mapping[str, Row],
    *,
    dataset: str,
    root: Path,
    sources: Sequence[Source],
    labels_file: Path | None = None,
    new: Collection[str] = (),
    replace: bool = False,
) -> Plan:
    """Read the ground truth of ``rows`` where something needs it, and make the splits.

    ``rows`` are the videos asked for, ``sources`` all that lie below ``root``, ``new`` those of
    ``rows`` that the store is about to get. The ground truth is not read again where the store
    has it and no ``labels_file`` is given. Random splits that the store has are drawn anew only
    with ``replace``.

    Raises:
        FeatureStoreError: ground truth that does not fit (see `datasets.truth`), a split that
            names a video that is not there or contradicts the labels.
    """
    before = rows_of(store)
    labels = _labels(store)
    official = _official_before(store)
    truths: dict[str, Truth] = {}
    if (
        labels_file is not None
        or any(name in new or labels.get(name, UNKNOWN) == UNKNOWN for name in rows)
        or (wanted.official and not set(rows) <= set(official))
    ):
        frames = {name: row.frames for name, row in rows.items()}
        damaged = {name for name, row in rows.items() if row.state != "ok"}
        truths = datasets.truth(dataset, root, frames, labels_file, damaged=damaged)
    fitted = {name: fit(t, rows[name].frames).label for name, t in truths.items()}
    labels |= {name: label for name, label in fitted.items() if label != UNKNOWN}
    all_here = {*before, *rows}
    below = {source.name for source in sources}
    made: list[Split] = []
    remarks: list[str] = []
    if wanted.official:
        try:
            split = datasets.official_split(dataset, sources, truths, root)
            # Videos that are not on this disk any more stay in the half that they were in.
            made.append(changed(split, parts={**official, **split.parts}))
        except DatasetError as error:
            if wanted.explicit:
                raise
            remarks.append(f"no official split: {error}")
    for name, split in wanted.given.items():
        if name not in wanted.ours:
            splits.check(split, all_here | below, {})
        elif left := [video for video in split.parts if video not in all_here | below]:
            remarks.append(
                f"split {name}: {len(left)} of its videos are not there: {splits.shown(left)}"
            )
        made.append(split)
    made = [restricted(split, all_here) for split in made]
    for split in made:
        splits.check(split, all_here, labels)
        brought = {v: of for v, of in split.labels.items() if labels.get(v, UNKNOWN) == UNKNOWN}
        labels |= brought
        if not split.parts:  # a table of labels alone
            for video, label in brought.items():
                bare = truths.get(video) or Truth(video, UNKNOWN, None, split.source)
                truths[video] = changed(bare, label=label)
    if wanted.random:
        kept = None if replace else store
        made += _drawn(wanted, kept, {video: labels.get(video, UNKNOWN) for video in all_here})
    known = [t for t in truths.values() if t.label != UNKNOWN or t.frames is not None or t.remark]
    return Plan(known, [split for split in made if not _is_there(split, store)], remarks)


def record(store: Store, plan: Plan, *, replace: bool = False) -> list[str]:
    """Tell the store; readers see new videos and splits at the next commit. Returns remarks."""
    remarks = [*plan.remarks, *store.set_truth(plan.truths)]
    for split in plan.splits:
        remarks += store.set_split(split, replace=replace)
    return remarks


def _drawn(wanted: Asked, store: Store | None, labels: Mapping[str, int]) -> list[Split]:
    """The random splits; one that the store has is kept if it was drawn in this way.

    Videos added since are in neither half of that one: what was measured on it still holds.

    Raises:
        SplitError: it was drawn in another way.
    """

    def draw(of: Mapping[str, int], count: int) -> list[Split]:
        return random_splits(
            of, count, wanted.seed, test_fraction=wanted.test_fraction, train=wanted.counts
        )

    drawn = draw(labels, wanted.random)
    for number, split in enumerate(drawn):
        if store is None or split.name not in store.split_names:
            continue
        there = store.split(split.name)
        try:
            again = draw({v: labels[v] for v in there.parts}, number + 1)[number]
        except SplitError:
            again = split
        if dict(again.parts) != dict(there.parts):
            raise SplitError(
                f"{store.url}: has a split {split.name} already, {there.source}; give another "
                "--seed, or replace it with: fs-submit split add --replace"
            )
        drawn[number] = there
    return drawn


def _is_there(split: Split, store: Store | None) -> bool:
    if not split.parts:
        return True  # none of its videos: nothing to record
    if store is None or split.name not in store.split_names:
        return False
    there = store.split(split.name)
    return dict(there.parts) == dict(split.parts) and split.labels.items() <= there.labels.items()


def _labels(store: Store | None) -> dict[str, int]:
    if store is None:
        return {}
    labels = store.labels().tolist()
    return {v.name: labels[v.index] for v in store.videos() if v.state != "superseded"}


def _official_before(store: Store | None) -> Mapping[str, int]:
    return store.split(OFFICIAL).parts if store and OFFICIAL in store.split_names else {}


def _count(text: str) -> int:
    count = text.removeprefix("random:")
    if not count.isdecimal() or int(count) < 1:
        raise UsageError(f"--split {text!r}: give the number of splits to draw, as in random:20")
    return int(count)


def _counts(text: str | None) -> dict[int, int] | None:
    if text is None:
        return None
    words = text.split(",")
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise UsageError(
            f"--train-videos {text!r}: give the abnormal and the normal videos to train, as in 6,4"
        )
    return {ABNORMAL: int(words[0]), NORMAL: int(words[1])}
