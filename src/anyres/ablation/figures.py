"""The pictures of a study: all variants in one panel per set, and each alone before the others.

Colour, marker and kind of line together tell the variants apart, for any eye and on paper without colour; a filled
marker is a size that the variant was trained at; a band reaches from the worst to the best seed. What the first variant
makes of images that were resized to its smallest or largest training size is drawn in ink, without markers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from anyres.ablation.summary import cells, sets
from anyres.evaluation.rows import NATIVE, protocol_text
from anyres.report.canvas import Theme, legend, new_figure, plain_axes, resolution_axis, style, titles

_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "p", "*", "h", "<", ">", "d", "8")
_MOST_BANDS = 4  # of several seeds in one panel; more hide each other
_DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1.5)))
_COLUMNS = 4
_PANELS = 3
"""Panels beside each other that are still read well."""
_RESIZED: tuple[Any, ...] = ((0, (6, 2)), (0, (1, 1.5)))

Cells = Mapping[int, Mapping[str, Any]]


def together(data: Mapping[str, Any], theme: Theme) -> Figure:
    """Accuracy against resolution of all variants, images as they are; one panel per set, or per set and panel.

    The baseline that any of them has to beat is drawn for the first: the same images resized to a training size.
    """
    groups = dict.fromkeys(variant["panel"] for variant in data["variants"])
    panels = [(name, group) for name in sets(data["summary"]) for group in groups]
    most = max(sum(variant["panel"] == group for variant in data["variants"]) for group in groups)
    columns = min(len(panels), max(_PANELS, len(groups)))  # the sets of a study of panels stand below each other
    rows = math.ceil(len(panels) / columns)
    with new_figure(theme, columns=columns, rows=rows, height=5.5 + 0.12 * most) as (figure, axes):
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for (name, group), ax in zip(panels, axes, strict=False):
            table, handles = cells(data["summary"], name), list[Artist]()
            members = [variant for variant in data["variants"] if variant["panel"] == group]
            shown = [variant["name"] for variant in members if variant["name"] in table]
            several = sum(any(cell["seeds"] > 1 for cell in table[variant].values()) for variant in shown)
            band = several <= _MOST_BANDS
            for number, variant in enumerate(members):
                if variant["name"] in table:
                    handles.append(_line(ax, variant, table[variant["name"]], theme, number, band=band))
            if shown:
                handles += _resized_lines(ax, data, name, shown[0], theme)
            handles.append(_dot(theme, theme.muted, "trained at this size"))
            handles.append(_dot(theme, theme.paper, "never trained at this size"))
            _axes(ax, (side for variant in shown for side in table[variant]))
            titles(ax, theme, f"Accuracy on {name}" + (f", {group}" if group else ""), "top-1, %")
            legend(ax, theme, handles)
    return figure


def alone(data: Mapping[str, Any], set_name: str, theme: Theme) -> Figure:
    """A small panel for each variant: its own line and band, the first variant in ink, the others in grey."""
    table = cells(data["summary"], set_name)
    shown = [(i, variant) for i, variant in enumerate(data["variants"]) if variant["name"] in table]
    columns = min(_COLUMNS, len(shown))
    rows = math.ceil(len(shown) / columns)
    with style():
        figure = Figure(figsize=(3 * columns, 2.7 * rows + 0.3), facecolor=theme.paper, layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(rows, columns, sharey=True, squeeze=False, subplot_kw={"facecolor": theme.paper})
        for ax in axes.flat[len(shown) :]:
            ax.set_axis_off()
        for ax, (number, variant) in zip(axes.flat, shown, strict=False):
            plain_axes(ax, theme)
            for _, other in shown:
                row = table[other["name"]]
                look: dict[str, Any] = {"color": theme.muted, "linewidth": 0.8, "alpha": 0.4, "zorder": 1}
                if other is shown[0][1]:
                    look = {"color": theme.ink, "linewidth": 1.2, "zorder": 2}
                ax.plot(sorted(row), [row[side]["mean"] for side in sorted(row)], **look)
            _line(ax, variant, table[variant["name"]], theme, number, band=True)
            _axes(ax, table[variant["name"]])
            ax.tick_params(axis="x", labelsize=7.5, labelrotation=55)
            ax.set_title(variant["name"], loc="left", color=theme.ink, fontsize=10, fontweight="bold")
        figure.supylabel(f"top-1 on {set_name}, %", color=theme.muted, fontsize=10.5)
    return figure


def _line(ax: Axes, variant: Mapping[str, Any], row: Cells, theme: Theme, number: int, *, band: bool) -> Line2D:
    """Mean, markers and, if asked for, the band from worst to best seed; returns the handle for a legend."""
    colour, marker = theme.palette[number % len(theme.palette)], _MARKERS[number % len(_MARKERS)]
    look: dict[str, Any] = {"color": colour, "linewidth": 1.9, "zorder": 3}
    look["linestyle"] = _DASHES[number // len(theme.palette) % len(_DASHES)]
    sides = sorted(row)
    ax.plot(sides, [row[side]["mean"] for side in sides], **look)
    if band and any(row[side]["seeds"] > 1 for side in sides):
        low, high = ([row[side][end] for side in sides] for end in ("low", "high"))
        ax.fill_between(sides, low, high, color=colour, alpha=0.14, linewidth=0)
    for side in sides:
        fill = colour if side in variant["trained_at"] else theme.paper
        ax.plot(
            [side], [row[side]["mean"]], marker=marker, markersize=5.5, color=colour, markerfacecolor=fill,
            markeredgewidth=1.4, linestyle="none", zorder=4,
        )  # fmt: skip
    return Line2D([], [], marker=marker, markersize=5.5, label=variant["name"], **look)


def _resized_lines(ax: Axes, data: Mapping[str, Any], set_name: str, variant: str, theme: Theme) -> list[Artist]:
    """One thin line for each size that the images were resized to before the variant got them."""
    protocols = dict.fromkeys(row["protocol"] for row in data["summary"] if row["variant"] == variant)
    found: list[Artist] = []
    for dash, protocol in zip(_RESIZED, (name for name in protocols if name != NATIVE), strict=False):
        row = cells(data["summary"], set_name, protocol).get(variant, {})
        look: dict[str, Any] = {"color": theme.ink, "linewidth": 1.3, "linestyle": dash, "zorder": 2}
        ax.plot(sorted(row), [row[side]["mean"] for side in sorted(row)], **look)
        found.append(Line2D([], [], label=f"{variant}, {protocol_text(protocol)}", **look))
    return found


def _dot(theme: Theme, fill: str, text: str) -> Line2D:
    look: dict[str, Any] = {"marker": "o", "markerfacecolor": fill, "markeredgewidth": 1.4, "linestyle": "none"}
    return Line2D([], [], color=theme.muted, label=text, **look)


def _axes(ax: Axes, sides: Iterable[int]) -> None:
    resolution_axis(ax, [(side, side) for side in sides])
    ax.set_ylim(0, 102)
    ax.yaxis.set_major_locator(MultipleLocator(20))
