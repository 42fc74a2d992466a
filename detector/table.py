"""Evaluations as one table for people: a row a detector, every number with its unit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from detector.bootstrap import Interval
from detector.evaluation import Evaluation, Spread, over_splits

COLUMNS: Final = (
    "features",
    "frame AUC",
    "AUC inside abnormal videos",
    "mean AUC of an abnormal video",
    "AP",
    "base rate",
    "video AUC",
    "equal error rate",
    "false alarms",
)
PERFECT: Final = "perfect video-level classifier"
UNDEFINED: Final = "-"

# Long headings take two lines: a terminal is narrow.
_BROKEN: Final = {
    "AUC inside abnormal videos": ("inside abnormal", "videos, pooled"),
    "mean AUC of an abnormal video": ("per abnormal", "video, mean"),
    "equal error rate": ("equal error", "rate"),
}


@dataclass(frozen=True)
class Row:
    """One line: `name`, and its evaluation, or one for each of several splits."""

    name: str
    evaluations: tuple[Evaluation, ...]

    def __post_init__(self) -> None:
        if not self.evaluations:
            raise ValueError(f"{self.name}: a row needs at least one evaluation")


def cells(row: Row) -> tuple[str, ...]:
    """What stands in each of COLUMNS."""
    of = row.evaluations
    alone = of[0] if len(of) == 1 else None
    return (
        row.name,
        _value([e.overall.auc for e in of], alone.overall.auc_interval if alone else None),
        _value([e.inside.auc for e in of]),
        _value([e.inside_mean for e in of]),
        _value([e.overall.ap for e in of]),
        _value([e.base_rate for e in of]),
        _value([e.video_auc for e in of]),
        _value([e.equal_error_rate for e in of]),
        _value([e.false_alarms for e in of]),
    )


def perfect_cells(rows: Sequence[Row]) -> list[tuple[str, ...]]:
    """The line of a perfect video-level classifier; several where rows measure other frames."""
    found: dict[tuple[str, ...], list[str]] = {}
    for row in rows:
        of = row.evaluations
        line = (
            _value([e.perfect.auc for e in of]),
            _value([None if e.inside.auc is None else 0.5 for e in of]),
            _value([None if e.inside_mean is None else 0.5 for e in of]),
            _value([e.perfect.ap for e in of]),
            _value([e.base_rate for e in of]),
            _value([None if e.video_auc is None else 1.0 for e in of]),
            UNDEFINED,
            UNDEFINED,
        )
        found.setdefault(line, []).append(row.name)
    if len(found) == 1:
        return [(PERFECT, *line) for line in found]
    return [(f"{PERFECT} ({', '.join(names)})", *line) for line, names in found.items()]


def notes(rows: Sequence[Row]) -> list[str]:
    """What was measured and what was left out, a sentence each."""
    distinct: dict[str, list[str]] = {}
    for row in rows:
        for note in _notes(row.evaluations):
            distinct.setdefault(note, []).append(row.name)
    return [
        note if len(names) == len(rows) else f"{', '.join(names)}: {note}"
        for note, names in distinct.items()
    ]


def text(rows: Sequence[Row]) -> str:
    """The table and its notes as text. Raises ValueError without rows."""
    lines = [cells(row) for row in rows]
    if not lines:
        raise ValueError("a table needs at least one row")
    heads = [_BROKEN.get(column, ("", column)) for column in COLUMNS]
    body = [tuple(h[0] for h in heads), tuple(h[1] for h in heads), *lines, *perfect_cells(rows)]
    widths = [max(len(line[i]) for line in body) for i in range(len(COLUMNS))]
    printed = [
        "  ".join(
            [
                line[0].ljust(widths[0]),
                *(c.rjust(w) for c, w in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()
        for line in body
    ]
    rule = "-" * max(map(len, printed))
    printed.insert(2, rule)
    printed.insert(3 + len(lines), rule)
    return "\n".join([*printed, *notes(rows)])


def json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """The same for machines: a dict a row, all areas and rates in [0, 1]."""
    return [
        {"features": row.name, "evaluations": [e.json() for e in row.evaluations]} for row in rows
    ]


def percent(value: float, digits: int = 1) -> str:
    """0.9652 as "96.5%"."""
    return f"{100 * value:.{digits}f}%"


def _value(values: Sequence[float | None], interval: Interval | None = None) -> str:
    spread = over_splits(values)
    if spread is None:
        return UNDEFINED
    return percent(spread.mean) + _around(spread, interval)


def _around(spread: Spread, interval: Interval | None) -> str:
    if interval is not None:
        return f" [{percent(interval[0])}, {percent(interval[1])}]"
    return "" if spread.sd is None else f" ± {percent(spread.sd)}"


def _notes(of: Sequence[Evaluation]) -> list[str]:
    found = []
    if len(of) == 1:
        one = of[0]
        found.append(
            f"{one.abnormal_videos + one.normal_videos + one.unknown_videos} test videos, "
            f"{one.abnormal_videos} of them abnormal; {one.frames:,} frames, "
            f"{one.anomalous_frames:,} of them anomalous."
        )
        if one.overall.auc_interval:
            found.append(
                f"[..]: {percent(one.level, 0)} interval, {one.resamples:,} bootstrap resamples "
                "of whole videos."
            )
        elif one.overall.auc is not None:
            found.append("No interval: fewer than two abnormal or two normal test videos.")
    else:
        found.append(f"Mean ± standard deviation over {len(of)} splits.")
    left_out = {
        "frames without ground truth": sum(e.unknown_frames for e in of),
        "frames without a score": sum(e.unscored_frames for e in of),
        "videos without any score": sum(e.unscored_videos for e in of),
    }
    found += [f"{count:,} {what} left out." for what, count in left_out.items() if count]
    throughout = sum(e.all_anomalous_videos for e in of)
    nowhere = sum(e.no_anomalous_videos for e in of)
    if throughout or nowhere:
        found.append(
            f"Mean per abnormal video: of {sum(e.inside_mean_videos for e in of)}; undefined in "
            f"{throughout} that are anomalous throughout and {nowhere} that are nowhere."
        )
    if any(e.overall.auc is None for e in of):
        found.append(f"{UNDEFINED}: undefined, as there are only normal or only anomalous frames.")
    if all(e.false_alarms is None for e in of):
        found.append("False alarms: these scores are not calibrated, or no test video is normal.")
    else:
        found.append(
            "False alarms: share of the frames of normal videos with a probability of 50% or more."
        )
    return found
