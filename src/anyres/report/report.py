"""One offline HTML page, and the PNGs beside it, from the JSON of sweeps. The same JSON gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anyres.costs.cost import macs_by_part
from anyres.evaluation.rows import bytes_text, check_sweep, protocol_text, si, side, size_label
from anyres.files import check_folder, read_json, write_bytes
from anyres.models.architectures import get_config
from anyres.report.findings import findings
from anyres.report.image_sets import ImageSet, merge
from anyres.report.page import render
from anyres.report.paper import SOURCE, TABLE_1

if TYPE_CHECKING:
    from anyres.report.canvas import Theme
    from anyres.report.plots import Panel


def report(json_paths: Sequence[Path | str], out_folder: Path | str, title: str | None = None) -> Path:
    """Writes `out_folder`/index.html, self-contained, and its pictures as PNG, light and dark; returns the page.

    The sweeps may be of different sets (each gets its section) or of different models on one set (drawn together).
    `title` defaults to that of the first sweep. Raises ValueError for a file that is not a sweep or for the same row
    given twice, ImportError if the extra `anyres[report]` is not installed.
    """
    require_extra("report")
    paths = [Path(path) for path in json_paths]
    if not paths:
        raise ValueError("no sweeps given; allowed: one or more JSON files written by `anyres sweep`")
    check_folder("out", Path(out_folder))
    sweeps = [check_sweep(_read(path), path.name) for path in paths]
    sets = merge(sweeps, [path.name for path in paths])
    title = title or sweeps[0]["title"]
    out = Path(out_folder)
    out.mkdir(parents=True, exist_ok=True)
    pictures = _pictures([group for group in sets if group.rows])
    files = {f"{name}.png": data for name, data in pictures.items()}
    files["index.html"] = _html(title, sets, pictures)
    for name, data in files.items():
        write_bytes(out / name, data)
    return out / "index.html"


def _read(path: Path) -> Any:
    if not path.is_file():
        raise ValueError(f"no file {path}; allowed: a JSON file written by `anyres sweep`")
    return _in_text(read_json(path, "the JSON of a sweep", remedy="allowed: a file written by `anyres sweep`"))


def _in_text(found: Any) -> Any:
    """The same with names that are no text as they are printed: neither a page nor a picture has letters for them."""
    if isinstance(found, dict):
        return {_in_text(name): _in_text(value) for name, value in found.items()}
    if isinstance(found, list):
        return [_in_text(value) for value in found]
    return found.encode(errors="backslashreplace").decode() if isinstance(found, str) else found


def require_extra(command: str) -> None:
    """ImportError that names the extra, unless all it takes to draw the page of `anyres COMMAND` is installed."""
    try:
        import jinja2  # noqa: F401
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(f"`anyres {command}` needs {error.name}: pip install 'anyres[report]'") from error


@lru_cache(maxsize=1)
def paper_curves() -> dict[str, dict[int, float]]:
    """Preset -> side in pixels -> multiply-accumulates in 1e9, counted by this project in the paper's convention."""
    from anyres.report.plots import PAPER_PRESETS, PAPER_SIDES

    def giga_macs(name: str, pixels: int) -> float:
        return sum(macs_by_part(get_config(name), (pixels, pixels), convention="paper").values()) / 1e9

    return {name: {pixels: giga_macs(name, pixels) for pixels in PAPER_SIDES} for name in PAPER_PRESETS}


def _pictures(sets: Sequence[ImageSet]) -> dict[str, bytes]:
    """File name without its suffix -> PNG; the dark twin of a picture has `-dark` appended."""
    from anyres.report import canvas, plots

    order = list(dict.fromkeys(label for group in sets for label in group.models))
    panels = [_panel(group, order) for group in sets]
    pictures: dict[str, bytes] = {}
    for theme in (canvas.LIGHT, canvas.DARK):
        tail = "" if theme is canvas.LIGHT else "-dark"
        figures = {
            "main": plots.accuracy_figure(panels, theme),
            "cost-paper": plots.paper_figure(paper_curves(), theme),
        }
        for group, panel in zip(sets, panels, strict=True):
            figures |= {f"{group.anchor}-{name}": figure for name, figure in _set_figures(group, panel, theme).items()}
        pictures |= {f"{name}{tail}": canvas.png(figure) for name, figure in figures.items()}
    return pictures


def _set_figures(group: ImageSet, panel: Panel, theme: Theme) -> dict[str, Any]:
    from anyres.report import pareto, plots

    figures = {
        "accuracy": plots.accuracy_figure([panel], theme),
        "pareto": pareto.pareto_figure(panel, theme),
        "cost": plots.measure_figure(panel, theme, "macs"),
        "latency": plots.measure_figure(panel, theme, "latency"),
        "memory": plots.measure_figure(panel, theme, "memory"),
    }
    strips = _strips(group)
    if strips:
        figures["examples"] = plots.example_figure(strips[0], panel.order, theme)
    return figures


def _panel(group: ImageSet, order: Sequence[str]) -> Panel:
    from anyres.report.plots import Panel

    return Panel(title=group.name, rows=group.rows, models=group.models, order=order)


def _strips(group: ImageSet) -> list[list[dict[str, Any]]]:
    """The examples, one list per image with its sizes rising; an image is the n-th example of each size."""
    by_size: dict[tuple[int, ...], list[dict[str, Any]]] = {}
    for example in group.examples:
        by_size.setdefault(tuple(example["size"]), []).append(example)
    columns = [by_size[size] for size in sorted(by_size, key=lambda size: (side(size), size))]
    count = max((len(column) for column in columns), default=0)
    return [[column[i] for column in columns if i < len(column)] for i in range(count)]


def _html(title: str, sets: Sequence[ImageSet], pictures: dict[str, bytes]) -> bytes:
    drawn = [group for group in sets if group.rows]  # of the others the page lists what was left out, and why
    names = list(dict.fromkeys(name for group in drawn for row in group.rows for name in row.get("metrics", {})))
    filters: dict[str, Callable[..., Any]] = {
        "size": size_label, "si": si, "bytes": bytes_text, "protocol": protocol_text, "side": side
    }  # fmt: skip
    return render(
        "anyres.report",
        "report.html",
        pictures,
        filters,
        title=title,
        all_sets=sets,
        sets=drawn,
        findings={group.name: findings(group.rows, group.models) for group in drawn},
        strips={group.name: _strips(group) for group in drawn},
        metrics=names,
        metric_columns=[(name, 0) for name in names],
        paper={"rows": _paper_rows(), "source": SOURCE},
    )


def _paper_rows() -> list[dict[str, Any]]:
    """Printed against counted costs by size: what the table under the paper's figure shows."""
    table = []
    for paper in (paper for paper in TABLE_1 if paper.preset):
        curve = paper_curves()[str(paper.preset)]
        for number, (r, printed) in enumerate(paper.printed_costs().items()):
            table.append(
                {
                    "model": paper.title,
                    "preset": paper.preset,
                    "side": r,
                    "printed": printed,
                    "counted": curve[r],
                    "patch16": paper_curves()[str(paper.preset).replace("conv16", "patch16")][r],
                    "first": number == 0,
                    "top1": paper.top1[number],
                }
            )
    return table
