"""The figures of a report: the ROC, each video's scores over time, the two densities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from detector import bootstrap
from detector.curves import Floats, auc, roc
from detector.drawing import ABNORMAL, FAINT, INK, NORMAL, SHADE, Area, Axes, Figure, Line, Shape
from detector.drawing import Words as Text
from detector.evaluation import draws
from detector.scored import Labels, Scored
from detector.table import percent

_RESAMPLES: Final = 1000
_BINS: Final = 60


@dataclass(frozen=True)
class Densities:
    """Training scores of clips, by class, and the density fitted to each.

    `values`: class -> (clips,); `at` (n,) and `fitted`: class -> its name and density (n,) there.
    `unit` is what values are measured in.
    """

    values: Mapping[str, Floats]
    at: Floats
    fitted: Mapping[str, tuple[str, Floats]]
    unit: str


def roc_figure(of: Scored, *, level: float = 0.95, seed: int = 0) -> Figure | None:
    """ROC over all frames with its pointwise interval over videos; None where it is undefined."""
    pooled = of.pooled()
    area = auc(pooled)
    if area is None:
        return None
    axes = Axes(64, 16, 380, 380, (0, 1), (0, 1))
    shapes: list[Shape] = []
    each = of.counts()
    drawn = draws(of.labels, each, _RESAMPLES, seed)
    if drawn is not None:
        at = np.concatenate([np.linspace(0, 0.1, 41), np.linspace(0.1, 1, 61)[1:]])
        low, high = bootstrap.roc_band(each, drawn, at, level)
        corners = np.concatenate([axes.at(at, high), axes.at(at, low)[::-1]])
        shapes.append(Area(corners, NORMAL, 0.2))
    curve = roc(pooled)
    shapes.append(Line(axes.at(np.array([0.0, 1.0]), np.array([0.0, 1.0])), FAINT, 1.0, True))
    way = _thinned(curve.false_positive_rate, curve.true_positive_rate)
    shapes.append(Line(axes.at(*way), NORMAL, 2.0))
    shapes += axes.frame("normal frames above", "anomalous frames above", percent=True)
    told = f"AUC {percent(area)}"
    if drawn is not None:
        told += f"; shaded: {percent(level, 0)} over videos"
    shapes.append(Text(axes.left + axes.width - 8, axes.top + axes.height - 12, told, "end"))
    return Figure("roc", f"ROC over all test frames, {told}", 460, 446, tuple(shapes))


def time_figure(
    name: str,
    scores: Floats,
    labels: Labels,
    spread: tuple[float, float],
    *,
    marked: Sequence[int] = (),
) -> Figure:
    """Score of each frame of one video (T,), anomalous ones shaded red, unknown ones grey.

    `spread` is the range of scores shown, the same for all videos. `marked` frames get a tick.
    """
    axes = Axes(64, 8, 820, 110, (0, max(len(scores), 1)), spread)
    shapes: list[Shape] = []
    for value, color in ((1, SHADE), (-1, FAINT)):
        for begin, end in runs(labels == value):
            shapes.append(axes.box(begin, end, color, 0.7))
    for begin, end in runs(~np.isnan(scores)):
        part = scores[begin:end]
        # A frame's score is a step from its begin to its end; only corners are kept.
        changes = np.flatnonzero(np.diff(part)) + 1
        starts, ends = np.append(0, changes), np.append(changes, len(part))
        at = np.stack([begin + starts, begin + ends], axis=1).ravel().astype(np.float64)
        steps = _thinned(at, np.repeat(part[starts], 2), int(axes.width))
        shapes.append(Line(axes.at(*steps), INK))
    for frame in marked:
        ((x, y),) = axes.at(frame + 0.5, spread[1])
        shapes.append(Line(np.array([[x, y], [x, y + 10]]), ABNORMAL, 2.5))
    shapes += axes.frame("frame", "score")
    anomalous = int((labels == 1).sum())
    title = f"{name}: score of each of {len(scores)} frames, {anomalous} of them anomalous"
    return Figure(f"video-{name}", title, 900, 160, tuple(shapes))


def density_figure(of: Densities) -> Figure:
    """The fitted densities as lines, over histograms of the training clips' scores."""
    both = np.concatenate(list(of.values.values()))
    low, high = float(both.min()), float(both.max())
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)
    heights = {k: np.histogram(v, edges, density=True)[0] for k, v in of.values.items()}
    shown = (of.at >= edges[0]) & (of.at <= edges[-1])
    top = max(float(h.max()) for h in heights.values())
    # A fitted density may be infinite at an end; the histograms decide how high the figure is.
    top = max(top, *(float(np.quantile(d[shown], 0.99)) for _, d in of.fitted.values())) * 1.05
    axes = Axes(64, 16, 820, 260, (float(edges[0]), float(edges[-1])), (0, top))
    shapes: list[Shape] = []
    for row, (kind, color) in enumerate((("normal", NORMAL), ("abnormal", ABNORMAL))):
        x = np.repeat(edges, 2)
        y = np.concatenate([[0], np.repeat(heights[kind], 2), [0]])
        shapes.append(Area(axes.at(x, y), color, 0.25))
        name, density = of.fitted[kind]
        line = axes.at(of.at[shown], np.minimum(density[shown], top))
        shapes.append(Line(line, color, 2.0))
        words = f"{kind} videos: {len(of.values[kind]):,} clips; {name}"
        shapes.append(Text(axes.left + axes.width - 8, 34 + 18 * row, words, "end", color))
    shapes += axes.frame(of.unit, "density")
    title = "Training scores of the two classes and the densities fitted to them"
    return Figure("densities", title, 900, 330, tuple(shapes))


def highest_frames(scores: Floats, count: int = 3, apart: int = 48) -> list[int]:
    """The frames (at most `count`) with the highest scores, at least `apart` frames apart.

    Of equal scores in a row the middle one. In the order of time.
    """
    left = np.where(np.isnan(scores), -math.inf, scores)
    found: list[int] = []
    while len(found) < count and np.isfinite(left).any():
        first = int(np.argmax(left))
        alike = int(np.argmin(np.append(left[first:] == left[first], False)))
        middle = first + (alike - 1) // 2
        found.append(middle)
        left[max(0, middle - apart + 1) : middle + apart] = -math.inf
    return sorted(found)


def runs(mask: np.ndarray) -> list[tuple[int, int]]:
    """Begin and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _thinned(x: Floats, y: Floats, columns: int = 2000) -> tuple[Floats, Floats]:
    """A line of very many points by the first, lowest, highest and last of each of `columns`."""
    if len(x) <= 4 * columns:
        return x, y
    column = np.minimum(((x - x[0]) / (x[-1] - x[0]) * columns).astype(int), columns - 1)
    starts = np.flatnonzero(np.diff(column, prepend=-1))
    kept = []
    for begin, end in zip(starts, np.append(starts[1:], len(x)), strict=True):
        part = y[begin:end]
        kept.append(np.unique([begin, begin + part.argmin(), begin + part.argmax(), end - 1]))
    chosen = np.concatenate(kept)
    return x[chosen], y[chosen]
