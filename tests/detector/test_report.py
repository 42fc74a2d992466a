"""The report: one page without network that shows what was measured, and the same as files."""

import io
import json
import re
from html import unescape
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from detector.drawing import ABNORMAL, FAINT, NORMAL, SHADE, Area, Axes, Line, Words, svg, ticks
from detector.evaluation import evaluate
from detector.figures import Densities, density_figure, highest_frames, roc_figure, time_figure
from detector.report import Picture, Report, html, wanted_frames, write_figures, write_report
from detector.scored import Scored, scored
from detector.table import PERFECT, Row
from featurestore.errors import StoreUnwritable

NAMES = ["Test001", "a/b <script>", "a b <script>", "Test002", "Test003", "Test004"]


def videos() -> Scored:
    rng = np.random.default_rng(0)
    frames = [np.zeros(int(n), np.int8) for n in rng.integers(60, 200, 6)]
    for y in frames[:3]:
        y[20:40] = 1
    frames[2][-7:] = -1
    scores = [np.repeat(rng.normal(size=len(y) // 16 + 1), 16)[: len(y)] + y for y in frames]
    scores[4][16:48] = np.nan
    return scored(scores, frames, [1, 1, 1, 0, 0, 0], names=NAMES)


def densities() -> Densities:
    rng = np.random.default_rng(1)
    x = np.linspace(-5, 8, 400)
    bell = np.exp(-(x**2) / 2) / np.sqrt(2 * np.pi)
    return Densities(
        {"normal": rng.normal(size=300), "abnormal": rng.normal(2, 1, 200)},
        x,
        {"normal": ("normal(mean=0)", bell), "abnormal": ("beta", np.roll(bell, 61))},
        "log ratio",
    )


def jpeg() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (32, 24), (200, 30, 30)).save(file, "JPEG")
    return file.getvalue()


@pytest.fixture(scope="module")
def report() -> Report:
    of = videos()
    return Report(
        "ped2: density of swin_i3d",
        [Row("swin_i3d", (evaluate(of, resamples=50),))],
        of,
        densities(),
        {"detector": "density", "weights": "RANDOM(seed=0)", "note": "</pre><script>"},
        {"Test001": [Picture(25, jpeg())]},
        ["The features are of RANDOM weights."],
    )


class Page(HTMLParser):
    """Tags in order, with attributes; an unclosed or a wrongly closed one is an error."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.found: list[tuple[str, dict[str, Any]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def parsed(text: str) -> Page:
    page = Page()
    page.feed(text)
    page.close()
    assert not page.open
    return page


def test_is_one_page_that_loads_nothing(report: Report, tmp_path: Path) -> None:
    path = tmp_path / "out" / "report.html"
    write_report(report, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    page = parsed(path.read_text())
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "iframe", "object", "embed"}
    for tag, attributes in page.found:
        for name in ("src", "href", "xlink:href"):
            value = attributes.get(name)
            assert value is None or value.startswith("data:"), (tag, value)
    assert "url(" not in path.read_text()
    policy = [a for t, a in page.found if t == "meta" and "http-equiv" in a]
    assert policy[0]["content"].startswith("default-src 'none'")


def test_shows_everything(report: Report) -> None:
    page = parsed(html(report))
    words = "".join(page.words)
    assert PERFECT in words
    assert "The features are of RANDOM weights." in words
    assert '"weights": "RANDOM(seed=0)"' in words
    area = report.rows[0].evaluations[0].overall.auc
    assert f"{100 * area:.1f}%" in words
    for name in NAMES:
        assert name in words
    # The ROC, the densities, and one figure a test video.
    assert sum(tag == "svg" for tag, _ in page.found) == 2 + len(NAMES)
    images = [a for tag, a in page.found if tag == "img"]
    assert len(images) == 1
    assert images[0]["alt"] == "frame 25 of Test001"
    # Abnormal videos come first.
    heads = re.findall(r"<h3>(.*?) <small>(\w+)", html(report))
    assert [kind for _, kind in heads] == ["abnormal"] * 3 + ["normal"] * 3


def test_where_nothing_was_measured_it_is_still_a_page() -> None:
    of = scored([np.full(20, np.nan)] * 2, [np.zeros(20, int)] * 2, [0, 0])
    page = html(Report("run", [Row("swin", (evaluate(of, resamples=5),))], of, None, {}))
    assert sum(tag == "svg" for tag, _ in parsed(page).found) == 2
    assert "nan" not in page.lower()


def test_figures_as_files(report: Report, tmp_path: Path) -> None:
    paths = write_figures(report, tmp_path / "png")
    assert sorted(paths) == sorted((tmp_path / "png").iterdir())
    assert {p.name for p in paths} == {
        "roc.png",
        "densities.png",
        "video-a_b_script_.png",
        "video-a_b_script_~2.png",
        *(f"video-Test00{i}.png" for i in (1, 2, 3, 4)),
    }
    for path in paths:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("RGB"))
        assert pixels.std() > 0
    # The shaded frames of the picture are those of the ground truth.
    with Image.open(tmp_path / "png" / "video-Test001.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    frames = len(report.of.scores[report.of.names.index("Test001")])
    row = pixels[2 * 30]  # in a quiet place near the top of the frame
    shaded = np.flatnonzero((row[:, 0] > 230) & (row[:, 1] < 235) & (row[:, 2] < 235))
    left, right = ((2 * (64 + 820 * f / frames)) for f in (20, 40))
    assert shaded.min() == pytest.approx(left, abs=4)
    assert shaded.max() == pytest.approx(right, abs=4)


def test_a_disk_that_refuses(report: Report, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnwritable, match="file"):
        write_report(report, tmp_path / "file" / "report.html")
    with pytest.raises(StoreUnwritable, match="file"):
        write_figures(report, tmp_path / "file")


# Figures


def test_time_figure_shows_scores_and_truth() -> None:
    labels = np.array([0, 0, 1, 1, 1, 0, -1, -1], np.int8)
    scores = np.array([1.0, 1, 3, 3, np.nan, np.nan, 2, 2])
    figure = time_figure("v", scores, labels, (0, 4), marked=[2])
    axes = Axes(64, 8, 820, 110, (0, 8), (0, 4))
    areas = [s for s in figure.shapes if isinstance(s, Area)]
    assert [a.color for a in areas] == [SHADE, FAINT]
    np.testing.assert_allclose(areas[0].points[:, 0], axes.at(np.array([2, 5, 5, 2]), 0)[:, 0])
    np.testing.assert_allclose(areas[1].points[:, 0], axes.at(np.array([6, 8, 8, 6]), 0)[:, 0])
    lines = [s for s in figure.shapes if isinstance(s, Line)]
    np.testing.assert_allclose(
        lines[0].points, axes.at(np.array([0, 2, 2, 4]), np.array([1, 1, 3, 3]))
    )
    np.testing.assert_allclose(lines[1].points, axes.at(np.array([6, 8]), np.array([2, 2])))
    np.testing.assert_allclose(lines[2].points[0], axes.at(2.5, 4)[0])  # the mark
    assert "3 of them anomalous" in figure.title


def test_long_videos_keep_their_peaks() -> None:
    scores = np.random.default_rng(0).normal(size=200_000)
    scores[123_456] = 9.0
    figure = time_figure("v", scores, np.zeros(200_000, np.int8), (-6, 10))
    (line,) = [s for s in figure.shapes if isinstance(s, Line) and s.width == 1.5]
    axes = Axes(64, 8, 820, 110, (0, 200_000), (-6, 10))
    assert len(line.points) < 5000
    assert line.points[:, 1].min() == pytest.approx(axes.at(0, 9.0)[0, 1])
    assert line.points[:, 1].max() == pytest.approx(axes.at(0, scores.min())[0, 1])


def test_roc_figure_goes_from_corner_to_corner() -> None:
    figure = roc_figure(videos())
    assert figure is not None
    lines = [s for s in figure.shapes if isinstance(s, Line) and s.color == NORMAL]
    axes = Axes(64, 16, 380, 380, (0, 1), (0, 1))
    np.testing.assert_allclose(
        lines[0].points[[0, -1]], axes.at(np.array([0, 1]), np.array([0, 1]))
    )
    assert any(isinstance(s, Area) for s in figure.shapes)
    words = " ".join(s.text for s in figure.shapes if isinstance(s, Words))
    assert "95% over videos" in words
    # One abnormal video: a curve, but no interval.
    one = scored([np.arange(4.0)] * 3, [[0, 1, 0, 1], [0] * 4, [0] * 4], [1, 0, 0])
    alone = roc_figure(one)
    assert alone is not None
    assert not any(isinstance(s, Area) for s in alone.shapes)
    assert roc_figure(videos().only(0)) is None


def test_densities_are_on_the_scale_of_their_histograms() -> None:
    """Both have the area 1, so that they can be compared by eye."""
    figure = density_figure(densities())
    for kind, color in (("normal", NORMAL), ("abnormal", ABNORMAL)):
        (area,) = [s for s in figure.shapes if isinstance(s, Area) and s.color == color]
        (line,) = [s for s in figure.shapes if isinstance(s, Line) and s.color == color]
        under = [
            np.trapezoid(276 - points[:, 1], points[:, 0]) for points in (area.points, line.points)
        ]
        assert under[1] == pytest.approx(under[0], rel=0.05), kind


def test_infinite_density_at_an_end_does_not_flatten_the_rest() -> None:
    given = densities()
    spiked = given.fitted["normal"][1].copy()
    spiked[len(spiked) // 2] = np.inf
    figure = density_figure(
        Densities(given.values, given.at, {**given.fitted, "normal": ("gamma", spiked)}, "score")
    )
    assert "inf" not in svg(figure)
    assert "nan" not in svg(figure)


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        (np.zeros(10), [4]),
        (np.repeat([0.0, 5, 1, 4, 2], 60), [89, 209, 278]),
        (np.full(5, np.nan), []),
        (np.zeros(0), []),
    ],
)
def test_highest_frames(scores: np.ndarray, expected: list[int]) -> None:
    assert highest_frames(scores) == expected


def test_wanted_frames_are_the_highest_of_each_video() -> None:
    of = videos()
    found = wanted_frames(of, count=2)
    assert set(found) == set(of.names)
    for name, scores in zip(of.names, of.scores, strict=True):
        assert np.nanmax(scores) in scores[found[name]]
        assert len(found[name]) <= 2


@pytest.mark.parametrize(
    ("low", "high", "wanted", "expected"),
    [
        (0, 1, 4, [0.0, 0.5, 1.0]),
        (0, 1, 5, [0.0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-2.6, 3.1, 4, [-2.0, 0.0, 2.0]),
        (0, 200_000, 4, [0.0, 50_000.0, 100_000.0, 150_000.0, 200_000.0]),
        (3, 3, 4, [3]),
    ],
)
def test_ticks_are_round(low: float, high: float, wanted: int, expected: list[float]) -> None:
    assert ticks(low, high, wanted) == expected


def test_what_made_it_is_json(report: Report) -> None:
    (text,) = re.findall(r"<pre>(.*?)</pre>", html(report), re.DOTALL)
    assert json.loads(unescape(text)) == report.made
