"""Time against the number of clips, the length of a video, and the size of blocks.

    python -m tests.benchmarks.growth [--backbone timm:test_resnet.r160_in1k] [--rounds 1]
        [--clips 10 40 160] [--frames 20000] [--blocks 32 256]

1. Whole commands over one video of 10, 40 and 160 clips: seconds, the line fitted to them (start-up
   and seconds a clip), and how far each is from it.
2. One video of 20,000 frames against a hundred of 200 frames, in stores of several block sizes:
   seconds a clip, start-up (of 1) taken out, over the first. To reach: within 5%.

Without networks worth the name, so that everything else shows; `--backbone s3d` takes an hour.
Weights are random: they cost the same. Run it with nothing else running; nothing here fails.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from pathlib import Path

import numpy as np

from featurestore.clips import CLIP_FRAMES, clip_count
from featurestore.store import create
from jobs import processor
from jobs.making import choice_text
from tests.benchmarks.extract import THREADS, chosen, command, opened
from tests.jobs.video.painted import write_video

SHORT = 200  # frames
SIZE = (320, 240)


def line(folder: Path, backbone: str, counts: list[int], rounds: int) -> float:
    """Prints the first table; returns the seconds of start-up."""
    print(f"\n1. one video of so many clips, {backbone}")
    print(f"   {'clips':>8}{'seconds':>10}{'line':>10}{'off by':>9}")
    taken = []
    for count in counts:
        root = folder / f"{count}"
        root.mkdir()
        write_video(root / "video.mp4", count * CLIP_FRAMES, size=SIZE)
        names = [f"clips{count}_{i}" for i in range(rounds)]
        taken.append(statistics.median(command(folder, root, backbone, name) for name in names))
    # By relative errors: the longest run would draw the line alone
    weights = 1 / np.array(taken)
    slope, start = np.polyfit(counts, taken, 1, w=weights)
    for count, seconds in zip(counts, taken, strict=True):
        fitted = start + slope * count
        print(f"   {count:>8}{seconds:>10.2f}{fitted:>10.2f}{seconds / fitted - 1:>9.1%}")
    print(f"   start-up {start:.2f} s, {slope:.4f} s a clip")
    return float(start)


def shapes(
    folder: Path, backbone: str, frames: int, blocks: list[int], rounds: int, start: float
) -> None:
    many = frames // SHORT
    print(f"\n2. {frames} frames of {SIZE[0]}x{SIZE[1]}, seconds a clip without start-up")
    print(f"   {'block':>8}{'one video':>12}{f'{many} videos':>14}{'over the first':>24}")
    long, short = folder / "long", folder / "short"
    for root in (long, short):
        root.mkdir()
    write_video(long / "video.mp4", frames, size=SIZE)
    for i in range(many):
        write_video(short / f"{i:04d}.mp4", SHORT, size=SIZE)
    clips = {long: clip_count(frames), short: many * clip_count(SHORT)}
    first = 0.0
    for block in blocks:
        row = []
        for root in (long, short):
            taken = []
            for i in range(rounds):
                name = f"{root.name}_{block}_{i}"
                create(folder / f"{name}.zarr", dataset=name, block=block)
                taken.append(command(folder, root, backbone, name))
            row.append((statistics.median(taken) - start) / clips[root])
        first = first or row[0]
        over = "".join(f"{each / first:>12.3f}" for each in row)
        print(f"   {block:>8}{row[0]:>12.4f}{row[1]:>14.4f}{over}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="timm:test_resnet.r160_in1k")
    parser.add_argument("--clips", type=int, nargs="+", default=[10, 40, 160])
    parser.add_argument("--frames", type=int, default=20_000, help="0: only the first table")
    parser.add_argument("--blocks", type=int, nargs="+", default=[32, 256])
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    print(f"{processor.name()}, {THREADS} threads, {choice_text(chosen())}")
    opened(asked.backbone, chosen())  # converted, if it was not
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        start = line(folder, asked.backbone, asked.clips, asked.rounds)
        if asked.frames:
            shapes(folder, asked.backbone, asked.frames, asked.blocks, asked.rounds, start)


if __name__ == "__main__":
    main()
