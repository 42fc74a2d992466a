"""UCSD Ped2: 16 training and 12 testing videos, all of these with masks."""

from functools import partial

from jobs.datasets import _ucsd
from jobs.datasets._contract import Counts, Dataset

LAYOUT = _ucsd.LAYOUT.format(part=2)

DATASET = Dataset(
    name="ped2",
    title="UCSD Ped2",
    layout=LAYOUT,
    scan=partial(_ucsd.scan, 2),
    truths=partial(_ucsd.truths, 2, True),
    halves=_ucsd.halves,
    where=_ucsd.WHERE,
    size="706 MB, together with Ped1",
    licence=_ucsd.LICENCE,
    citation=_ucsd.CITATION,
    truth="UCSDped2.m and masks; they agree in every frame",
    counts=Counts(16, 12, 2550, 2010, 1648),
    splits={
        "bameri-s6": "github.com/FatemeBameri/Pytorch-Weakly-Anomaly-Detection at 0e14c9bfb033, "
        "run_setting_info/ped2-s6-{train,test}.list",
        "tevad": "github.com/coranholmes/TEVAD at 6d701ff226cf, list/ped2-i3d{,-test}.list "
        "(Chen et al., CVPR Workshops 2023)",
    },
)
