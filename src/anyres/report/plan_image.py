"""A merge plan as a picture: one panel for each level, and the final cells on the image itself."""

from PIL import Image, ImageDraw, ImageFont

from anyres.layers.merge_plan import Boundaries, Level, MergePlan, largest_cell
from anyres.sizes import size_text

_PANEL = 420  # pixels of the longer side of a panel
_GAP, _TITLE = 24, 28
_PAPER, _INK, _LINE, _CELL = "#ffffff", "#1b1f24", "#c9d1d9", "#0b5cad"
_SHADES = {1: "#fdecc8", 2: "#fbd38d"}  # cells that hold one position on one axis, or on both


def draw_plan(plan: MergePlan, picture: Image.Image | None = None) -> Image.Image:
    """Draws every level that merges, then the final cells.

    Thin lines separate the tokens of a level, thick ones its cells. Shaded cells hold one position on one axis (light)
    or on both (dark) where others hold two: the places that the paper pads. `picture` is put behind the final cells.
    """
    levels = [level for level in plan.levels if not level.is_identity]
    panels = [_level_panel(level, number) for number, level in enumerate(levels, start=1)]
    panels.append(_final_panel(plan, picture))
    columns = min(len(panels), 3)
    width = max(panel.width for panel in panels)
    rows = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(panel.height for panel in row) for row in rows]
    sheet = Image.new(
        "RGB",
        (columns * width + (columns + 1) * _GAP, sum(heights) + (len(rows) + 1) * _GAP),
        _PAPER,
    )
    top = _GAP
    for row, height in zip(rows, heights, strict=True):
        for column, panel in enumerate(row):
            sheet.paste(panel, (_GAP + column * (width + _GAP), top))
        top += height + _GAP
    return sheet


def _level_panel(level: Level, number: int) -> Image.Image:
    rows, cols = level.rows, level.cols
    title = f"level {number}: {size_text(level.input_grid)} > {size_text(level.output_grid)}"
    panel, pen, scale = _canvas((rows[-1], cols[-1]), title)
    widest = (largest_cell(rows), largest_cell(cols))
    for top, bottom in zip(rows, rows[1:], strict=False):
        for left, right in zip(cols, cols[1:], strict=False):
            padded = (bottom - top < widest[0]) + (right - left < widest[1])
            if padded:
                box = [left * scale, _TITLE + top * scale, right * scale, _TITLE + bottom * scale]
                pen.rectangle(box, fill=_SHADES[padded])
    if scale >= 4:
        _grid_lines(pen, range(rows[-1] + 1), range(cols[-1] + 1), scale, _LINE, 1)
    _grid_lines(pen, rows, cols, scale, _CELL, 2 if scale >= 3 else 1)
    return panel


def _final_panel(plan: MergePlan, picture: Image.Image | None) -> Image.Image:
    panel, pen, scale = _canvas(plan.size, f"final cells: {size_text(plan.grid)}")
    if picture is not None:
        size = (max(round(plan.size[1] * scale), 1), max(round(plan.size[0] * scale), 1))
        panel.paste(picture.convert("RGB").resize(size), (0, _TITLE))
    _grid_lines(pen, plan.cell_rows, plan.cell_cols, scale, _CELL, 2)
    return panel


def _canvas(grid: tuple[int, int], title: str) -> tuple[Image.Image, ImageDraw.ImageDraw, float]:
    """An empty panel for a grid, its pen, and the pixels of one token."""
    scale = min(_PANEL / max(grid), 32)
    font = ImageFont.load_default(15)
    width = max(grid[1] * scale, font.getlength(title))
    panel = Image.new("RGB", (int(width) + 3, int(_TITLE + grid[0] * scale) + 3), _PAPER)
    pen = ImageDraw.Draw(panel)
    pen.text((0, 2), title, fill=_INK, font=font)
    return panel, pen, scale


def _grid_lines(
    pen: ImageDraw.ImageDraw, rows: Boundaries | range, cols: Boundaries | range, scale: float, colour: str, width: int
) -> None:
    right, bottom = cols[-1] * scale, _TITLE + rows[-1] * scale
    for row in rows:
        pen.line([0, _TITLE + row * scale, right, _TITLE + row * scale], fill=colour, width=width)
    for col in cols:
        pen.line([col * scale, _TITLE, col * scale, bottom], fill=colour, width=width)
