"""Vector scenes: one glyph, plain shapes and a smooth background, drawn truthfully at any resolution."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image, ImageDraw

from anyres.errors import unknown

Colour = tuple[int, int, int]
Point = tuple[float, float]

FONTS = ("DejaVuSans", "DejaVuSerif-Bold", "DejaVuSansMono-Bold", "STIXGeneral")

_MASK_SIDE = 1024  # masks are filled at about this many pixels a side, whatever the resolution of the drawing


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A plain disc or bar. Lengths are fractions of the canvas' short side, positions those of its central square."""

    kind: Literal["disc", "bar"]
    centre: Point
    length: float
    thickness: float
    rotation: float
    colour: Colour

    def outline(self) -> np.ndarray:
        """(points, 2) x, y in the unit square."""
        if self.kind == "disc":
            angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
            points = np.stack([np.cos(angles), np.sin(angles)], axis=1) * (self.length / 2)
        else:
            half = np.array([self.length / 2, self.thickness / 2])
            points = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
        return points @ _turn(self.rotation).T + np.array(self.centre)


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What an image shows, without a resolution. x points right, y down, both from 0 to 1 in the central square."""

    character: str
    font: str
    glyph_height: float
    """Height of the upright glyph as a fraction of the canvas' short side."""
    centre: Point
    """Middle of the glyph's bounding box."""
    rotation: float
    """Degrees, clockwise."""
    shear: float
    foreground: Colour
    background: tuple[Colour, Colour]
    """Colours at the two ends of a linear gradient over the whole canvas."""
    gradient_angle: float
    shapes: tuple[Shape, ...] = ()

    def draw(self, height: int, width: int) -> Image.Image:
        """An RGB image of height x width pixels. Twice as large and averaged 2x2, it is nearly the same."""
        if height < 1 or width < 1:
            raise ValueError(f"cannot draw {height}x{width} pixels; allowed: sides from 1 pixel up")
        canvas = gradient(height, width, self.background, self.gradient_angle)
        for shape in self.shapes:
            fill(canvas, [shape.outline()], [True], shape.colour)
        outlines, solid = glyph_outline(self.font, self.character)
        matrix = glyph_matrix(self.glyph_height, self.rotation, self.shear)
        fill(canvas, [points @ matrix.T + np.array(self.centre) for points in outlines], solid, self.foreground)
        return canvas


def gradient(height: int, width: int, ends: tuple[Colour, Colour], angle: float) -> Image.Image:
    """A linear gradient between two colours over an RGB canvas, in a direction of `angle` radians."""
    start, end = (np.array(colour, dtype=np.float64) for colour in ends)
    across, down = math.cos(angle), math.sin(angle)
    total = abs(across) + abs(down)
    x = ((np.arange(width) + 0.5) / width - 0.5) * (across / total)
    y = ((np.arange(height) + 0.5) / height - 0.5) * (down / total)
    # a sum of one vector per axis, in 8.8 fixed point: far faster than the same in floating point
    rows = ((start + end) / 2 + y[:, None] * (end - start)) * 256 + 128
    columns = (x[:, None] * (end - start)) * 256
    summed = rows.astype(np.int32)[:, None] + columns.astype(np.int32)[None]  # (H, W, 3)
    return Image.fromarray((summed >> 8).astype(np.uint8), "RGB")


def _turn(degrees: float) -> np.ndarray:
    cos, sin = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    return np.array([[cos, -sin], [sin, cos]])


def glyph_matrix(height: float, rotation: float, shear: float) -> np.ndarray:
    """(2, 2): an outline of height 1 -> the unit square of the canvas."""
    return _turn(rotation) @ np.array([[1.0, shear], [0.0, 1.0]]) * height


@lru_cache(maxsize=4096)
def glyph_outline(font: str, character: str) -> tuple[list[np.ndarray], list[bool]]:
    """Closed outlines of a glyph, centred on 0 and of height 1, and for each whether it is ink (or a hole).

    The largest come first, so that painting them in order gives holes, and islands within holes. Fonts are those that
    matplotlib ships.
    """
    try:
        import matplotlib
        from matplotlib.font_manager import FontProperties
        from matplotlib.textpath import TextPath
    except ImportError as error:
        raise ImportError("synthetic images are drawn with matplotlib's fonts: pip install 'anyres[report]'") from error
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    path = folder / f"{font}.ttf"
    if not path.is_file():
        raise unknown("font", font, sorted(file.stem for file in folder.glob("*.ttf")))
    text = TextPath((0, 0), character, size=1000, prop=FontProperties(fname=str(path)))
    polygons = [np.asarray(points)[:, :2] for points in text.to_polygons(closed_only=True)]
    if not polygons:
        raise ValueError(f"character {character!r} has no ink in {font}; allowed: printable characters")
    polygons.sort(key=lambda points: -abs(_area(points)))
    ink = _area(polygons[0]) > 0  # holes run the other way round
    every = np.concatenate(polygons)
    low, high = every.min(axis=0), every.max(axis=0)
    scale = np.array([1.0, -1.0]) / (high[1] - low[1])  # fonts have y upwards
    return [(points - (low + high) / 2) * scale for points in polygons], [(_area(p) > 0) == ink for p in polygons]


def _area(points: np.ndarray) -> float:
    x, y = points.T
    return float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))) / 2


def fill(canvas: Image.Image, outlines: Sequence[np.ndarray], solid: Sequence[bool], colour: Colour | int) -> None:
    """Paint outlines (unit square coordinates) onto the canvas, antialiased by the area that they cover."""
    short = min(canvas.size)
    origin = (np.array(canvas.size) - short) / 2
    pixels = [points * short + origin for points in outlines]
    low = np.floor(np.min([points.min(axis=0) for points in pixels], axis=0)).astype(int)
    high = np.ceil(np.max([points.max(axis=0) for points in pixels], axis=0)).astype(int)
    low, high = np.maximum(low, 0), np.minimum(high, canvas.size)
    width, height = (int(side) for side in high - low)
    if width < 1 or height < 1:
        return
    # Pillow rounds corners to whole pixels, so every mask is filled several times larger and averaged
    factor = min(max(_MASK_SIDE // max(width, height), 2), 64)
    mask = Image.new("L", (width * factor, height * factor))
    pen = ImageDraw.Draw(mask)
    for points, filled in zip(pixels, solid, strict=True):
        corners = np.rint((points - low) * factor - 0.5).astype(int)
        pen.polygon(corners.ravel().tolist(), fill=255 if filled else 0)
    canvas.paste(colour, (int(low[0]), int(low[1])), mask.reduce(factor))
