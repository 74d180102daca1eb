"""What the report's pictures are drawn on: themes, axes, legends, and PNG bytes that are the same every time.

Figures of matplotlib without pyplot: no global state is touched, and the user's matplotlibrc is not used.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from anyres.evaluation.rows import si, side, size_label

DPI = 160  # about twice what a page shows at 100 %, for sharp screens


@dataclass(frozen=True, kw_only=True)
class Theme:
    """Colours of a figure; `palette` stays apart under the common colour blindnesses (Okabe and Ito 2008)."""

    name: str
    paper: str
    ink: str
    muted: str
    grid: str
    palette: tuple[str, ...]


LIGHT = Theme(
    name="light",
    paper="#ffffff",
    ink="#1c2128",
    muted="#5b6470",
    grid="#e3e6ea",
    palette=("#0072b2", "#d55e00", "#009e73", "#b0508a", "#8a6d00", "#3f3f9f", "#56606b"),
)
DARK = Theme(
    name="dark",
    paper="#171b21",
    ink="#e8ebef",
    muted="#a0a9b4",
    grid="#2d333c",
    palette=("#56b4e9", "#f28e3c", "#2fc79a", "#e39ac6", "#e6c84b", "#a3a3f5", "#b4bcc6"),
)


def png(figure: Figure) -> bytes:
    """The figure as PNG; free of dates and versions, so that the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with style():
        figure.savefig(buffer, format="png", dpi=DPI, facecolor=figure.get_facecolor(), metadata={"Software": None})
    return buffer.getvalue()


@contextmanager
def style() -> Iterator[None]:
    """matplotlib's own defaults, whatever the user's matplotlibrc says, and put back afterwards."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(
            {"font.size": 10.5, "axes.titlesize": 12, "axes.labelsize": 10.5, "legend.fontsize": 9.5}
        )
        yield


@contextmanager
def new_figure(theme: Theme, *, columns: int = 1, rows: int = 1, height: float) -> Iterator[tuple[Figure, list[Axes]]]:
    """A figure of panels, row by row; `height` in inches is that of a row."""
    with style():
        figure = Figure(figsize=(6.0 * columns, height * rows), facecolor=theme.paper, layout="constrained")
        FigureCanvasAgg(figure)
        # A subfigure for each panel, so that every panel has its own legend below its own labels.
        parts = figure.subfigures(rows, columns, squeeze=False, facecolor=theme.paper)
        axes = [part.add_subplot(facecolor=theme.paper) for part in parts.flat]
        for ax in axes:
            plain_axes(ax, theme)
        yield figure, axes


def plain_axes(ax: Axes, theme: Theme) -> None:
    """A quiet grid behind the lines, and no frame but the line below."""
    ax.grid(True, color=theme.grid, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(which="both", colors=theme.muted, length=0)
    for edge, spine in ax.spines.items():
        spine.set_visible(edge == "bottom")
        spine.set_color(theme.muted)


def resolution_axis(ax: Axes, sizes: Sequence[Sequence[int]]) -> None:
    """A log2 axis whose ticks are the real sizes: squares in the first row of labels, the others in the second."""
    squares, others = set(), dict[float, list[str]]()
    for height, width in dict.fromkeys((int(size[0]), int(size[1])) for size in sizes):
        if height == width:
            squares.add(height)
        else:
            others.setdefault(side((height, width)), []).append(size_label((height, width)))
    ticks = sorted(squares)
    ax.set_xscale("log", base=2)
    ax.set_xticks(ticks, [str(tick) for tick in ticks])
    ax.set_xticks(list(others), ["\n".join(texts) for texts in others.values()], minor=True)
    ax.tick_params(axis="x", which="minor", labelsize=8.5, pad=20 if ticks else 4)
    # labels overlap where two ticks are nearer than about a fifteenth of the axis, which is logarithmic
    crowded = any(
        later / earlier < (ticks[-1] / ticks[0]) ** 0.065 for earlier, later in zip(ticks, ticks[1:], strict=False)
    )
    if crowded and not others:
        ax.tick_params(axis="x", labelrotation=55)


def log_y(ax: Axes, text: Callable[[float], str] = lambda value: si(value, 1)) -> None:
    ax.set_yscale("log")
    low, high = ax.get_ylim()
    ax.yaxis.set_major_locator(LogLocator(10, subs=(1, 2, 5) if high / low < 1000 else (1,)))
    ax.yaxis.set_minor_locator(NullLocator())
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))


def titles(ax: Axes, theme: Theme, title: str, y: str, x: str = "image side, pixels") -> None:
    ax.set_title(title, loc="left", color=theme.ink, fontweight="bold", pad=12)
    ax.set_xlabel(x, color=theme.muted)
    ax.set_ylabel(y, color=theme.muted)


def legend(ax: Axes, theme: Theme, handles: Sequence[Artist]) -> None:
    """A legend below the panel: two columns if the labels are short enough to fit beside each other, or one."""
    # 34 letters are about half of a panel's six inches
    columns = 2 if max(len(str(handle.get_label())) for handle in handles) <= 34 else 1
    ax.figure.legend(
        handles=list(handles),
        loc="outside lower center",
        ncols=columns,
        frameon=False,
        labelcolor=theme.ink,
        handlelength=2.6,
        columnspacing=1.6,
    )
