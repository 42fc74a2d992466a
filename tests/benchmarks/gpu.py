"""The networks on a CUDA device, against the card's own peak and against the plain recipe there.

    python -m tests.benchmarks.gpu [--backbones swin r3d ...] [--precisions float16 bfloat16]
        [--clips 32] [--rounds 5] [--size 1280x720]

Needs torch, torchvision, pytorchvideo and this package (with what it depends on), and one card.

1. networks: for each precision and network ten-crop clips a second with the crops of four clips at
   a time on the card, the share of the card's matrix rate in that precision (measured in the same
   run), the least cosine to float32 on the same crops of real frames, and the peak of memory.
2. end to end: a worker's whole way from an H.264 video to the store, all of --backbones: clips/s,
   shares of the time, and the share of it in which the card was busy (any kernel running).
3. the plain recipe (tests.benchmarks.recipe: JPEG files, PIL, ten serial passes of one crop in
   float32, with TF32 as torch has it by default) on the same card and video: seconds a clip.

Weights are random: they cost the same. Without a CUDA device it says so and ends.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from featurestore.schema import BACKBONES
from jobs import sample
from jobs.crops import resize, ten_crops
from jobs.engines import Choice
from jobs.estimate import CROPS, clip_cost
from jobs.matrix import matrix_rate
from jobs.reading import ClipReader
from jobs.specs import spec_of
from jobs.worker import CLIPS_PER_BATCH, build_networks, extract_clips
from tests.benchmarks.extract import opened, seconds
from tests.benchmarks.recipe import plain_network, recipe
from tests.benchmarks.worker import planned


def crops_of_frames(name: str, video: Path, clips: int) -> torch.Tensor:
    """The crops of the first ``clips`` clips of a video, on the card: uint8."""
    preprocessing = spec_of(name).preprocessing
    reader = ClipReader(str(video), 16 * clips, "pyav")
    try:
        frames = [
            [torch.from_numpy(frame).cuda() for frame in reader.clip(16 * i)] for i in range(clips)
        ]
    finally:
        reader.close()
    resized = [resize(clip, preprocessing.geometry) for clip in frames]
    return torch.stack([crop for r in resized for crop in ten_crops(r, preprocessing.crop)])


def least_cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return float(((a * b).sum(1) / lengths).min())


def networks(backbones: list[str], precisions: list[str], video: Path, rounds: int) -> None:
    batch = CLIPS_PER_BATCH["cuda"]
    for precision in precisions:
        matrix = matrix_rate("cuda", precision)
        print(
            f"\n1. {precision}: matrix product {matrix / 1000:.1f} TFLOP/s; {batch} clips a batch"
        )
        print(f"   {'network':<12}{'clips/s':>9}{'TFLOP/s':>9}{'share':>8}{'cosine':>10}{'GB':>7}")
        work = spent = 0.0
        for name in backbones:
            crops = crops_of_frames(name, video, batch)
            expected = opened(name, Choice("torch", "float32", "cuda")).features(crops)
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            network = opened(name, Choice("torch", precision, "cuda"))
            cosine = least_cosine(network.features(crops), expected)
            clip = seconds(partial(network.features, crops), rounds) / batch
            memory = torch.cuda.max_memory_allocated() / 1e9
            gflop = CROPS * spec_of(name).gflop
            work, spent = work + gflop, spent + clip
            print(f"   {name:<12}{1 / clip:>9.2f}{gflop / clip / 1000:>9.1f}"
                  f"{gflop / clip / matrix:>8.2f}{cosine:>10.5f}{memory:>7.2f}")  # fmt: skip
            del network, crops
            torch.cuda.empty_cache()
        print(f"   {'together':<12}{1 / spent:>9.2f}{work / spent / 1000:>9.1f}"
              f"{work / spent / matrix:>8.2f}")  # fmt: skip


def busy_share(events: list[tuple[float, float]], wall: float) -> float:
    """Share of ``wall`` seconds that lies in any of the spans (start, end), in microseconds."""
    busy, reached = 0.0, float("-inf")
    for start, end in sorted(events):
        busy += max(0.0, end - max(start, reached))
        reached = max(reached, end)
    return busy / 1e6 / wall


def end_to_end(
    backbones: list[str], precision: str, video: Path, frames: int, folder: Path
) -> float:
    """Prints one line; returns seconds a clip."""
    choice = Choice("torch", precision, "cuda")
    tasks, setup = planned(
        folder / f"{precision}.zarr", video, frames, backbones, choice,
        threads=torch.get_num_threads(), clips_per_task=32,
    )  # fmt: skip
    clips = sum(task.clips for task in tasks)
    build_networks(setup)
    extract_clips(tasks[0], setup)  # the first kernels are loaded and chosen
    began = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA], acc_events=True) as profiled:
        results = [extract_clips(task, setup) for task in tasks]
        torch.cuda.synchronize()
    wall = time.perf_counter() - began
    spans = [
        (event.time_range.start, event.time_range.end)
        for event in profiled.events() or ()
        if event.device_type == DeviceType.CUDA
    ]
    spent: dict[str, float] = {}
    for result in results:
        for part, value in result.seconds.items():
            spent[part] = spent.get(part, 0.0) + value
    total = sum(spent.values())
    shares = ", ".join(f"{part} {value / total:.0%}" for part, value in spent.items())
    reached = clips * sum(clip_cost(setup.specs).values()) / wall
    print(f"   {precision:<10}{clips / wall:>8.2f} clips/s, {reached / 1000:.1f} TFLOP/s; "
          f"card busy {busy_share(spans, wall):.0%} ({shares})")  # fmt: skip
    return wall / clips


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=BACKBONES)
    parser.add_argument("--precisions", nargs="+", default=["float16", "bfloat16"])
    parser.add_argument("--clips", type=int, default=32, help="of the end-to-end run; at least 4")
    parser.add_argument("--plain-clips", type=int, default=4, help="of the plain recipe")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--size", default="1280x720", metavar="WxH")
    asked = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("no CUDA device here: nothing was measured (torch.cuda.is_available() is false)")
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}, CUDA {torch.version.cuda}")
    width, height = map(int, asked.size.split("x"))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        frames = 16 * max(CLIPS_PER_BATCH["cuda"], asked.clips)
        videos = sample.write(folder / "sample", sample.Recipe(2, frames, width, height))
        video = videos / "normal_01.mp4"
        networks(asked.backbones, asked.precisions, video, asked.rounds)
        print(f"\n2. {frames // 16} clips of {asked.size}, end to end in one worker")
        ours = [
            end_to_end(asked.backbones, precision, video, frames, folder)
            for precision in asked.precisions
        ]
        recipe_on = sample.Recipe(2, 8 * asked.plain_clips, width, height)
        plain = {name: plain_network(name).cuda() for name in asked.backbones}
        root = sample.write(folder / "plain", recipe_on)
        taken = []
        for _ in range(2):  # the first one loads and chooses kernels
            took, by = recipe(root, folder, plain, "cuda")
            taken.append(took / asked.plain_clips)
        print(f"\n3. the plain recipe (JPEG by {by}): {taken[-1]:.2f} s a clip")
        for precision, each in zip(asked.precisions, ours, strict=True):
            print(f"   ours in {precision}: {each:.3f} s a clip, {taken[-1] / each:.1f} times")


if __name__ == "__main__":
    main()
