"""UCSD Ped1: 34 training and 36 testing videos of 200 frames; 10 of them with masks."""

from functools import partial

from jobs.datasets import _ucsd
from jobs.datasets._contract import Counts, Dataset

LAYOUT = _ucsd.LAYOUT.format(part=1)

DATASET = Dataset(
    name="ped1",
    title="UCSD Ped1",
    layout=LAYOUT,
    scan=partial(_ucsd.scan, 1),
    truths=partial(_ucsd.truths, 1, False),
    halves=_ucsd.halves,
    where=_ucsd.WHERE,
    size="706 MB, together with Ped2",
    licence=_ucsd.LICENCE,
    citation=_ucsd.CITATION,
    truth="UCSDped1.m (all 36 testing videos) and masks (10 of them)",
    counts=Counts(34, 36, 6800, 7200, 4045),
)
