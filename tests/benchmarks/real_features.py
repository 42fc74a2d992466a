"""What the detectors reach on real features of people's datasets.

    FS_SHARED_DATA=DIR python -m tests.benchmarks.real_features [--detectors density,ratio,...]
                                                                [--splits 20] [--only ped2|shanghai]

Ped2: ten-crop features of a small network, weak splits of 6 abnormal and 4 normal training videos
(the sizes of both published splits), drawn at random, and the published ones. ShanghaiTech: I3D
features of 126 training videos in 32 segments each, five-fold cross-validation over videos. Frame
AUC over all test frames, pooled inside abnormal videos, and the mean of each abnormal video's own.
Normal training videos of ShanghaiTech count as 803 frames each, the mean of the normal test
videos': their own lengths are not among the data.
"""

from __future__ import annotations

import argparse
import csv
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector import METHODS, Detector
from detector.curves import auc, count

# Frames of the training videos of UCSD Ped2 (those of the test videos are those of the masks).
PED2_TRAIN_FRAMES = (120, 150, 150, 180, 180, 150, 150, 120, 180, 180, 180, 180, 180, 150, 150, 150)
SHANGHAI_NORMAL_FRAMES = 803


@dataclass(frozen=True)
class Video:
    """A video's features (clips, channels), label, and ground truth of its frames."""

    name: str
    features: np.ndarray
    label: int
    frame_labels: np.ndarray
    clip_frames: np.ndarray  # the clip of each frame


@dataclass(frozen=True)
class Areas:
    """AUC of all frames, pooled inside abnormal videos, mean of abnormal videos; AUC of videos."""

    frames: float
    inside: float
    inside_mean: float
    videos: float

    def __str__(self) -> str:
        values = (self.frames, self.inside, self.inside_mean, self.videos)
        return "  ".join(f"{100 * value:6.2f}" for value in values)


def ped2(data: Path) -> list[Video]:
    """All 28 videos."""
    folder = data / "features" / "ped2_movinet_a0_10crop"
    text = (data / "ped2" / "UCSDped2.m").read_text()
    spans = [tuple(map(int, span)) for span in re.findall(r"\[(\d+):(\d+)\]", text)]
    masks = np.load(data / "ped2" / "masks.npz")
    videos = []
    for path in sorted(folder.glob("*.npy")):
        name, number = path.stem, int(path.stem[-3:]) - 1
        abnormal = name.startswith("Test")
        frames = len(masks[name]) if abnormal else PED2_TRAIN_FRAMES[number]
        labels = np.zeros(frames, int)
        if abnormal:
            labels[spans[number][0] - 1 : spans[number][1]] = 1
        features = np.load(path).mean(axis=1, dtype=np.float64)
        videos.append(Video(name, features, int(abnormal), labels, np.arange(frames) // 16))
    return videos


def shanghai(data: Path) -> list[Video]:
    """The 126 training videos that there are."""
    stored = np.load(data / "features" / "shanghaitech_i3d_32seg_train126.npz")
    masks = np.load(data / "labels" / "shanghaitech_test_frame_mask.npz")
    videos = []
    for name, label, features in zip(
        stored["videos"].tolist(), stored["label"].tolist(), stored["features"], strict=True
    ):
        labels = masks[name].astype(int) if label else np.zeros(SHANGHAI_NORMAL_FRAMES, int)
        segment = np.arange(len(labels)) * 32 // len(labels)
        videos.append(Video(name, features.astype(np.float64), label, labels, segment))
    return videos


def random_splits(videos: Sequence[Video], number: int) -> Iterator[set[str]]:
    """Names of 6 abnormal and 4 normal training videos, `number` times."""
    for seed in range(number):
        rng = np.random.default_rng(seed)
        yield {
            str(name)
            for label, size in ((1, 6), (0, 4))
            for name in rng.choice([v.name for v in videos if v.label == label], size, False)
        }


def folds(videos: Sequence[Video], number: int = 5) -> Iterator[set[str]]:
    """Names of the training videos of each fold."""
    rng = np.random.default_rng(0)
    its = {}
    for label in (0, 1):
        names = [v.name for v in videos if v.label == label]
        its |= {names[i]: place % number for place, i in enumerate(rng.permutation(len(names)))}
    for fold in range(number):
        yield {name for name, own in its.items() if own != fold}


def published(data: Path, name: str) -> set[str]:
    """Names of the training videos of a published split."""
    with (data / "splits" / f"{name}.csv").open() as file:
        return {row["video"] for row in csv.DictReader(file) if row["split"] == "train"}


def measure(detector: Detector, videos: Sequence[Video], train: set[str]) -> Areas:
    """Fits to the training videos, scores the others."""
    seen = [video for video in videos if video.name in train]
    detector.fit(*stacked(seen), {video.name: video.label for video in seen})
    others = [video for video in videos if video.name not in train]
    x, names = stacked(others)
    scores = detector.score_samples(x, names)
    return areas(others, [scores[names == video.name] for video in others])


def areas(videos: Sequence[Video], scores: Sequence[np.ndarray]) -> Areas:
    """Of clip scores, an array a video."""
    frames = [s[video.clip_frames] for video, s in zip(videos, scores, strict=True)]
    labels = [video.frame_labels for video in videos]
    abnormal = [row for row, video in enumerate(videos) if video.label]

    def area(rows: Sequence[int]) -> float | None:
        return auc(
            count(
                np.concatenate([frames[row] for row in rows]),
                np.concatenate([labels[row] for row in rows]),
            )
        )

    own = [value for row in abnormal if (value := area([row])) is not None]
    whole, inside = area(range(len(videos))), area(abnormal)
    of_videos = auc(
        count(np.array([s.max() for s in scores]), np.array([video.label for video in videos]))
    )
    assert whole is not None
    assert inside is not None
    assert of_videos is not None
    return Areas(whole, inside, float(np.mean(own)), of_videos)


def stacked(videos: Sequence[Video]) -> tuple[np.ndarray, np.ndarray]:
    """All clips, and each clip's video."""
    names = np.repeat([video.name for video in videos], [len(v.features) for v in videos])
    return np.concatenate([video.features for video in videos]), names


def mean(each: Sequence[Areas]) -> tuple[Areas, Areas]:
    """Mean and standard deviation (of the sample)."""
    table = np.array([(a.frames, a.inside, a.inside_mean, a.videos) for a in each])
    return Areas(*table.mean(axis=0)), Areas(*table.std(axis=0, ddof=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--detectors", default=",".join(METHODS))
    parser.add_argument("--splits", type=int, default=20)
    parser.add_argument("--only", choices=["ped2", "shanghai"])
    asked = parser.parse_args()
    data = Path(os.environ["FS_SHARED_DATA"])
    names = asked.detectors.split(",")
    heading = f"{'':14}frames  inside  each    videos"
    if asked.only != "shanghai":
        videos = ped2(data)
        print(f"Ped2, {asked.splits} random splits: mean and standard deviation\n{heading}")
        for name in names:
            its = random_splits(videos, asked.splits)
            found, spread = mean([measure(Detector(name), videos, train) for train in its])
            print(f"{name:<13}{found}\n{'':<13}{spread}", flush=True)
        for split in ("ped2_weak_FatemeBameri_s6", "ped2_weak_TEVAD"):
            print(f"Ped2, {split}\n{heading}")
            for name in names:
                found = measure(Detector(name), videos, published(data, split))
                print(f"{name:<13}{found}", flush=True)
    if asked.only != "ped2":
        videos = shanghai(data)
        perfect = areas(videos, [np.full(len(v.features), float(v.label)) for v in videos])
        print(f"ShanghaiTech, five folds: mean\n{heading}\nvideo labels {perfect}")
        for name in names:
            found, _ = mean([measure(Detector(name), videos, train) for train in folds(videos)])
            print(f"{name:<13}{found}", flush=True)


if __name__ == "__main__":
    main()
