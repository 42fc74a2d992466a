"""Lines, areas and words on a plane: as SVG for a page, and as PNG.

A figure is a list of shapes in pixels, y downwards, so that both files show the same; there is
little in one that a plotting library would do better, and nothing to install.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Final, Literal

import numpy as np

from detector.curves import Floats
from featurestore import disk
from featurestore.disk import writing

INK: Final = "#222222"
FAINT: Final = "#d5d5d5"
NORMAL: Final = "#1f77b4"
ABNORMAL: Final = "#d62728"
SHADE: Final = "#f4b6b6"

_FONT: Final = 12.0
# PNGs are drawn this many times larger, the edges smoothed in making them smaller.
_FINER: Final = 3


@dataclass(frozen=True)
class Line:
    """A line through points (n, 2)."""

    points: Floats
    color: str = INK
    width: float = 1.5
    dashed: bool = False


@dataclass(frozen=True)
class Area:
    """A filled polygon of corners (n, 2); `opacity` in [0, 1]."""

    points: Floats
    color: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Words:
    """A line of text whose baseline begins, is centred or ends at (x, y); or turned upwards."""

    x: float
    y: float
    text: str
    anchor: Literal["start", "middle", "end"] = "start"
    color: str = INK
    size: float = _FONT
    upwards: bool = False


Shape = Line | Area | Words


@dataclass(frozen=True)
class Figure:
    """Shapes on a white sheet of so many pixels; `title` says in words what it shows."""

    name: str
    title: str
    width: int
    height: int
    shapes: tuple[Shape, ...]


@dataclass(frozen=True)
class Axes:
    """A frame on the sheet, in pixels, and the range of values that it shows."""

    left: float
    top: float
    width: float
    height: float
    x: tuple[float, float]
    y: tuple[float, float]

    def at(self, x: Floats | float, y: Floats | float) -> Floats:
        """Pixels (n, 2) of values (n,) or single ones."""
        across = (np.asarray(x, np.float64) - self.x[0]) / ((self.x[1] - self.x[0]) or 1.0)
        up = (np.asarray(y, np.float64) - self.y[0]) / ((self.y[1] - self.y[0]) or 1.0)
        across, up = np.broadcast_arrays(np.atleast_1d(across), np.atleast_1d(up))
        return np.stack(
            [self.left + across * self.width, self.top + (1 - up) * self.height], axis=1
        )

    def box(self, x0: float, x1: float, color: str, opacity: float = 1.0) -> Area:
        """The strip between two values of x, from top to bottom."""
        corners = self.at(np.array([x0, x1, x1, x0]), np.array([*self.y[:1] * 2, *self.y[1:] * 2]))
        return Area(corners, color, opacity)

    def frame(self, x_label: str, y_label: str, *, percent: bool = False) -> list[Shape]:
        """Border, ticks and labels."""
        corners = [(self.x[i], self.y[j]) for i, j in ((0, 0), (1, 0), (1, 1), (0, 1), (0, 0))]
        found: list[Shape] = [Line(self.at(*np.array(corners).T), FAINT, 1.0)]
        bottom, middle = self.top + self.height, self.left + self.width / 2
        for value in ticks(*self.x, wanted=max(3, int(self.width / 75))):
            ((px, _),) = self.at(value, self.y[0])
            found.append(Line(np.array([[px, bottom], [px, bottom + 4]]), INK, 1.0))
            found.append(Words(px, bottom + 17, _number(value, percent), "middle"))
        for value in ticks(*self.y, wanted=max(4, int(self.height / 40))):
            ((_, py),) = self.at(self.x[0], value)
            found.append(Line(np.array([[self.left - 4, py], [self.left, py]]), INK, 1.0))
            found.append(Words(self.left - 7, py + 4, _number(value, percent), "end"))
        found.append(Words(middle, bottom + 34, x_label, "middle"))
        up = self.top + self.height / 2
        found.append(Words(self.left - 44, up, y_label, "middle", upwards=True))
        return found


def ticks(low: float, high: float, wanted: int) -> list[float]:
    """Round numbers from `low` to `high`, about so many."""
    span = high - low
    if not (math.isfinite(span) and span > 0):
        return [low]
    rough = span / wanted
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 5, 10) if power * m >= rough * 0.999)
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def svg(figure: Figure) -> str:
    """The figure as an SVG element for an HTML page."""
    shapes = "".join(map(_svg_shape, figure.shapes))
    return (
        f'<svg viewBox="0 0 {figure.width} {figure.height}" width="{figure.width}" '
        f'height="{figure.height}" role="img" font-family="sans-serif">'
        f"<title>{escape(figure.title)}</title>{shapes}</svg>"
    )


def write_png(figure: Figure, path: Path) -> None:
    """Writes the figure as a PNG file of twice its size in pixels, in one step.

    Raises StoreUnwritable when the disk refuses.
    """
    from PIL import Image, ImageDraw, ImageFont

    scale = 2 * _FINER
    size = (figure.width * scale, figure.height * scale)
    image = Image.new("RGB", size, "white")
    for shape in figure.shapes:
        draw = ImageDraw.Draw(image, "RGBA")
        if isinstance(shape, Words):
            font = ImageFont.load_default(shape.size * scale)
            anchor = {"start": "ls", "middle": "ms", "end": "rs"}[shape.anchor]
            spot = (shape.x * scale, shape.y * scale)
            if not shape.upwards:
                draw.text(spot, shape.text, shape.color, font, anchor)
                continue
            width, height = (int(v) for v in draw.textbbox((0, 0), shape.text, font)[2:])
            label = Image.new("L", (width, height), 0)
            ImageDraw.Draw(label).text((0, 0), shape.text, 255, font)
            label = label.rotate(90, expand=True)
            corner = (round(spot[0] - label.width), round(spot[1] - label.height / 2))
            image.paste(Image.new("RGB", label.size, shape.color), corner, label)
        elif isinstance(shape, Area):
            alpha = f"{round(255 * shape.opacity):02x}"
            draw.polygon([tuple(p) for p in shape.points * scale], shape.color + alpha)
        else:
            for part in (
                _dashes(shape.points * scale, 6.0 * scale)
                if shape.dashed
                else [shape.points * scale]
            ):
                flat = [tuple(p) for p in part]
                draw.line(flat, shape.color, round(shape.width * scale), joint="curve")
    small = image.resize((2 * figure.width, 2 * figure.height), Image.Resampling.BOX)
    with writing(path):
        disk.replace(path, lambda partial: small.save(partial, "PNG"))


def _svg_shape(shape: Shape) -> str:
    if isinstance(shape, Words):
        turned = f' transform="rotate(-90 {shape.x:g} {shape.y:g})"' if shape.upwards else ""
        return (
            f'<text x="{shape.x:.1f}" y="{shape.y:.1f}" font-size="{shape.size:g}" '
            f'fill="{shape.color}" text-anchor="{shape.anchor}"{turned}>{escape(shape.text)}</text>'
        )
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in shape.points)
    if isinstance(shape, Area):
        return f'<polygon points="{points}" fill="{shape.color}" fill-opacity="{shape.opacity:g}"/>'
    dashes = ' stroke-dasharray="6 6"' if shape.dashed else ""
    return (
        f'<polyline points="{points}" fill="none" stroke="{shape.color}" '
        f'stroke-width="{shape.width:g}" stroke-linejoin="round"{dashes}/>'
    )


def _dashes(points: Floats, length: float) -> Sequence[Floats]:
    """Every second piece of this length of a line, (pieces,) of (2, 2)."""
    steps = np.hypot(*np.diff(points, axis=0).T)
    along = np.concatenate([[0], np.cumsum(steps)])
    starts = np.arange(0, along[-1], 2 * length)
    ends = np.minimum(starts + length, along[-1])
    at = np.stack([starts, ends], axis=1)
    x, y = (np.interp(at, along, column) for column in points.T)
    return list(np.stack([x, y], axis=2))


def _number(value: float, percent: bool) -> str:
    return f"{100 * value:.0f}%" if percent else f"{value:g}"
