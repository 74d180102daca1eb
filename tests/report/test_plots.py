"""What the pictures show is what the rows hold; no shape of sweep breaks them."""

import matplotlib
import pytest

from anyres.evaluation.rows import frontier, wilson
from anyres.report.canvas import DARK, LIGHT, png
from anyres.report.pareto import pareto_figure, text_places
from anyres.report.plots import PAPER_PRESETS, PAPER_SIDES, Panel, accuracy_figure, measure_figure, paper_figure


def row(model, protocol, size, correct, macs):
    return {
        "set": "s", "model": model, "protocol": protocol, "size": list(size), "images": 100, "correct": correct,
        "top1": float(correct), "interval": list(wilson(correct, 100)), "macs": macs,
        "latency_ms": {"p50": 1.0 + macs, "p95": 2.0 + macs, "runs": 3}, "images_per_second": 1.0,
        "peak_memory_bytes": macs,
    }  # fmt: skip


def panel(*rows):
    labels = list(dict.fromkeys(item["model"] for item in rows))
    return Panel(title="s", rows=rows, models={name: {"training_sizes": [[56, 56]]} for name in labels}, order=labels)


MIXED = panel(
    row("A", "native", (112, 112), 80, 400), row("A", "native", (56, 56), 90, 100),
    row("A", "native", (56, 112), 70, 200),
    row("A", "resized to 56x56", (112, 112), 91, 100), row("B", "native", (56, 56), 95, 300),
)  # fmt: skip
SHAPES = {
    "mixed": MIXED,
    "one row": panel(row("A", "native", (56, 56), 100, 7)),
    "no square": panel(row("A", "native", (56, 112), 0, 7), row("A", "native", (112, 56), 5, 7)),
    "only resized": panel(row("A", "resized to 56x56", (60, 60), 5, 7)),
    "many sizes": panel(*(row("A", "native", (side, side), 50, side) for side in range(100, 400, 20))),
}


def texts(figure):
    return [text.get_text() for text in figure.findobj(matplotlib.text.Text)]


@pytest.mark.parametrize(("shape", "theme"), [*((shape, LIGHT) for shape in SHAPES), ("mixed", DARK)])
def test_every_shape_can_be_drawn_twice_alike(shape, theme, monkeypatch):
    monkeypatch.setattr("anyres.report.canvas.DPI", 25)

    def draw():
        figures = [accuracy_figure([SHAPES[shape]] * 2, theme), pareto_figure(SHAPES[shape], theme)]
        figures += [measure_figure(SHAPES[shape], theme, what) for what in ("macs", "latency", "memory")]
        return [png(figure) for figure in figures]

    assert draw() == draw()


def test_lines_hold_the_square_rows_in_order_and_markers_say_what_was_trained():
    [ax] = accuracy_figure([MIXED], LIGHT).findobj(matplotlib.axes.Axes)
    drawn = {line.get_label(): line for line in ax.lines if not line.get_label().startswith("_")}
    assert list(drawn["A"].get_xdata()) == [56, 112] and list(drawn["A"].get_ydata()) == [90, 80]
    assert "A, resized to 56" in drawn and drawn["A"].get_color() == drawn["A, resized to 56"].get_color()
    assert drawn["A"].get_color() != drawn["B"].get_color()
    dots = {(dot.get_xdata()[0], dot.get_ydata()[0]): dot for dot in ax.lines if dot.get_marker() in ("o", "D")}
    filled = {spot for spot, dot in dots.items() if dot.get_markerfacecolor() != LIGHT.paper}
    assert filled == {(56, 90), (56, 95)}
    assert [dot.get_ydata()[0] for dot in ax.lines if dot.get_marker() == "D"] == [70]
    assert {"56", "112", "56×112"} <= set(texts(ax.figure))


def test_pareto_draws_the_frontier():
    [ax] = pareto_figure(MIXED, LIGHT).findobj(matplotlib.axes.Axes)
    points = [(item["macs"], item["top1"]) for item in MIXED.rows]
    [line] = [line for line in ax.lines if line.get_label() == "Pareto frontier"]
    expected = [points[i] for i in frontier(points)]
    assert list(zip(*line.get_data(), strict=True))[: len(expected)] == expected == [(100, 91), (300, 95)]
    assert "112 → 56" in texts(ax.figure)


def test_labels_of_the_frontier_never_lie_on_each_other():
    """Measured on the finished figure, with the real extents of the texts."""
    steep = [row("A", "native", (2 * n, 2 * n), 10 * n, 100 * 2**n) for n in range(1, 9)]
    flat = [row("A", "native", (100 + n, 100 + n), 90 + n, 30000 + 3000 * n) for n in range(8)]
    resized = [row("A", "resized to 56x56", (300, 300), 99, 90000), row("A", "native", (56, 56), 99, 90000)]
    figure = pareto_figure(panel(*steep, *flat, *resized), LIGHT)
    [ax] = figure.findobj(matplotlib.axes.Axes)
    figure.canvas.draw()
    labels = [text for text in ax.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in labels]
    assert 6 <= len(labels) < 17  # of the points on the frontier
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])
    whole = figure.bbox
    assert all(whole.x0 <= box.x0 and box.x1 <= whole.x1 and box.y1 <= whole.y1 for box in boxes)


def test_a_label_stands_left_of_its_ring_or_above_where_that_would_name_another():
    points = [(10.0, 20.0), (1000.0, 90.0), (1300.0, 91.0), (10**5, 92.0)]
    texts = dict(zip(points, ("24", "96", "128", "192"), strict=True))
    assert text_places(texts, points) == {points[3]: "right", points[1]: "right", points[0]: "right"}
    assert text_places({points[0]: "24"}, points[:1]) == {points[0]: "right"}


def test_latency_bands_are_those_of_images_as_they_are():
    [ax] = measure_figure(MIXED, LIGHT, "latency").findobj(matplotlib.axes.Axes)
    tall = [band.get_datalim(ax.transData).height for band in ax.collections]
    assert tall == [402 - 101, 0, 1]  # A as they are, A resized, B as they are


def test_memory_is_in_bytes():
    figure = measure_figure(MIXED, LIGHT, "memory")
    figure.canvas.draw()
    assert {"100 B", "200 B"} <= set(texts(figure))


def test_paper_figure_shows_both_sizes_and_every_printed_cost():
    curves = {name: dict.fromkeys(PAPER_SIDES, 10.0) for name in PAPER_PRESETS}
    figure = paper_figure(curves, LIGHT)
    axes = figure.findobj(matplotlib.axes.Axes)
    drawn = [line for ax in axes for line in ax.lines if "printed" in line.get_label()]
    printed = {line.get_label(): len(line.get_xdata()) for line in drawn}
    assert printed == {"ViTAR-S, printed in the paper": 11, "DeiT-S, printed in the paper": 8,
                       "ViTAR-B, printed in the paper": 13, "DeiT-B, printed in the paper": 7}  # fmt: skip


def test_the_users_matplotlib_is_left_alone_and_not_used():
    plain = png(pareto_figure(MIXED, LIGHT))
    with matplotlib.rc_context({"font.size": 30, "lines.linewidth": 9, "savefig.dpi": 10}):
        assert png(pareto_figure(MIXED, LIGHT)) == plain
        assert matplotlib.rcParams["font.size"] == 30
