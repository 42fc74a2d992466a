"""One page that shows a run: self-contained, nothing is loaded from anywhere."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any, Final

import numpy as np

from detector import table
from detector.curves import auc
from detector.drawing import Figure, svg, write_png
from detector.figures import Densities, density_figure, highest_frames, roc_figure, time_figure
from detector.scored import Scored
from detector.table import Row, percent
from detector.videos import ABNORMAL, NORMAL
from featurestore import disk
from featurestore.disk import writing

_KINDS: Final = {ABNORMAL: "abnormal", NORMAL: "normal"}

_STYLE: Final = """
body { font-family: sans-serif; color: #222; margin: 2em auto; max-width: 60em; padding: 0 1em; }
table { border-collapse: collapse; font-size: 85%; }
th, td { padding: .3em .7em; text-align: right; border-bottom: 1px solid #d5d5d5; }
th:first-child, td:first-child { text-align: left; }
tr.perfect { color: #666; }
svg { max-width: 100%; height: auto; }
figure { display: inline-block; margin: .3em; } figcaption { font-size: 80%; }
h3 { margin: 1.2em 0 0; font-size: 100%; } h3 small { font-weight: normal; color: #666; }
pre { background: #f6f6f6; padding: 1em; overflow-x: auto; font-size: 85%; }
"""


@dataclass(frozen=True)
class Picture:
    """A small JPEG of one frame."""

    frame: int
    jpeg: bytes


@dataclass(frozen=True)
class Report:
    """What a report shows.

    `rows`: the table. `of`: the test videos. `densities`: None where nothing was held out of a
    fit. `made`: plain JSON that says what made the run. `pictures`: video -> frames of it; of
    videos that are not there, none. `remarks`: sentences for people, shown at the top.
    """

    title: str
    rows: Sequence[Row]
    of: Scored
    densities: Densities | None
    made: Mapping[str, Any]
    pictures: Mapping[str, Sequence[Picture]] = field(default_factory=dict)
    remarks: Sequence[str] = ()


def wanted_frames(of: Scored, count: int = 3) -> dict[str, list[int]]:
    """The frames of each video that a report has pictures of: those with the highest scores."""
    return {
        name: highest_frames(scores, count)
        for name, scores in zip(of.names, of.scores, strict=True)
    }


def write_report(of: Report, path: Path) -> None:
    """Writes the page, in one step. Raises StoreUnwritable when the disk refuses."""
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        page = html(of).encode()
        disk.replace(path, lambda partial: partial.write_bytes(page))


def write_figures(of: Report, folder: Path) -> list[Path]:
    """Writes the page's figures as PNG files; returns them.

    Raises StoreUnwritable when the disk refuses.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    figures = [*_overall(of), *(figure for _, figure in _videos(of))]
    found: list[Path] = []
    for figure in figures:
        name = re.sub(r"[^\w.-]+", "_", figure.name)
        # Names that only differ in what a file's name cannot hold get a number.
        taken = sum(p.stem == name or p.stem.startswith(f"{name}~") for p in found)
        path = folder / f"{name}{f'~{taken + 1}' if taken else ''}.png"
        write_png(figure, path)
        found.append(path)
    return found


def html(of: Report) -> str:
    """The page."""
    videos = "".join(_video(of, row, figure) for row, figure in _videos(of))
    made = json.dumps(of.made, indent=2, ensure_ascii=False, default=str)
    remarks = "".join(f"<p><strong>{escape(remark)}</strong></p>" for remark in of.remarks)
    # The policy: even if something in here were an address, a browser would not ask for it.
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{escape(of.title)}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>{escape(of.title)}</h1>
{remarks}
{_table(of.rows)}
{"".join(f"<p>{svg(figure)}</p>" for figure in _overall(of))}
<h2>Test videos</h2>
<p>Score of every frame. Red: frames that are anomalous; grey: not known; a red mark: the frames
with the highest scores.</p>
{videos}
<h2>What made it</h2>
<pre>{escape(made)}</pre>
</body>
</html>
"""


def _table(rows: Sequence[Row]) -> str:
    heads = "".join(f"<th>{escape(column)}</th>" for column in table.COLUMNS)
    lines = [
        *((table.cells(row), "") for row in rows),
        *((line, ' class="perfect"') for line in table.perfect_cells(rows)),
    ]
    body = "".join(
        f"<tr{kind}>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>\n"
        for line, kind in lines
    )
    notes = "<br>".join(escape(note) for note in table.notes(rows))
    return f"<table><thead><tr>{heads}</tr></thead><tbody>\n{body}</tbody></table><p>{notes}</p>"


def _overall(of: Report) -> list[Figure]:
    found = roc_figure(of.of)
    return [
        *([] if found is None else [found]),
        *([] if of.densities is None else [density_figure(of.densities)]),
    ]


def _videos(of: Report) -> list[tuple[int, Figure]]:
    """Row and figure of each test video: abnormal ones first, then by name."""
    finite = np.concatenate([np.zeros(0), *(s[~np.isnan(s)] for s in of.of.scores)])
    low, high = (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)
    margin = 0.03 * (high - low) or 0.5
    order = sorted(range(len(of.of.names)), key=lambda row: (-of.of.labels[row], row))
    return [
        (
            row,
            time_figure(
                of.of.names[row],
                of.of.scores[row],
                of.of.frame_labels[row],
                (low - margin, high + margin),
                marked=highest_frames(of.of.scores[row]),
            ),
        )
        for row in order
    ]


def _video(of: Report, row: int, figure: Figure) -> str:
    name = of.of.names[row]
    kind = _KINDS.get(int(of.of.labels[row]), "not labelled")
    own = auc(of.of.counts()[row])
    told = f"{kind}, {len(of.of.scores[row]):,} frames"
    told += "" if own is None else f", AUC {percent(own)}"
    pictures = "".join(
        f'<figure><img alt="frame {p.frame} of {escape(name)}" '
        f'src="data:image/jpeg;base64,{base64.b64encode(p.jpeg).decode()}">'
        f"<figcaption>frame {p.frame}: {of.of.scores[row][p.frame]:.3g}</figcaption></figure>"
        for p in of.pictures.get(name, ())
    )
    return f"<h3>{escape(name)} <small>{told}</small></h3>\n{svg(figure)}\n<p>{pictures}</p>\n"
