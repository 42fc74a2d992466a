"""Draws a surveillance scene: a fixed camera, people who walk, and something that nobody expects.

Only numpy. Everything is procedural and decided by a seed, and since every figure is drawn here,
the pixels of the unexpected one are known exactly. Lengths of figures are in metres (a person is
1.75 m) and become pixels by where they stand: nearer the camera is lower in the picture and larger.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

Anomaly = Literal["cyclist", "runner", "cart", "thrown"]
ANOMALIES: tuple[Anomaly, ...] = get_args(Anomaly)

FPS = 10.0  # as Ped2's camera: 16 frames are 1.6 s, in which a cyclist crosses most of the picture
PERSON = 1.75  # metres

Image = NDArray[np.float32]
Colour = tuple[float, float, float]


@dataclass(frozen=True)
class Part:
    """A thick line from (x0, y0) to (x1, y1), in metres; y points up, (0, 0) is on the ground.

    `ring` > 0 draws only the outline that far from the line: a wheel.
    """

    x0: float
    y0: float
    x1: float
    y1: float
    thickness: float  # half of the width, metres
    colour: Colour
    ring: float = 0.0


@dataclass(frozen=True)
class Figure:
    """Something that moves along the walkway.

    `ground`: height in the picture where it stands, 0 top to 1 bottom. `speed`: metres a second,
    negative to the left. `x`: where it is at second 0, in pixels. `wrap`: comes in again on the
    other side after it has left the picture.
    """

    kind: Literal["walker"] | Anomaly
    ground: float
    x: float
    speed: float
    phase: float
    shirt: Colour
    trousers: Colour
    wrap: bool = True

    def parts(self, seconds: float) -> list[Part]:
        """The figure's parts at a time, seen facing right."""
        match self.kind:
            case "walker":
                return _person(self, 2 * np.pi * (0.9 * seconds) + self.phase, swing=0.45)
            case "runner":
                swing = 2 * np.pi * (1.6 * seconds) + self.phase
                return _person(self, swing, swing=0.95, lean=0.3, hop=0.08)
            case "cyclist":
                return _cyclist(self, seconds)
            case "cart":
                return _cart(self)
            case "thrown":
                return _thrown(self, seconds)


# -- figures -----------------------------------------------------------------------------------

_SKIN: Colour = (205, 160, 130)
_METAL: Colour = (40, 42, 48)
_FLIGHT_SECONDS = 1.2  # of the thing thrown
_GRAVITY = 9.81


def _person(
    figure: Figure, phase: float, *, swing: float, lean: float = 0.0, hop: float = 0.0
) -> list[Part]:
    hip_y = 0.88 + hop * abs(np.sin(phase))
    neck_x, neck_y = 0.55 * np.sin(lean), hip_y + 0.55 * np.cos(lean)
    parts = []
    for side in (0.0, np.pi):  # far limbs first, the near ones over them
        shade = 0.75 if side == 0.0 else 1.0
        arm = -swing * np.sin(phase + side)
        elbow_x, elbow_y = neck_x + 0.3 * np.sin(arm), neck_y - 0.05 - 0.3 * np.cos(arm)
        fore = arm + 0.3 + lean
        hand_x, hand_y = elbow_x + 0.27 * np.sin(fore), elbow_y - 0.27 * np.cos(fore)
        thigh = swing * np.sin(phase + side)
        knee_x, knee_y = 0.45 * np.sin(thigh), hip_y - 0.45 * np.cos(thigh)
        shin = thigh - (0.25 + swing) * max(0.0, np.cos(phase + side))  # bent as it comes forward
        foot_x, foot_y = knee_x + 0.43 * np.sin(shin), knee_y - 0.43 * np.cos(shin)
        parts += [
            Part(neck_x, neck_y - 0.05, elbow_x, elbow_y, 0.055, _shaded(figure.shirt, shade)),
            Part(elbow_x, elbow_y, hand_x, hand_y, 0.045, _shaded(_SKIN, shade)),
            Part(0.0, hip_y, knee_x, knee_y, 0.085, _shaded(figure.trousers, shade)),
            Part(knee_x, knee_y, foot_x, foot_y, 0.065, _shaded(figure.trousers, shade)),
        ]
    head_x, head_y = neck_x + 0.24 * np.sin(lean), neck_y + 0.2
    parts.insert(4, Part(0.0, hip_y, neck_x, neck_y, 0.15, figure.shirt))
    parts.append(Part(head_x, head_y, head_x, head_y, 0.11, _SKIN))
    return parts


def _cyclist(figure: Figure, seconds: float) -> list[Part]:
    turn = abs(figure.speed) * seconds / 0.7 + figure.phase
    parts = []
    for pedal in (turn, turn + np.pi):
        foot_x, foot_y = 0.05 + 0.17 * np.cos(pedal), 0.3 - 0.17 * np.sin(pedal)
        knee_x, knee_y = 0.25 + 0.1 * np.cos(pedal), 0.68 - 0.1 * np.sin(pedal)
        parts.append(Part(-0.2, 0.98, knee_x, knee_y, 0.085, figure.trousers))
        parts.append(Part(knee_x, knee_y, foot_x, foot_y, 0.065, figure.trousers))
    for hub in (-0.52, 0.55):
        parts.append(Part(hub, 0.34, hub, 0.34, 0.035, _METAL, ring=0.32))
        spoke_x, spoke_y = 0.3 * np.cos(turn), 0.3 * np.sin(turn)
        ends = (hub - spoke_x, 0.34 + spoke_y, hub + spoke_x, 0.34 - spoke_y)
        parts.append(Part(*ends, 0.015, _METAL))
    return [
        *parts,
        Part(-0.52, 0.34, -0.2, 0.9, 0.03, _METAL),
        Part(-0.2, 0.85, 0.42, 0.85, 0.035, _METAL),
        Part(0.55, 0.34, 0.42, 0.95, 0.03, _METAL),
        Part(-0.2, 1.0, 0.12, 1.45, 0.15, figure.shirt),
        Part(0.1, 1.4, 0.45, 1.0, 0.055, figure.shirt),
        Part(0.22, 1.68, 0.22, 1.68, 0.11, _SKIN),
    ]


def _cart(figure: Figure) -> list[Part]:
    wheels = [Part(x, 0.25, x, 0.25, 0.25, _METAL) for x in (-0.75, 0.8)]
    return [
        Part(-0.3, 0.75, -0.25, 1.25, 0.17, figure.trousers),  # the driver
        Part(-0.22, 1.5, -0.22, 1.5, 0.12, _SKIN),
        Part(-0.9, 0.5, 0.95, 0.5, 0.27, figure.shirt),
        Part(-1.0, 0.7, -1.0, 1.85, 0.03, _METAL),
        Part(0.6, 0.7, 0.45, 1.85, 0.03, _METAL),
        Part(-1.05, 1.88, 0.6, 1.88, 0.06, figure.shirt),
        *wheels,
    ]


def _thrown(figure: Figure, seconds: float) -> list[Part]:
    """A bag that flies and bounces: up 1.5 m and down in `_FLIGHT_SECONDS`, over and over."""
    flying = seconds % _FLIGHT_SECONDS
    height = 0.4 + 0.5 * _GRAVITY * flying * (_FLIGHT_SECONDS - flying)
    x, y = 0.3 * np.cos(5 * seconds + figure.phase), 0.3 * np.sin(5 * seconds + figure.phase)
    return [
        Part(-x, height - y, x, height + y, 0.24, figure.shirt),
        Part(-x - y, height - y + x, x - y, height + y + x, 0.05, figure.trousers),
    ]


def _shaded(colour: Colour, factor: float) -> Colour:
    return (colour[0] * factor, colour[1] * factor, colour[2] * factor)


# -- the scene ---------------------------------------------------------------------------------


def background(width: int, height: int, seed: int) -> Image:
    """What the camera sees when nobody is there, as (height, width, 3) float32 in 0..255."""
    rng = np.random.default_rng([seed, 0])
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :, None]
    colours = np.array([(132, 120, 112), (78, 104, 62), (160, 160, 160)], np.float32)
    wall, grass, path = colours
    windows = ((x * 9 % 1 > 0.3) & (x * 9 % 1 < 0.75) & (y > 0.08) & (y < 0.27)).astype(np.float32)
    image = np.where(y < 0.36, wall - 62 * windows, np.where(y < 0.5, grass, path))
    # Slabs: lines to a vanishing point above the picture, and rows that grow towards the camera.
    rays, rows = (x - 0.5) / (y + 0.25) * 7 % 1, np.sqrt(np.maximum(y - 0.5, 0)) * 9 % 1
    image = image - 22 * ((y >= 0.5) & ((rays < 0.06) | (rows < 0.08)))
    for cells, strength in ((4, 14), (16, 8), (64, 6)):
        image = image + strength * _noise(rng, width, height, cells)[..., None]
    image = image + rng.normal(0, 5, (height, width, 1))
    seen: Image = np.clip(image, 0, 255).astype(np.float32)
    return seen


def people(
    rng: np.random.Generator, width: int, height: int, frames: int, anomaly: Anomaly | None
) -> list[Figure]:
    """Three to five walkers and, if wanted, the anomaly, farthest from the camera first."""
    figures = [
        _figure(
            "walker",
            rng,
            ground=float(rng.uniform(0.58, 0.95)),
            x=float(rng.uniform(0.05, 0.95) * width),
            speed=float(rng.uniform(0.9, 1.5) * rng.choice([-1, 1])),
        )
        for _ in range(rng.integers(3, 6))
    ]
    if anomaly is not None:
        speed = {"cyclist": 5.0, "runner": 4.2, "cart": 3.6, "thrown": 4.5}[anomaly]
        speed *= float(rng.uniform(0.9, 1.15) * rng.choice([-1, 1]))
        ground = float(rng.uniform(0.68, 0.9))
        scale = pixels_per_metre(ground, height)
        # It comes in from one side after a fifth of the video, and does not come back.
        outside = 1.2 * scale
        entry = -outside if speed > 0 else width + outside
        start = entry - speed * scale * (frames / 5 / FPS)
        figures.append(_figure(anomaly, rng, ground=ground, x=start, speed=speed, wrap=False))
    return sorted(figures, key=lambda figure: figure.ground)


def render(
    width: int, height: int, frames: int, *, seed: int, video: int, anomaly: Anomaly | None = None
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.bool_]]]:
    """Yields each frame, (height, width, 3) uint8 RGB, and the anomaly's visible pixels, bool.

    `seed` decides the place and `video` (>= 1) who walks there; the same arguments give the same
    pixels.
    """
    rng = np.random.default_rng([seed, video])
    empty = background(width, height, seed)
    figures = people(rng, width, height, frames, anomaly)
    for number in range(frames):
        image = empty.copy()
        mask = np.zeros((height, width), bool)
        for figure in figures:
            covered = draw(image, figure, number / FPS)
            mask = mask | covered if figure.kind != "walker" else mask & ~covered
        image *= 1 + 0.006 * np.sin(0.9 * number)  # lamps
        image += rng.normal(0, 1.5, image.shape).astype(np.float32)  # sensor
        yield np.clip(image.round(), 0, 255).astype(np.uint8), mask


def draw(image: Image, figure: Figure, seconds: float) -> NDArray[np.bool_]:
    """Draws a figure into `image` in place; returns the pixels it covers at least by half."""
    height, width = image.shape[:2]
    scale = pixels_per_metre(figure.ground, height)
    x, foot = figure.x + figure.speed * scale * seconds, figure.ground * height
    if figure.wrap:
        margin = 1.0 * scale
        x = (x + margin) % (width + 2 * margin) - margin
    facing = 1.0 if figure.speed >= 0 else -1.0
    covered = np.zeros((height, width), bool)
    shadow = (x - 0.3 * scale, foot, x + 0.3 * scale, foot)
    _blend(image, shadow, 0.1 * scale, 0.0, (50, 50, 55), 0.4)
    for part in figure.parts(seconds):
        ends = (
            x + facing * part.x0 * scale,
            foot - part.y0 * scale,
            x + facing * part.x1 * scale,
            foot - part.y1 * scale,
        )
        half = max(part.thickness * scale, 0.6)
        box, alpha = _blend(image, ends, half, part.ring * scale, part.colour, 1.0)
        covered[box] |= alpha >= 0.5
    return covered


def pixels_per_metre(ground: float, height: int) -> float:
    """Size of a metre where something stands at `ground`: a person is 13% to 26% of the height."""
    return (0.13 + 0.26 * (ground - 0.5)) * height / PERSON


def _blend(
    image: Image,
    ends: tuple[float, float, float, float],
    half: float,
    ring: float,
    colour: Colour,
    opacity: float,
) -> tuple[tuple[slice, slice], Image]:
    """Paints a thick line with soft edges; returns where in the image, and how opaque there."""
    x0, y0, x1, y1 = ends
    reach = half + ring + 1
    height, width = image.shape[:2]
    left, right = np.clip([min(x0, x1) - reach, max(x0, x1) + reach + 1], 0, width).astype(int)
    top, bottom = np.clip([min(y0, y1) - reach, max(y0, y1) + reach + 1], 0, height).astype(int)
    box = (slice(top, bottom), slice(left, right))
    y, x = np.mgrid[top:bottom, left:right].astype(np.float32)
    dx, dy = x1 - x0, y1 - y0
    along = np.clip(((x - x0) * dx + (y - y0) * dy) / max(dx * dx + dy * dy, 1e-6), 0, 1)
    distance = np.hypot(x - x0 - along * dx, y - y0 - along * dy)
    alpha = (opacity * np.clip(half + 0.5 - abs(distance - ring), 0, 1)).astype(np.float32)
    image[box] += alpha[..., None] * (np.array(colour, np.float32) - image[box])
    return box, alpha


def _noise(rng: np.random.Generator, width: int, height: int, cells: int) -> Image:
    """Smooth noise of about unit variance: a random grid of `cells` squared, interpolated."""
    grid = rng.normal(size=(cells + 1, cells + 1))
    x, y = np.linspace(0, cells, width), np.linspace(0, cells, height)
    wide = np.stack([np.interp(x, np.arange(cells + 1), row) for row in grid])
    low = np.minimum(y.astype(int), cells - 1)
    part = (y - low)[:, None]
    smooth: Image = (wide[low] * (1 - part) + wide[low + 1] * part).astype(np.float32)
    return smooth


def _figure(
    kind: Literal["walker"] | Anomaly,
    rng: np.random.Generator,
    *,
    ground: float,
    x: float,
    speed: float,
    wrap: bool = True,
) -> Figure:
    shirt, trousers = rng.uniform(30, 235, 3), rng.uniform(20, 110, 3)
    phase = float(rng.uniform(0, 2 * np.pi))
    return Figure(kind, ground, x, speed, phase, _rgb(shirt), _rgb(trousers), wrap)


def _rgb(values: NDArray[np.float64]) -> Colour:
    red, green, blue = (float(v) for v in values)
    return (red, green, blue)
