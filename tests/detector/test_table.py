"""What people read: every number has its unit, and what was left out is said."""

import json
import re

import numpy as np
import pytest

from detector import table
from detector.evaluation import Evaluation, evaluate
from detector.scored import scored
from detector.table import COLUMNS, PERFECT, Row


def one(seed: int, *, calibrated: bool = True, gaps: bool = False) -> Evaluation:
    rng = np.random.default_rng(seed)
    frames = [np.zeros(50, int) for _ in range(12)]
    for y in frames[:4]:
        y[10:30] = 1
    frames[4][:] = 1
    scores = [rng.normal(size=50) + 2 * y for y in frames]
    if gaps:
        scores[9][:7] = np.nan
        frames[3][:3] = -1
    probabilities = [1 / (1 + np.exp(-s)) for s in scores] if calibrated else None
    labels = [1] * 5 + [0] * 7
    return evaluate(scored(scores, frames, labels, calibrated=probabilities), resamples=100)


def test_every_number_has_a_unit() -> None:
    rows = [Row("swin", (one(0),)), Row("fused", (one(1, gaps=True),))]
    lines = table.text(rows).splitlines()
    for line in lines:
        if line.startswith(("swin ", "fused ", PERFECT)) and ":" not in line:
            numbers = re.findall(r"(?<![\w.])\d+(?:\.\d+)?\S?", line)
            assert numbers
            assert all(number.endswith("%") for number in numbers), line
    assert len(table.cells(rows[0])) == len(COLUMNS)


def test_cells_are_the_evaluation() -> None:
    found = one(0)
    cells = dict(zip(COLUMNS, table.cells(Row("swin", (found,))), strict=True))
    low, high = found.overall.auc_interval
    assert cells["frame AUC"] == (
        f"{100 * found.overall.auc:.1f}% [{100 * low:.1f}%, {100 * high:.1f}%]"
    )
    assert cells["AP"] == f"{100 * found.overall.ap:.1f}%"
    assert cells["base rate"] == f"{100 * found.base_rate:.1f}%"
    assert cells["false alarms"] == f"{100 * found.false_alarms:.1f}%"


def test_several_splits() -> None:
    found = [one(seed) for seed in range(3)]
    cells = dict(zip(COLUMNS, table.cells(Row("swin", tuple(found))), strict=True))
    aucs = [100 * e.overall.auc for e in found]
    assert cells["frame AUC"] == f"{np.mean(aucs):.1f}% ± {np.std(aucs, ddof=1):.1f}%"
    assert "Mean ± standard deviation over 3 splits." in table.text([Row("swin", tuple(found))])


def test_the_line_of_a_perfect_video_level_classifier() -> None:
    rows = [Row("swin", (one(0),)), Row("r3d", (one(1),))]
    (line,) = table.perfect_cells(rows)
    cells = dict(zip(COLUMNS, line, strict=True))
    # Of 480 normal frames, 4 videos' 30 tie with the anomalous ones.
    assert cells["frame AUC"].startswith(f"{100 * (1 - 120 / 470 / 2):.1f}%")
    assert cells["AUC inside abnormal videos"] == "50.0%"
    assert cells["video AUC"] == "100.0%"
    assert table.text(rows).count(PERFECT) == 1
    mixed = table.text([*rows, Row("s3d", (one(2, gaps=True),))])
    assert f"{PERFECT} (swin, r3d)" in mixed
    assert f"{PERFECT} (s3d)" in mixed


def test_notes_say_what_was_left_out() -> None:
    notes = table.notes([Row("swin", (one(0, gaps=True, calibrated=False),))])
    told = "\n".join(notes)
    assert "12 test videos, 5 of them abnormal; 590 frames, 130 of them anomalous." in told
    assert "3 frames without ground truth left out." in told
    assert "7 frames without a score left out." in told
    assert "of 4; undefined in 1 that are anomalous throughout and 0 that are nowhere" in told
    assert "95% interval, 100 bootstrap resamples" in told
    assert "not calibrated" in told
    both = table.notes([Row("a", (one(0),)), Row("b", (one(0, gaps=True),))])
    assert "b: 7 frames without a score left out." in both
    assert not any(note.startswith("a: 7") for note in both)


def test_an_all_normal_test_set() -> None:
    of = scored([np.zeros(4)] * 3, [np.zeros(4, int)] * 3, [0] * 3)
    shown = table.text([Row("swin", (evaluate(of, resamples=10),))])
    assert "undefined, as there are only normal or only anomalous frames" in shown
    assert "nan" not in shown.lower()
    assert "None" not in shown


def test_json() -> None:
    found = table.json([Row("swin", (one(0),))])
    read = json.loads(json.dumps(found, allow_nan=False))
    assert read[0]["features"] == "swin"
    assert read[0]["evaluations"][0]["overall"]["auc"] == one(0).overall.auc


def test_rows_are_needed() -> None:
    with pytest.raises(ValueError, match="at least one row"):
        table.text([])
    with pytest.raises(ValueError, match="at least one evaluation"):
        Row("swin", ())
