"""The networks: registered with timm when this is imported, and loaded with checked weights.

Importing this costs seconds (torch, timm, torchvision, pytorchvideo). What does without networks,
a run's driver and a worker of converted ones, takes ``jobs.specs`` and ``jobs.weights`` instead.
"""

from jobs.backbones import video  # registers the five with timm
from jobs.backbones.image import ImageNetwork
from jobs.backbones.loading import check, load
from jobs.backbones.video import VideoNetwork
from jobs.weights import Weights, WeightsUnreachable, resolve, resolve_all

__all__ = [
    "ImageNetwork",
    "VideoNetwork",
    "Weights",
    "WeightsUnreachable",
    "check",
    "load",
    "resolve",
    "resolve_all",
    "video",
]
