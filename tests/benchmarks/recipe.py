"""A worker against the plain recipe that people use: the same video, networks and threads.

    python -m tests.benchmarks.recipe [--backbones swin r3d ...] [--clips 2] [--rounds 1]
        [--size 640x360]

The recipe, written out below as it is found in many repositories: frames of a video to JPEG files
(by ffmpeg where it is installed, else decoded by PyAV and saved by PIL), opened with PIL, resized
and ten-cropped by torchvision, and for each network ten passes of one crop through torch eager in
float32; one video at a time. Ours is a worker of `fs-submit extract` with as many threads, from the
same video to the store, with what `auto` chooses.

Seconds a clip of both, with networks that are built already, in turn for each network. "together"
is the sum: ours would decode and resize once for all. To reach: 2.0 times with AVX2, 4 with
bfloat16 instructions.
Weights are random: they cost the same. Run it with nothing else running; nothing here fails.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

import av
import torch
from PIL import Image

from featurestore.clips import CLIP_FRAMES
from featurestore.schema import BACKBONES
from jobs import processor, sample
from jobs.backbones._torchvision import torchvision
from jobs.making import choice_text
from jobs.worker import build_networks, extract_clips
from tests.benchmarks.extract import THREADS, chosen
from tests.benchmarks.worker import begin_as_a_worker, planned

PRESETS = {  # resize, crop, mean, std: as published
    "swin": (256, 224, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "r3d": ((128, 171), 112, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "r2plus1d": ((128, 171), 112, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "s3d": ((256, 256), 224, (0.43216, 0.394666, 0.37645), (0.22803, 0.22145, 0.216989)),
    "i3d": (256, 224, (0.45, 0.45, 0.45), (0.225, 0.225, 0.225)),
}


def plain_network(name: str) -> torch.nn.Module:
    """As torchvision and pytorchvideo give it, its classifier left out."""
    if name == "i3d":
        from pytorchvideo.models.hub import i3d_r50

        network = i3d_r50(pretrained=False)
        network.blocks[-1].proj = torch.nn.Identity()
        return network.eval()
    builder = {"swin": "swin3d_b", "r3d": "r3d_18", "r2plus1d": "r2plus1d_18", "s3d": "s3d"}[name]
    network = getattr(torchvision.models.video, builder)()
    head = {"swin": "head", "s3d": "classifier"}.get(name, "fc")
    setattr(network, head, torch.nn.Identity())
    return network.eval()


def to_jpeg(video: Path, folder: Path) -> str:
    """Frames of ``video`` as JPEG files; returns by what."""
    folder.mkdir()
    if ffmpeg := shutil.which("ffmpeg"):
        words = [ffmpeg, "-loglevel", "error", "-i", video, "-q:v", "2", folder / "%06d.jpg"]
        subprocess.run([*map(str, words)], check=True)
        return "ffmpeg"
    with av.open(str(video)) as container:
        for i, frame in enumerate(container.decode(video=0), 1):
            frame.to_image().save(folder / f"{i:06d}.jpg", quality=95)
    return "PyAV and PIL"


def plain_clip(
    files: list[Path], network: torch.nn.Module, name: str, device: str = "cpu"
) -> torch.Tensor:
    """16 image files -> (10, channels)."""
    transforms = torchvision.transforms
    resize, crop, mean, std = PRESETS[name]
    prepare = transforms.Compose([transforms.Resize(resize), transforms.TenCrop(crop)])
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])
    frames = []
    for file in files:
        with Image.open(file) as image:
            frames.append(torch.stack([to_tensor(c) for c in prepare(image.convert("RGB"))]))
    crops = torch.stack(frames, dim=2)  # (10, 3, 16, h, w)
    with torch.no_grad():
        return torch.cat([network(one[None].to(device)).flatten(1).cpu() for one in crops])


def recipe(
    videos: Path, folder: Path, networks: dict[str, torch.nn.Module], device: str = "cpu"
) -> tuple[float, str]:
    """Seconds for all of ``videos``, one network after the other, and how frames were written."""
    began = time.perf_counter()
    by = ""
    for video in sorted(videos.glob("*.mp4")):
        by = to_jpeg(video, folder / video.stem)
        files = sorted((folder / video.stem).glob("*.jpg"))
        for name, network in networks.items():
            rows = [
                plain_clip(files[i : i + 16], network, name, device)
                for i in range(0, len(files), 16)
            ]
            torch.save(torch.stack(rows), folder / f"{video.stem}_{name}.pt")
        shutil.rmtree(folder / video.stem)
    return time.perf_counter() - began, by


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbones", nargs="+", default=list(BACKBONES), choices=BACKBONES)
    parser.add_argument("--clips", type=int, default=2, help="of 16 frames")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--size", default="640x360", metavar="WxH")
    asked = parser.parse_args()
    begin_as_a_worker()
    width, height = map(int, asked.size.split("x"))
    torch.set_num_threads(THREADS)
    print(f"{processor.name()}, {THREADS} threads, torch {torch.__version__}")
    print(f"{asked.clips} clips of {asked.size}; ours {choice_text(chosen())}")
    frames = CLIP_FRAMES * asked.clips
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        videos = sample.write(folder / "sample", sample.Recipe(2, frames, width, height))
        (videos / "abnormal_01.mp4").unlink()
        print(f"   {'s a clip':<12}{'recipe':>9}{'ours':>9}{'times':>8}")
        totals = []
        for round_ in range(asked.rounds):
            taken = {}
            for name in asked.backbones:
                tasks, setup = planned(
                    folder / f"{name}{round_}.zarr", videos / "normal_01.mp4", frames, [name],
                    chosen(), threads=THREADS, clips_per_task=asked.clips,
                )  # fmt: skip
                build_networks(setup)
                networks = {name: plain_network(name)}
                plain, by = recipe(videos, folder, networks)
                began = time.perf_counter()
                for task in tasks:
                    extract_clips(task, setup)
                ours = time.perf_counter() - began
                taken[name] = plain / asked.clips, ours / asked.clips
                line(name, *taken[name])
            totals.append(tuple(map(sum, zip(*taken.values(), strict=True))))
            line("together", *totals[-1])
    print(f"   frames to JPEG by {by}; median of {asked.rounds} round(s): "
          f"{statistics.median(slow / fast for slow, fast in totals):.2f} times")  # fmt: skip


def line(name: str, plain: float, ours: float) -> None:
    print(f"   {name:<12}{plain:>9.2f}{ours:>9.2f}{plain / ours:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
