"""Frames of videos, exactly: every frame once, in order of presentation, from files and folders.

Knows PyAV, PIL and (when asked) decord; never torch.
"""

from jobs.video._contract import FrameSource, Source, VideoInfo
from jobs.video._discover import IMAGE_SUFFIXES, VIDEO_SUFFIXES, discover
from jobs.video._estimate import about_frames
from jobs.video._identity import digest, patience, stat_source
from jobs.video._open import DECODERS, open_source, probe

__all__ = [
    "DECODERS",
    "IMAGE_SUFFIXES",
    "VIDEO_SUFFIXES",
    "FrameSource",
    "Source",
    "VideoInfo",
    "about_frames",
    "digest",
    "discover",
    "open_source",
    "patience",
    "probe",
    "stat_source",
]
