"""What a store holds: the nine feature arrays and their parts, and the tables. No I/O."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from featurestore.clips import CLIP_FRAMES
from featurestore.labels import ABNORMAL, NORMAL, UNKNOWN
from featurestore.splits import TEST, TRAIN, UNUSED

# 2: labels and splits, which grow with the table of videos. Stores of 1 have none until some are
# set.
LAYOUT_VERSION: Final = 2

# Every chunk of a fused array is byte for byte a chunk of one of its parts: this width divides
# the widths of all parts but the last of each fused array.
CHANNEL_CHUNK: Final = 512

# A name is a folder's name too, so it must not be able to lead out of the store.
_OTHER_MODEL: Final = re.compile(r"(timm|imported)_[A-Za-z0-9][A-Za-z0-9_.+-]*")

# Status arrays and the clips' tables: one read of a whole set is one small file.
CLIP_CHUNK: Final = 262_144
VIDEO_CHUNK: Final = 16_384
# Megabytes, next to nothing compressed. A split of a million videos is one chunk: it is replaced in
# one step.
FRAME_CHUNK: Final = 4_194_304
SPLIT_CHUNK: Final = 1_048_576

RUNS: Final = "scores"  # the group of runs

MISSING: Final = 0
DONE: Final = 1
FAILED: Final = 2

# The order of torchvision's TenCrop: five crops of the frame, then the same five positions of the
# mirrored frame (so `top_left_mirrored` shows what lies at the top right, mirrored).
_POSITIONS: Final = ("top_left", "top_right", "bottom_left", "bottom_right", "center")
CROPS: Final[tuple[str, ...]] = _POSITIONS + tuple(f"{name}_mirrored" for name in _POSITIONS)


@dataclass(frozen=True)
class Features:
    """One of the nine feature arrays. `parts` is empty for a backbone's own features."""

    name: str
    channels: int
    parts: tuple[str, ...]
    long_name: str
    description: str


def _backbone(name: str, channels: int, network: str) -> Features:
    return Features(
        name,
        channels,
        (),
        f"{network} features",
        f"Pooled output of {network} before its classifier, for each clip of "
        f"{CLIP_FRAMES} frames and each of ten crops.",
    )


def _fused(first: Features, second: Features) -> Features:
    return Features(
        f"{first.name}_{second.name}",
        first.channels + second.channels,
        (first.name, second.name),
        f"{first.long_name} and {second.long_name}",
        f"Channels 0 to {first.channels - 1} are {first.name}, the rest is {second.name}; "
        "the same values, stored once where the disk can make links.",
    )


_SWIN = _backbone("swin", 1024, "Video Swin Transformer (base)")
_OTHERS = (
    _backbone("r3d", 512, "R3D-18"),
    _backbone("r2plus1d", 512, "R(2+1)D-18"),
    _backbone("s3d", 1024, "S3D"),
    _backbone("i3d", 2048, "I3D (ResNet-50)"),
)

FEATURES: Final[dict[str, Features]] = {
    features.name: features
    for features in (_SWIN, *_OTHERS, *(_fused(_SWIN, other) for other in _OTHERS))
}
BACKBONES: Final = tuple(name for name, features in FEATURES.items() if not features.parts)
FUSED: Final = tuple(name for name, features in FEATURES.items() if features.parts)


def parts_of(name: str) -> tuple[str, ...]:
    """The backbones whose features an array is made of; a backbone is its own only part."""
    features = FEATURES.get(name)
    return features.parts if features and features.parts else (name,)


def status_of(backbone: str) -> str:
    """Name of the array that says which clips of a backbone are done."""
    return f"status_{backbone}"


def is_array_name(name: str) -> bool:
    """Whether an array of this name in a store's root would be one of ours."""
    tables = (*CLIP_TABLE, *SEGMENT_TABLE, *VIDEO_TABLE, *LABEL_TABLE, "split", "crop")
    return name in tables or is_features_name(name.removeprefix("status_"))


def is_written_whole(name: str) -> bool:
    """Whether an array of a table is written as it grows; others are left to the fill value.

    What a killed run left beyond the end of those others has to be blanked.
    """
    return name in CLIP_TABLE | SEGMENT_TABLE | VIDEO_TABLE | LABEL_TABLE and name != "frame_label"


def is_features_name(name: str) -> bool:
    """One of the nine, or others': `timm_resnet50.a1_in1k`, and `imported_i3d` made elsewhere."""
    return name in FEATURES or _OTHER_MODEL.fullmatch(name) is not None


def block_clips(clips: int) -> int:
    """Clips a block for a set of about `clips` clips: a row of chunks, and one unit of work.

    A chunk of 512 channels takes 20 kB a clip. Four clips for the smallest sets: with all five
    networks a clip takes most of a minute of a small machine, so work is still shared, a kill
    loses little, and progress shows from the start. 32 (0.65 MB a chunk) up to 16,384 clips
    keeps the number of files under some thousands. 256 (5.2 MB) beyond: a million clips are
    about 4,000 blocks, which the next writer looks through in two seconds of processor time.
    """
    if clips <= 64:
        return 4
    return 32 if clips <= 16_384 else 256


@dataclass(frozen=True)
class Table:
    """One array of the tables: one value a clip, a video, a frame or a split."""

    dim: str
    dtype: str
    attributes: Mapping[str, object]


def _table(dim: str, dtype: str, long_name: str, **attributes: object) -> Table:
    return Table(dim, dtype, {"long_name": long_name, **attributes})


CLIP_TABLE: Final[dict[str, Table]] = {
    "clip_video": _table("clip", "int32", "row of the clip's video in the table of videos"),
    "clip_start": _table(
        "clip",
        "int64",
        "first frame of the clip",
        description=f"Number of a frame of its video, from 0; a clip is {CLIP_FRAMES} frames. "
        "Of a video shorter than that the last frame is repeated.",
        units="frames",
    ),
}

# Where clips are no runs of 16 frames (see Store.segments).
SEGMENT_TABLE: Final[dict[str, Table]] = {
    "clip_stop": _table(
        "clip",
        "int64",
        "frame after the last one of the clip",
        description="-1, like clip_start: the video's number of frames is not known.",
        units="frames",
    ),
}

# `mtime` has no units: xarray would take "s" for a duration. States: see STATES.
STATES: Final[dict[str, str]] = {
    "ok": "all frames could be read",
    "damaged": "breaks at a frame (see reason); the clips before it are there",
    "failed": "could not be read or computed (see reason)",
    "superseded": "the file was replaced; a later row of this name counts",
}
VIDEO_TABLE: Final[dict[str, Table]] = {
    "video": _table(
        "video",
        "string",
        "name of the video",
        description="One row a version of a file; of rows of one name the last one counts.",
    ),
    "path": _table("video", "string", "where the video was when it was last read"),
    "frames": _table(
        "video", "int64", "frames that could be decoded, in order of presentation", units="frames"
    ),
    "fps": _table(
        "video", "float64", "frame rate", description="NaN: not known", units="frames per second"
    ),
    "width": _table("video", "int32", "width as displayed", units="pixels"),
    "height": _table("video", "int32", "height as displayed", units="pixels"),
    "clip_offset": _table("video", "int64", "the video's first clip"),
    "clip_count": _table(
        "video",
        "int64",
        "number of the video's clips",
        description="Its clips are clip_offset to clip_offset + clip_count - 1.",
    ),
    "sha256": _table("video", "string", "SHA-256 of the file", description="Empty: not taken."),
    "size": _table("video", "int64", "size of the file", units="bytes"),
    "mtime": _table(
        "video", "float64", "time the file was last modified, in seconds after 1970-01-01 UTC"
    ),
    "state": _table(
        "video",
        "string",
        "state of the video",
        description="; ".join(f"{state}: {meaning}" for state, meaning in STATES.items()),
    ),
    "reason": _table("video", "string", "why the state is not ok"),
}

_LABEL_VALUES: Final = {
    "description": "0: normal, 1: abnormal, -1: unknown",
    "flag_values": [NORMAL, ABNORMAL, UNKNOWN],
    "flag_meanings": "normal abnormal unknown",
}
LABEL_TABLE: Final[dict[str, Table]] = {
    "label": Table("video", "int8", {"long_name": "label of the video", **_LABEL_VALUES}),
    "frame_offset": _table(
        "video",
        "int64",
        "the video's first frame in frame_label",
        description="Its frames are frame_offset to frame_offset + frames - 1.",
    ),
    "frame_label": Table(
        "frame",
        "int8",
        {
            "long_name": "label of the frame",
            **_LABEL_VALUES,
            "order": "frames as decoded, video after video as in the table of videos",
        },
    ),
    "split_name": _table("split_name", "string", "name of the split"),
}
SPLIT_ATTRIBUTES: Final[dict[str, object]] = {
    "long_name": "half of the split that the video is in",
    "description": "0: train, 1: test, -1: neither. Weakly supervised training uses `label` of "
    "the training videos, and nothing else of them.",
    "flag_values": [TRAIN, TEST, UNUSED],
    "flag_meanings": "train test neither",
}

CROP_ATTRIBUTES: Final[dict[str, object]] = {
    "long_name": "crop of the frame",
    "description": "Five squares of the resized frame, then the same five positions of the "
    "frame mirrored left to right.",
}
STATUS_ATTRIBUTES: Final[dict[str, object]] = {
    "description": "0: missing, 1: done, 2: failed (see the video's reason)",
    "flag_values": [MISSING, DONE, FAILED],
    "flag_meanings": "missing done failed",
}
