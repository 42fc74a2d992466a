"""The datasets that ``fs-submit extract --dataset NAME`` knows: one file each, listed here.

A dataset turns a folder in its official layout into named videos, their ground truth and its
splits. It knows names, folders and label files only; frames are the business of :mod:`jobs.video`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from featurestore.errors import DatasetError, FeatureStoreError
from featurestore.labels import UNKNOWN, Truth
from featurestore.splits import Split, read_csv
from jobs.datasets import avenue, folder, ped1, ped2, shanghaitech, ucf_crime
from jobs.datasets._contract import Counts, Dataset, GroundTruth
from jobs.video import Source

__all__ = [
    "DATASETS",
    "Counts",
    "Dataset",
    "GroundTruth",
    "get",
    "ground_truth",
    "named_splits",
    "official_split",
    "scan",
    "select",
    "truth",
]

DATASETS: dict[str, Dataset] = {
    module.DATASET.name: module.DATASET
    for module in (ped1, ped2, avenue, shanghaitech, ucf_crime, folder)
}

_SPLITS = Path(__file__).parent / "splits"


def get(dataset: str) -> Dataset:
    """The dataset of that name. Raises DatasetError: there is none."""
    known = DATASETS.get(dataset)
    if known is None:
        raise DatasetError(f"no dataset {dataset!r}: choose one of {', '.join(DATASETS)}")
    return known


def scan(dataset: str, root: Path) -> list[Source]:
    """Every video of ``dataset`` below ``root``, in natural order, each name once.

    Raises:
        DatasetError: unknown dataset, no such folder, nothing in the layout expected, or two
            videos of one name; the message shows the layout.
    """
    known = get(dataset)
    if not root.is_dir():
        what = "is not a folder" if root.exists() else "is not there"
        raise DatasetError(
            f"{root} {what}. Say where {known.title} lies with --root DIR. "
            f"The layout expected there:\n{known.layout}"
        )
    sources = known.scan(root)
    if not sources:
        raise DatasetError(
            f"no video of {known.title} in {root}. The layout expected:\n{known.layout}"
        )
    seen: dict[str, Path] = {}
    for source in sources:
        other = seen.setdefault(source.name, source.path)
        if other != source.path:
            raise DatasetError(
                f"two videos are named {source.name!r}: {other} and {source.path}. "
                "Move one of them away or rename it."
            )
    return sources


def ground_truth(dataset: str, root: Path, labels_file: Path | None = None) -> GroundTruth:
    """What ground truth there is below ``root``, or in ``labels_file``, to be read video by video.

    ``labels_file`` is of the dataset's own kind: UCSD's ``.m``, a folder of masks for Avenue and
    ShanghaiTech, UCF-Crime's annotation, a table of intervals for a folder.

    Raises:
        DatasetError: there is some, but it cannot be read.
        UsageError: ``labels_file`` is of another kind.
    """
    if labels_file is not None and not labels_file.exists():
        raise DatasetError(f"{labels_file}: there is no such file or folder of labels")
    return get(dataset).truths(root, labels_file)


def truth(
    dataset: str,
    root: Path,
    frames: Mapping[str, int],
    labels_file: Path | None = None,
    *,
    damaged: Collection[str] = (),
) -> dict[str, Truth]:
    """Ground truth of the videos in ``frames`` (name -> frames as decoded).

    Its frame labels are as many as the frames. Only of the ``damaged`` videos, where decoding
    ended early (at 0: a video that does not open), they go on to the end of the whole video, and
    are to be cut (`featurestore.labels.fit`). Where no ground truth of single frames is there at
    all, labels follow from the dataset's halves alone, and a remark says so.

    Raises:
        DatasetError: ground truth that is missing for some videos only, cannot be read, or does
            not fit the frames; one message for all videos.
    """
    given = ground_truth(dataset, root, labels_file)
    found: dict[str, Truth] = {}
    problems: list[str] = []
    for video, count in frames.items():
        try:
            known = given.read(video, count, video in damaged)
            found[video] = replace(known, source=known.source.removeprefix(f"{root}/"))
        except FeatureStoreError as error:
            problems.append(str(error))
    if len(problems) == 1:
        raise DatasetError(problems[0])
    if problems:
        more = f"\nand {len(problems) - 5} more" if len(problems) > 5 else ""
        first = "\n".join(problems[:5])
        raise DatasetError(f"the ground truth of {len(problems)} videos is wrong:\n{first}{more}")
    return found


def named_splits(dataset: str) -> dict[str, Split]:
    """The weak splits of a dataset that come with this package: name -> split."""
    return {
        name: read_csv(_SPLITS / f"{dataset}_{name}.csv", name, source)
        for name, source in get(dataset).splits.items()
    }


def official_split(
    dataset: str,
    sources: Sequence[Source],
    truth: Mapping[str, Truth],
    root: Path | None = None,
) -> Split:
    """The split of the dataset's own halves, called ``official``, with the labels of all videos.

    Of the dataset ``folder`` it is what ``labels.csv`` in ``root`` says.

    Raises:
        DatasetError: there is none, or which videos are for testing is not known.
    """
    known = get(dataset)
    if dataset == "folder":
        given = folder.table(root) if root is not None else None
        if given is None or not given.parts:
            raise DatasetError(
                f"{root or 'a folder'} has no {folder.LABELS} that says which videos train and "
                "which test; give a file with video,split,label, or draw a split at random"
            )
        return given
    parts = known.halves(sources, truth)
    labels = {name: t.label for name, t in truth.items() if name in parts and t.label != UNKNOWN}
    return Split("official", parts, labels, f"{known.title}, its own halves")


def select(sources: list[Source], patterns: tuple[str, ...]) -> list[Source]:
    """The sources whose name equals or matches (as a shell glob) one of ``patterns``; all if none.

    Raises:
        DatasetError: a pattern that matches nothing.
    """
    from fnmatch import fnmatchcase

    if not patterns:
        return sources
    for pattern in patterns:
        if not any(fnmatchcase(s.name, pattern) or s.name == pattern for s in sources):
            some = ", ".join(s.name for s in sources[:5])
            raise DatasetError(
                f"--videos {pattern!r} matches none of the {len(sources)} videos ({some}, ...)"
            )
    return [s for s in sources if any(fnmatchcase(s.name, p) or s.name == p for p in patterns)]
