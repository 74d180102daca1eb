"""The picture of accuracy against cost, over all models, protocols and sizes of a set."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from anyres.evaluation.rows import NATIVE, SweepRow, frontier, line_name, lines, protocol_text, si, size_label
from anyres.report.canvas import Theme, legend, new_figure, titles
from anyres.report.plots import Panel

_Point = tuple[float, float]  # multiply-accumulates, top-1

# In points (1/72 inch), about: what the data span, a letter and a line of a label, and the radius of a ring.
_WIDE, _TALL, _LETTER, _LINE, _RING = 320, 170, 6, 13, 7


def pareto_figure(panel: Panel, theme: Theme) -> Figure:
    """Accuracy against cost over all models, protocols and sizes, with the Pareto frontier and its sizes."""
    with new_figure(theme, height=4.7) as (figure, (ax,)):
        handles: list[Artist] = []
        for (model, protocol), line in lines(panel.rows).items():
            handles += _draw_line(ax, line, line_name(model, protocol), panel.colour(model, theme))
        points: list[_Point] = [(float(row["macs"]), row["top1"]) for row in panel.rows]
        costs, best = [cost for cost, _ in points], frontier(points)
        handles += _draw_frontier(ax, [points[i] for i in best], max(costs), theme)
        at: dict[_Point, list[SweepRow]] = {}
        for i in best:
            at.setdefault(points[i], []).append(panel.rows[i])
        texts = {point: _text(rows) for point, rows in at.items()}
        for point, place in text_places(texts, points).items():
            offset = (-_RING, _RING - 2) if place == "right" else (0, _RING + 2)
            style: Any = {"textcoords": "offset points", "ha": place, "fontsize": 9, "color": theme.ink}
            ax.annotate(texts[point], point, offset, **style)
        ax.set_xscale("log")
        ax.margins(x=0.1, y=0.12)
        ax.xaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if max(costs) / min(costs) < 100 else (1,)))
        ax.xaxis.set_minor_locator(NullLocator())
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: si(value, 1)))
        titles(ax, theme, f"Accuracy against cost on {panel.title}", "top-1, %", "multiply-accumulates per image")
        legend(ax, theme, handles)
    return figure


def text_places(texts: dict[_Point, str], points: Sequence[_Point]) -> dict[_Point, str]:
    """How the labels of the frontier are aligned: left of and above their rings ("right"), or above ("center").

    Above and to the left of the frontier there is nothing, since it would dominate. A label that would lie on another,
    on another's ring or right above that is left out; the dearest point is served first.
    """
    # matplotlib has not laid out the axes yet, so boxes are estimated in points from the span of the data
    costs, tops = [math.log(cost) for cost, _ in points], [top for _, top in points]
    across = _WIDE / ((max(costs) - min(costs)) or 1.0)
    up = _TALL / ((max(tops) - min(tops)) or 1.0)
    spots = {point: (across * math.log(point[0]), up * point[1]) for point in texts}
    rings = {point: (x - _RING, y - _RING, x + _RING, y + _RING + _LINE) for point, (x, y) in spots.items()}
    found: dict[_Point, str] = {}
    boxes: list[tuple[float, float, float, float]] = []
    # dearest first: on the right the frontier is flat, and labels crowd
    for point in reversed(texts):
        x, y = spots[point]
        long = _LETTER * len(texts[point])
        others = [*boxes, *(ring for other, ring in rings.items() if other != point)]
        for place, left, low in (("right", x - _RING - long, y + _RING - 2), ("center", x - long / 2, y + _RING + 2)):
            box = (left, low, left + long, low + _LINE)
            if not any(box[0] < o[2] and o[0] < box[2] and box[1] < o[3] and o[1] < box[3] for o in others):
                found[point] = place
                boxes.append(box)
                break
    return found


def _draw_line(ax: Axes, line: Sequence[SweepRow], name: str, colour: str) -> list[Any]:
    """One model and protocol: a line through the square sizes, diamonds for others, crosses for images resized."""
    native = line[0]["protocol"] == NATIVE
    style: Any = {"color": colour, "alpha": 0.85, "markersize": 5, "linewidth": 1, "label": name}
    square = [row for row in line if row["size"][0] == row["size"][1]]
    found = []
    for rows, mark in ((square, "o"), ([row for row in line if row not in square], "D")):
        found += ax.plot(
            [row["macs"] for row in rows],
            [row["top1"] for row in rows],
            marker=mark if native else "x",
            linestyle="-" if native and mark == "o" else "none",
            **style,
        )
    return found[:1]  # for the legend


def _draw_frontier(ax: Axes, best: Sequence[_Point], end: float, theme: Theme) -> list[Artist]:
    # steps, since a budget between two costs buys no more than the cheaper one
    xs, ys = [cost for cost, _ in best], [top for _, top in best]
    steps: Any = {"color": theme.ink, "linewidth": 2.4, "alpha": 0.35, "drawstyle": "steps-post", "zorder": 1}
    drawn: list[Artist] = [*ax.plot([*xs, end], [*ys, ys[-1]], label="Pareto frontier", **steps)]
    rings: Any = {"s": 110, "facecolors": "none", "edgecolors": theme.ink, "linewidths": 1.2, "zorder": 4}
    return [*drawn, ax.scatter(xs, ys, label="on the frontier: size of the image", **rings)]


def _text(rows: Sequence[SweepRow]) -> str:
    """The sizes of the rows at one point, each with the other size that it is resized to."""
    names = list(dict.fromkeys(_size(row) for row in rows))
    return ", ".join(names) if len(names) <= 2 else f"{names[0]} and {len(names) - 1} more"


def _size(row: SweepRow) -> str:
    own, target = size_label(row["size"]), protocol_text(row["protocol"]).split(" ")[-1]
    return own if target in (NATIVE, own) else f"{own} → {target}"
