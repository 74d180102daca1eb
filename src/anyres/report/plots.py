"""The pictures of a sweep, as matplotlib Figures.

Colour stands for the model, the kind of line for the protocol; a filled marker is a size that the model was trained
at, a hollow one a size it never saw. Sizes that are not square stand where the square of as many pixels stands, off the
line.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.lines import Line2D
from matplotlib.ticker import MultipleLocator

from anyres.evaluation.rows import NATIVE, SweepRow, bytes_text, line_name, lines, si, side, size_label
from anyres.report.canvas import Theme, legend, log_y, new_figure, resolution_axis, style, titles
from anyres.report.paper import FIGURE_1_VITAR_B, RESOLUTIONS, TABLE_1

PAPER_PRESETS = tuple(
    f"{family}_{word}_{stem}"
    for word in ("small", "base")
    for family, stem in (("vitar", "conv16"), ("vitar", "patch16"), ("resformer", "patch16"))
)
PAPER_SIDES = tuple(sorted({*RESOLUTIONS, *FIGURE_1_VITAR_B}))


@dataclass(frozen=True, kw_only=True)
class Panel:
    """What one set of images shows: its title, rows and models; `order` gives every model of the report its colour."""

    title: str
    rows: Sequence[SweepRow]
    models: Mapping[str, Mapping[str, Any]]
    order: Sequence[str]

    def colour(self, model: str, theme: Theme) -> str:
        return theme.palette[list(self.order).index(model) % len(theme.palette)]


def accuracy_figure(panels: Sequence[Panel], theme: Theme) -> Figure:
    """Accuracy against resolution with 95 % bands, one panel per set side by side."""
    with new_figure(theme, columns=len(panels), height=4.7) as (figure, axes):
        floor = min(row["interval"][0] for panel in panels for row in panel.rows)
        for panel, ax in zip(panels, axes, strict=True):
            _draw_lines(ax, panel, theme, lambda row: row["top1"], lambda row: (row["interval"][0], row["interval"][1]))
            step = 20 if floor < 60 else 10 if floor < 80 else 5
            ax.set_ylim(step * (floor // step), 100 + step / 10)
            ax.yaxis.set_major_locator(MultipleLocator(step))
            titles(ax, theme, f"Accuracy on {panel.title}", "top-1, %")
    return figure


def measure_figure(panel: Panel, theme: Theme, what: str) -> Figure:
    """Cost, latency or memory (`what`: "macs", "latency" or "memory") against resolution, both axes logarithmic."""
    title, unit, value = {
        "macs": ("Cost of one image", "multiply-accumulates", lambda row: row["macs"]),
        "latency": ("Latency at batch 1", "ms (median, band to p95)", lambda row: row["latency_ms"]["p50"]),
        "memory": ("Peak memory of one image", "tensors alive at once", lambda row: row["peak_memory_bytes"]),
    }[what]
    with new_figure(theme, height=4.7) as (figure, (ax,)):
        _draw_lines(ax, panel, theme, value, _latency_band if what == "latency" else None)
        log_y(ax, lambda value: bytes_text(value, 1) if what == "memory" else si(value, 1))
        titles(ax, theme, title, unit)
    return figure


def _latency_band(row: SweepRow) -> tuple[float, float]:
    """Median to p95; nothing for images resized to one size, which are one measurement and would be one wide bar."""
    times = row["latency_ms"]
    return times["p50"], times["p95"] if row["protocol"] == NATIVE else times["p50"]


def paper_figure(curves: Mapping[str, Mapping[int, float]], theme: Theme) -> Figure:
    """Costs printed in the paper (markers) on our own counts (lines); `curves`: preset -> side -> cost in 1e9."""
    with new_figure(theme, columns=2, height=4.9) as (figure, axes):
        for ax, size, word in zip(axes, ("S", "B"), ("small", "base"), strict=True):
            handles = []
            for paper in (paper for paper in TABLE_1 if paper.size == size and paper.preset):
                vitar = paper.title.startswith("ViTAR")
                colour = theme.palette[0 if vitar else 1]
                printed = paper.printed_costs() | (FIGURE_1_VITAR_B if paper.title == "ViTAR-B" else {})
                curve = curves[str(paper.preset)]
                handles += ax.plot(
                    list(curve), list(curve.values()), color=colour, linewidth=1.6, label=f"{paper.preset}, counted"
                )
                handles += ax.plot(
                    list(printed),
                    list(printed.values()),
                    color=colour,
                    marker="o",
                    markersize=6.5,
                    linestyle="none",
                    markerfacecolor="none",
                    markeredgewidth=1.5,
                    label=f"{paper.title}, printed in the paper",
                )
                missing = paper.out_of_memory()
                if missing:
                    handles += ax.plot(
                        missing,
                        [curve[r] for r in missing],
                        color=colour,
                        marker="x",
                        linestyle="none",
                        label="out of memory in the paper",
                    )
            own = curves[f"vitar_{word}_patch16"]
            handles += ax.plot(
                list(own),
                list(own.values()),
                color=theme.palette[2],
                linewidth=1.6,
                linestyle="--",
                label=f"vitar_{word}_patch16, counted",
            )
            resolution_axis(ax, [(side, side) for side in (224, 448, 896, 1792, 4032)])
            log_y(ax, lambda value: si(1e9 * value, 1))
            titles(ax, theme, f"Cost against resolution, size {size}", "multiply-accumulates per image")
            legend(ax, theme, handles)
    return figure


def example_figure(examples: Sequence[Mapping[str, Any]], order: Sequence[str], theme: Theme) -> Figure:
    """One image at several sizes, true to scale, with what each model reads in it (right in green, wrong in red)."""
    images = [imread(io.BytesIO(base64.b64decode(example["png"])), format="png") for example in examples]
    gap, left = 26, 150  # pixels of the thumbnails between two of them, and for the models' names
    models = [model for model in order if any(model in example["predictions"] for example in examples)]
    starts = [left + sum(max(image.shape[1], 56) + gap for image in images[:i]) for i in range(len(images) + 1)]
    tall = max(image.shape[0] for image in images)
    wide, below = starts[-1], 30 + 22 * len(models)
    with style():
        figure = Figure(figsize=(wide / 100, (tall + below + 12) / 100), facecolor=theme.paper)
        FigureCanvasAgg(figure)
        ax = figure.add_axes((0, 0, 1, 1))
        ax.set_axis_off()
        ax.set_xlim(0, wide)
        ax.set_ylim(-below, tall + 12)
        good, bad = theme.palette[2], theme.palette[1]
        for start, image, example in zip(starts, images, examples, strict=False):
            column = max(image.shape[1], 56)
            x = start + (column - image.shape[1]) / 2
            grey: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1} if image.ndim == 2 else {}
            ax.imshow(
                image, extent=(x, x + image.shape[1], 0, image.shape[0]), aspect="auto", interpolation="nearest", **grey
            )
            ax.text(start + column / 2, -18, size_label(example["size"]), ha="center", color=theme.muted, fontsize=9)
            for number, model in enumerate(models):
                if model in example["predictions"]:
                    name, _ = example["predictions"][model]
                    right = name == example["label"]
                    text = f"{'✓' if right else '✗'} {name}"
                    ax.text(
                        start + column / 2,
                        -40 - 22 * number,
                        text,
                        ha="center",
                        color=good if right else bad,
                        fontsize=10,
                    )
        for number, model in enumerate(models):
            colour = theme.palette[list(order).index(model) % len(theme.palette)]
            ax.text(10, -40 - 22 * number, model, color=colour, fontsize=8)
    return figure


def _draw_lines(
    ax: Axes,
    panel: Panel,
    theme: Theme,
    value: Callable[[SweepRow], float],
    band: Callable[[SweepRow], tuple[float, float]] | None,
) -> None:
    """One line per (model, protocol) through the square sizes; other sizes as diamonds."""
    handles: list[Line2D] = []
    resized_styles = ((0, (5, 2)), (0, (1, 1.5)), (0, (5, 1.5, 1, 1.5)))
    seen: dict[str, int] = {}
    for (model, protocol), line in lines(panel.rows).items():
        colour, native = panel.colour(model, theme), protocol == NATIVE
        style: Any = "-" if native else resized_styles[seen.get(model, 0) % len(resized_styles)]
        seen[model] = seen.get(model, 0) + (not native)
        label = line_name(model, protocol)
        width = 2.2 if native else 1.4
        square = [row for row in line if row["size"][0] == row["size"][1]]
        xs, ys = [side(row["size"]) for row in square], [value(row) for row in square]
        handles += ax.plot(
            xs, ys, color=colour, linestyle=style, linewidth=width, label=label, zorder=3 if native else 2
        )
        if band and square:
            low, high = zip(*(band(row) for row in square), strict=True)
            ax.fill_between(xs, low, high, color=colour, alpha=0.16 if native else 0.08, linewidth=0)
        trained = {tuple(size) for size in panel.models[model]["training_sizes"]}
        for row in line if native else [row for row in line if row not in square]:
            fill = colour if native and tuple(row["size"]) in trained else theme.paper
            marker = "o" if row in square else "D"
            ax.plot(
                [side(row["size"])],
                [value(row)],
                marker=marker,
                markersize=6,
                color=colour,
                markerfacecolor=fill,
                markeredgewidth=1.6,
                linestyle="none",
                zorder=4,
            )
    resolution_axis(ax, [row["size"] for row in panel.rows])
    kinds = [(theme.muted, "trained at this size"), (theme.paper, "never trained at this size")]
    dots = [
        Line2D(
            [],
            [],
            marker="o",
            color=theme.muted,
            markerfacecolor=fill,
            markeredgewidth=1.6,
            linestyle="none",
            label=text,
        )
        for fill, text in kinds
    ]
    legend(ax, theme, handles + dots)
