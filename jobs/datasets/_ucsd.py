"""UCSD pedestrians (Mahadevan et al. 2010): what Ped1 and Ped2 have in common.

Videos are called ``Train001`` ... and ``Test001`` ..., in whichever layout they lie. Ground truth
of single frames has up to three sources, the first of which that is there is used, and compared
with the others:

1. ``UCSDpedN.m``: intervals of all testing videos in order, counted from 1, both ends included;
2. ``TestNNN_gt``: a mask a frame (``001.bmp`` or ``frame001.bmp``: the name's number counts);
3. ``pedN.mat``, which comes with the ``training/frames`` layout: intervals again, but other ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from featurestore.errors import DatasetError, UsageError
from featurestore.labels import ABNORMAL, Truth
from featurestore.splits import TEST, TRAIN
from jobs.datasets._contract import (
    GroundTruth,
    check_length,
    frame_truth,
    marked,
    normal_truth,
    published,
    spans,
)
from jobs.datasets._layout import Pattern, arrange, bases, frame_size, visible
from jobs.datasets._matlab import cells
from jobs.video import Source

Intervals = Sequence[tuple[int, int]]

LICENCE = "none stated; offered for research by UCSD's Statistical Visual Computing Lab"
CITATION = "Mahadevan, Li, Bhalodia, Vasconcelos: Anomaly Detection in Crowded Scenes. CVPR 2010"
WHERE = ("http://www.svcl.ucsd.edu/projects/anomaly/dataset.htm",)
LAYOUT = """\
  ROOT/Train/Train001/001.tif ...      official; or in ROOT/UCSD_Anomaly_Dataset.v1p2/UCSDped{part}
  ROOT/Test/Test001/001.tif ...
  ROOT/Test/Test001_gt/001.bmp ...     masks: ground truth, not a video
  ROOT/Test/UCSDped{part}.m                 ground truth as intervals
or
  ROOT/training/frames/01/000.jpg ...  the layout that circulates; ground truth as above, in
  ROOT/testing/frames/01/000.jpg ...   Test, in testing or in ROOT itself"""

_PATTERNS: list[Pattern] = [
    (re.compile(r"Train/(Train\d+)|Test/(Test\d+)"), "frames", lambda m: m[1] or m[2]),
    (
        re.compile(r"(training|testing)/frames/(?:Train|Test)?(\d+)", re.IGNORECASE),
        "frames",
        lambda m: f"{'Train' if m[1].lower() == 'training' else 'Test'}{int(m[2]):03d}",
    ),
]
# Where ground truth may lie, from the folder that holds Train and Test.
_PLACES = ("Test", "testing", "testing/frames", ".")
_ENTRY = re.compile(r"TestVideoFile\s*\{([^}]*)\}\s*\.\s*gt_frame\s*=\s*\[([^\]]*)\]")
_NUMBERS = re.compile(r"(\d+)(?:\s*:\s*(\d+))?")


def inside(part: int) -> tuple[str, ...]:
    """What the official archive unpacks to; a user may name any of these as the root."""
    return (f"UCSDped{part}", f"UCSD_Anomaly_Dataset.v1p2/UCSDped{part}")


def scan(part: int, root: Path) -> list[Source]:
    """The frame folders below ``root``: ``Test001`` ... ``Train001`` ...; masks are left out."""
    return arrange(root, inside(part), _PATTERNS)


def halves(sources: Sequence[Source], truth: Mapping[str, Truth]) -> dict[str, int]:
    """The official halves: what is called Train trains."""
    return {s.name: TRAIN if s.name.startswith("Train") else TEST for s in sources}


def truths(part: int, masked: bool, root: Path, labels_file: Path | None) -> GroundTruth:
    """The ground truth below ``root``, or in ``labels_file`` (a ``.m`` or ``.mat`` file).

    ``masked``: every testing video has masks, so that one without them lacks something.
    """
    sources = {s.name: s for s in scan(part, root)}
    places = [base / place for base in bases(root, inside(part)) for place in _PLACES]
    script = _file(places, f"UCSDped{part}.m")
    matrix = _file(places, f"ped{part}.mat")
    if labels_file is not None:
        if labels_file.suffix not in (".m", ".mat"):
            raise UsageError(
                f"{labels_file}: labels of Ped{part} are a UCSDped{part}.m or a .mat file"
            )
        script, matrix = (labels_file, None) if labels_file.suffix == ".m" else (None, labels_file)
    tables = [(p, read(p)) for p, read in ((script, read_script), (matrix, read_matrix)) if p]
    masks = {
        name: folder
        for name, source in sources.items()
        if name.startswith("Test") and (folder := _mask_folder(places, source)) is not None
    }
    read = partial(_truth, sources, tables, masks, bool(masks) and masked)
    found = [path.name for path, _ in tables[:1]]
    found += [f"masks of {len(masks)} videos"] if masks else []
    found += [path.name for path, _ in tables[1:]]
    return GroundTruth(read, ", ".join(found), _orphans(places, masks, sources, tables))


def _truth(
    sources: Mapping[str, Source],
    tables: Sequence[tuple[Path, Sequence[Intervals]]],
    masks: Mapping[str, Path],
    all_masked: bool,
    video: str,
    frames: int,
    damaged: bool,
) -> Truth:
    if video not in sources:
        raise DatasetError(f"{video} is not there any more, so its ground truth cannot be told")
    if video.startswith("Train"):
        return normal_truth(video, frames, "all training videos are normal")
    number = int(video.removeprefix("Test"))
    known: list[tuple[Path, NDArray[np.bool_]]] = []
    if video in masks:
        flags = read_masks(masks[video], frame_size(sources[video]), frames, damaged)
        check_length(video, len(flags), frames, damaged, str(masks[video]))
        known.append((masks[video], flags))
    for path, entries in tables:
        if number > len(entries):
            raise DatasetError(
                f"{path}: has {len(entries)} entries, none for {video}; fetch the file again"
            )
        end = marked(entries[number - 1]) if damaged else 0
        # Masks know the true length of a damaged video.
        length = len(known[0][1]) if known else max(frames, end)
        flags = published(video, entries[number - 1], length, f"{path}, entry {number}")
        known.insert(0 if path.suffix == ".m" else len(known), (path, flags))
    if not known:
        if all_masked:
            raise DatasetError(
                f"{video}: no masks {video}_gt, though other videos have theirs; fetch the ground "
                "truth again"
            )
        remark = "its anomalous frames are not known: neither a .m file nor masks were found"
        return Truth(video, ABNORMAL, None, "all testing videos are abnormal", remark)
    used, flags = known[0]
    remarks = []
    for path, other in known[1:]:
        if (differ := flags != other).any():
            remarks.append(
                f"{used.name} and {path.name} disagree in {differ.sum()} frames ({spans(differ)}, "
                f"counted from 0); {used.name} was used"
            )
    return frame_truth(video, flags, frames, damaged, str(used), "; ".join(remarks))


def read_script(path: Path) -> list[list[tuple[int, int]]]:
    """The entries of a ``UCSDpedN.m``, in order: intervals counted from 1, both ends included.

    Raises:
        DatasetError: it cannot be read, or is not such a file.
    """
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise DatasetError(f"{path}: cannot be read ({error.strerror})") from error
    text = "\n".join(line.split("%")[0] for line in text.splitlines())
    entries: list[list[tuple[int, int]]] = []
    for index, content in _ENTRY.findall(text):
        rest = _NUMBERS.sub("", content).replace(",", "").strip()
        if rest or index.replace(" ", "") not in ("end+1", str(len(entries) + 1)):
            raise DatasetError(
                f"{path}: entry {len(entries) + 1} is not understood: TestVideoFile{{{index}}}"
                f".gt_frame = [{content}]; expected as in {{end+1}}.gt_frame = [5:90, 140:200]"
            )
        runs = [(int(a), int(b or a)) for a, b in _NUMBERS.findall(content)]
        entries.append(runs)
    if not entries:
        raise DatasetError(f"{path}: no line TestVideoFile{{end+1}}.gt_frame = [...] in it")
    return entries


def read_matrix(path: Path) -> list[list[tuple[int, int]]]:
    """The entries of a ``pedN.mat``: its cells ``gt``, a column (first, last) an interval.

    Raises:
        DatasetError: it cannot be read, or is not such a file.
    """
    entries = cells(path, "gt")
    if wrong := next((e.shape for e in entries if e.ndim != 2 or len(e) != 2), None):
        raise DatasetError(f"{path}: a cell of gt should be 2 x N frames, but is {wrong}")
    return [[(int(first), int(last)) for first, last in entry.T] for entry in entries]


def read_masks(
    folder: Path, size: tuple[int, int] | None, frames: int, damaged: bool
) -> NDArray[np.bool_]:
    """One flag a mask of a folder, in the order of their numbers: is any pixel set?

    Raises:
        DatasetError: a mask is missing, cannot be read, or is not of ``size`` (height, width).
    """
    numbered: dict[int, Path] = {}
    for file in visible(folder, "*.bmp"):
        number = re.search(r"(\d+)\D*$", file.stem)
        if number is None or int(number[1]) in numbered:
            why = "has no number" if number is None else "has the number of another one"
            raise DatasetError(f"{file}: this mask {why}; which frame it belongs to is not clear")
        numbered[int(number[1])] = file
    first = min(1, *numbered)
    expected = max(frames, len(numbered)) if damaged else frames
    if absent := [n for n in range(first, first + expected) if n not in numbered]:
        numbers = ", ".join(str(n) for n in absent[:5]) + (" ..." if len(absent) > 5 else "")
        raise DatasetError(
            f"{folder}: {len(numbered)} masks for {frames} frames, number {numbers} missing; fetch "
            "the masks again"
        )
    flags = np.zeros(len(numbered), np.bool_)
    for i, (_, file) in enumerate(sorted(numbered.items())):
        try:
            with Image.open(file) as mask:
                pixels = np.asarray(mask.convert("L"))
        except (OSError, ValueError, SyntaxError) as error:
            raise DatasetError(f"{file}: this mask cannot be read ({error})") from error
        if size is not None and pixels.shape != size:
            raise DatasetError(
                f"{file}: a mask of {pixels.shape[1]}x{pixels.shape[0]} pixels, but the frames "
                f"are {size[1]}x{size[0]}"
            )
        flags[i] = pixels.any()
    return flags


def _file(places: Sequence[Path], name: str) -> Path | None:
    return next((place / name for place in places if (place / name).is_file()), None)


def _mask_folder(places: Sequence[Path], source: Source) -> Path | None:
    for place in places:
        for name in (f"{source.name}_gt", f"{source.path.name}_gt"):
            if (place / name).is_dir() and visible(place / name, "*.bmp"):
                return place / name
    return None


def _orphans(
    places: Sequence[Path],
    masks: Mapping[str, Path],
    sources: Mapping[str, Source],
    tables: Sequence[tuple[Path, Sequence[Intervals]]],
) -> tuple[str, ...]:
    """Mask folders and entries of testing videos that are not there."""
    folders = {p for place in places for p in place.glob("*_gt") if p.is_dir()}
    lone = [str(p) for p in sorted(folders - set(masks.values()))]
    for path, entries in tables:
        absent = [n for n in range(1, len(entries) + 1) if f"Test{n:03d}" not in sources]
        lone += [f"{path}, entry {n}" for n in absent]
    return tuple(lone)
