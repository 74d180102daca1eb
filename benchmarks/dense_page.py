"""Tables and picture of what `dense.py` found."""

from __future__ import annotations

import statistics
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from dense_measure import THIRDS
from dense_variants import VARIANTS
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from anyres.report.canvas import Theme, legend, new_figure, titles

Row = Mapping[str, Any]

_TITLES = {
    "detection": "Detection, Mask R-CNN",
    "segmentation": "Segmentation, UperNet",
    "unmerge": "Segmentation, light heads",
}
_ACCURACY = {
    "detection": {
        "box AP": "box_ap", "AP50": "box_ap50", **{f"AP {third}": f"box_ap_{third}" for third in THIRDS},
        "mask AP": "mask_ap", "mask AP small": "mask_ap_small",
    },
    "segmentation": {
        "mIoU": "miou", "without background": "miou_objects", **{third: f"miou_{third}" for third in THIRDS}
    },
}  # fmt: skip
_ACCURACY["unmerge"] = _ACCURACY["segmentation"]
_SHOWN = {"detection": ("box_ap", "box_ap_small"), "segmentation": ("miou_objects", "miou_small")}
_SHOWN["unmerge"] = _SHOWN["segmentation"]


def section(found: Mapping[str, Any]) -> str:
    """A section of docs/results.md: how it was measured, and of each task a table of accuracy and one of costs; means
    where there are several seeds."""
    texts = ["## Detection and segmentation on generated scenes", _method(found)]
    for task, title in _TITLES.items():
        groups = _groups(found["rows"], task)
        if groups:
            texts += [f"### {title}", _accuracy(groups, task, found["scale"]["sizes"]), _costs(groups)]
    return "\n\n".join(texts) + "\n"


def _method(found: Mapping[str, Any]) -> str:
    scale, machine = found["scale"], found["machine"]
    low, high = (round(limit) for limit in found["heights_between_thirds"])
    side, twice = scale["sizes"]
    rows = {task: _groups(found["rows"], task) for task in _TITLES}
    steps = "; ".join(
        f"{_TITLES[task]}: {scale['steps'][task]} of {scale['batch'][task]} crops, learning rate {scale['lr'][task]:g}"
        for task, groups in rows.items()
        if groups
    )
    longest = max((row["minutes"] for row in found["rows"]), default=0.0)
    made = f"""`python benchmarks/dense.py`, {machine["jobs"]} runs at a time, each on one thread of
        {machine["processor"]}, PyTorch {machine["torch"]}, {scale["precision"]}; the longest run trained for
        {longest:.1f} minutes. {scale["train"]} training and {scale["val"]} validation images of
        `anyres.data.dense_scenes` with {_range(scale["objects"])} glyphs of four classes, whose heights are
        {_range(scale["heights"])} of the short side of {twice} px. All from random weights, within a task with the same
        augmentation and steps, with crops of {side}x{side} px ({steps}). Patches
        of {scale["patch_size"]} px ({scale["stem"]} stem), {scale["depth"]} blocks, {scale["width"]} wide,
        {scale["heads"]} heads of attention; pyramids and heads of {scale["channels"]} channels."""
    measured = f"""Every validation image is seen with a short side of {side} px, as in training, and of {twice} px, and
        compared at its stored size. Small, middle and large are the thirds of the validation objects by the height of
        what is seen of them: up to {low} px of the stored image, up to {high}, and above. AP of a third is COCO's with
        ranges of height in place of area (COCO's own small, medium and large are in the JSON); mIoU of a third is that
        of the four glyphs in and closely around its objects, other objects left out. GMACs are multiply-accumulates of
        one square image, as executed, for detectors with as many boxes and masks as there may be. Memory is the peak of
        tensors alive: in a forward pass of one square image in float32, and in forward and backward pass of a training
        batch, without weights and optimiser. Seconds a step are medians, loading included."""
    return "\n\n".join(textwrap.fill(" ".join(text.split()), 120) for text in (made, measured))


def _range(ends: Sequence[float]) -> str:
    return f"{ends[0]} to {ends[1]}"


def _accuracy(groups: Mapping[str, Sequence[Row]], task: str, sizes: Sequence[int]) -> str:
    lines = []
    for name, rows in groups.items():
        for side in sizes:
            values = [_mean(rows, side, key) for key in _ACCURACY[task].values()]
            lines.append([name, str(side), *("-" if value is None else f"{value:.1f}" for value in values)])
    return _table(["head" if task == "unmerge" else "backbone", "px", *_ACCURACY[task]], lines)


def _costs(groups: Mapping[str, Sequence[Row]]) -> str:
    sides = next(iter(groups.values()))[0]["sizes"]
    heads = ["", "what it is", "parameters, M", *(f"GMACs, {side} px (backbone)" for side in sides)]
    heads += [*(f"forward, {side} px, MB" for side in sides), "training step, MB", "s a step", "seeds"]
    lines = []
    for name, rows in groups.items():
        row, seconds = rows[0], statistics.mean(each["seconds_per_step"] for each in rows)
        sizes = row["sizes"].values()
        cells = [name, row["text"], f"{row['parameters'] / 1e6:.2f}"]
        cells += [f"{each['macs'] / 1e9:.2f} ({each['backbone_macs'] / 1e9:.2f})" for each in sizes]
        cells += [f"{each['forward_bytes'] / 1e6:.0f}" for each in sizes]
        lines.append([*cells, f"{row['step_bytes'] / 1e6:.0f}", f"{seconds:.2f}", str(len(rows))])
    return _table(heads, lines)


def _table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(heads)
    return "\n".join("| " + " | ".join(line) + " |" for line in (heads, rule, *lines))


def figure(found: Mapping[str, Any], theme: Theme) -> Figure:
    """A panel for each task, a line for each variant: accuracy on all objects and on the smallest third, both sizes."""
    groups = {task: some for task in _TITLES if (some := _groups(found["rows"], task))}
    most = max(len(some) for some in groups.values())
    with new_figure(theme, columns=len(groups), height=2.6 + 0.42 * most) as (drawn, axes):
        for (task, some), ax in zip(groups.items(), axes, strict=True):
            _panel(ax, task, some, found["scale"]["sizes"], theme)
    return drawn


def _panel(ax: Axes, task: str, groups: Mapping[str, Sequence[Row]], sizes: Sequence[int], theme: Theme) -> None:
    look: dict[str, Any] = {"marker": "o", "markersize": 8, "markeredgewidth": 1.6, "clip_on": False}
    handles = []
    for number, side in enumerate(sizes):
        colour, shift = theme.palette[number], 0.24 * (number - (len(sizes) - 1) / 2)
        for place, rows in enumerate(groups.values()):
            values = [_mean(rows, side, key) for key in _SHOWN[task]]
            known = [value for value in values if value is not None]
            ax.plot(known, [place + shift] * len(known), color=colour, linewidth=1.2, alpha=0.6)
            for value, fill in zip(values, (colour, theme.paper), strict=True):
                if value is not None:
                    ax.plot([value], [place + shift], color=colour, markerfacecolor=fill, **look)
        when = "as in training" if number == 0 else "never trained at"
        handles.append(Line2D([], [], color=colour, linewidth=1.2, label=f"{side} px, {when}", **look))
    look |= {"color": theme.muted, "linestyle": "none"}
    handles.append(Line2D([], [], label="all objects", **look))
    handles.append(Line2D([], [], label="smallest third of objects", markerfacecolor=theme.paper, **look))
    names = [f"{name}\n{rows[0]['sizes'][str(sizes[0])]['macs'] / 1e9:.2f} GMACs" for name, rows in groups.items()]
    ax.set_yticks(range(len(names)), names, color=theme.ink, fontsize=9)
    ax.set_ylim(len(names) - 0.5, -0.5)
    ax.set_xlim(0, 100)
    titles(ax, theme, _TITLES[task], "", "box AP, %" if task == "detection" else "mIoU without background, %")
    legend(ax, theme, handles)


def _groups(rows: Sequence[Row], task: str) -> dict[str, list[Row]]:
    """Name of each variant of a task -> its rows, one for each seed, in the order of the study."""
    found = {each.name: [row for row in rows if (row["task"], row["name"]) == (task, each.name)] for each in VARIANTS}
    return {name: some for name, some in found.items() if some}


def _mean(rows: Sequence[Row], side: int, key: str) -> float | None:
    values = [row["sizes"][str(side)][key] for row in rows]
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None
