"""What the default reaches on real features; more in `tests.benchmarks.real_features`."""

from pathlib import Path

import pytest

from detector import Detector
from tests.benchmarks.real_features import folds, mean, measure, ped2, random_splits, shanghai

pytestmark = pytest.mark.long


def test_ped2(shared_data: Path) -> None:
    """Frame AUC over 20 random splits of 6 + 4 training videos: measured 85.8, deviation 4.8."""
    videos = ped2(shared_data)
    assert sum(len(video.frame_labels) for video in videos if video.label) == 2010
    found, _ = mean([measure(Detector(), videos, its) for its in random_splits(videos, 20)])
    assert found.frames > 0.85
    assert found.inside_mean > 0.72
    simple, _ = mean(
        [measure(Detector("gaussian"), videos, its) for its in random_splits(videos, 20)]
    )
    assert simple.frames < found.frames


def test_shanghaitech(shared_data: Path) -> None:
    """Five-fold cross-validation inside 126 training videos; video labels alone give 89.2."""
    videos = shanghai(shared_data)
    found, _ = mean([measure(Detector(), videos, its) for its in folds(videos)])
    one, _ = mean([measure(Detector("ratio"), videos, its) for its in folds(videos)])
    assert found.frames > 0.86
    assert found.videos > 0.94
    assert found.inside > one.inside + 0.03
    assert found.inside_mean > one.inside_mean + 0.03
