"""What the synthetic sets show: a seeded draw of glyph, place, colours and shapes for every image."""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from anyres.data.scene import Colour, Scene, Shape, glyph_matrix, glyph_outline
from anyres.seeds import key

Split = Literal["train", "val"]
SPLITS: tuple[Split, ...] = ("train", "val")
SUFFIXES = ("jpg", "png", "webp")

DIGITS = "0123456789"
LETTERS = "AJKLPQSWYZ"
"""As many capitals: those least alike in the four fonts, a letter of the most alike pair dropped again and again."""

_CONTRAST = 0.4  # least difference of luma between the glyph and any part of the background


@dataclass(frozen=True, kw_only=True)
class SceneConfig:
    """What is drawn and how it is stored; written to data.json."""

    train: int
    val: int
    size: int
    """Short side in pixels of the smallest stored image."""
    sizes: Literal["mixed", "fixed"]
    """With "mixed" short sides are from size to 1.25 * size, with "fixed" all are exactly size."""
    aspect: tuple[float, float]
    """Range of width / height; half of the images stay square, the others draw theirs from it."""
    classes: str
    fonts: tuple[str, ...]
    glyph_height: tuple[float, float]
    """Range as a fraction of the short side; uniform in its logarithm."""
    training_heights: tuple[tuple[float, float], ...]
    """Ranges that training images take in turn instead; none for those of glyph_height. Larger glyphs among them make
    the classes be learned sooner."""
    rotation: float
    """Largest angle in degrees, either way."""
    margin: float
    """Freedom of placement: 0 in the middle, 1 anywhere in the frame."""
    frame: float
    """The central part of the short side that holds the whole glyph; 0.875 is what the usual centre crop keeps."""
    distractors: tuple[int, int]
    """Fewest and most plain shapes beside the glyph."""
    formats: dict[str, float]
    polarity: Literal["any", "dark"]
    """With "dark" a dark glyph on light ground; with "any" either may be the darker."""
    seed: int

    def __post_init__(self) -> None:
        for name, least in (("train", 0), ("val", 0), ("size", 8)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: {least} and more")
        if len(self.classes) < 2 or len({c.casefold() for c in self.classes}) != len(self.classes):
            raise ValueError(f"classes is {self.classes!r}; allowed: two or more different characters")
        if not all(character.isalnum() for character in self.classes):
            raise ValueError(f"classes is {self.classes!r}; allowed: letters and digits, which name the folders")
        for split in SPLITS:
            _check_count(split, self.count(split), len(self.classes))
        if self.polarity not in ("any", "dark"):
            raise ValueError(f"polarity is {self.polarity!r}; allowed: 'any' and 'dark'")
        if self.sizes not in ("mixed", "fixed"):
            raise ValueError(f"sizes is {self.sizes!r}; allowed: 'mixed' and 'fixed'")
        if not self.fonts:
            raise ValueError("fonts is empty; allowed: one or more of those that matplotlib ships")
        ranges = [("glyph_height", self.glyph_height, 0.01, 1.0), ("aspect", self.aspect, 0.1, 10.0)]
        ranges += [("distractors", self.distractors, 0, 50)]
        ranges += [("training_heights", heights, 0.01, 1.0) for heights in self.training_heights]
        for name, (first, last), low, high in ranges:
            if not low <= first <= last <= high:
                raise ValueError(f"{name} is ({first}, {last}); allowed: low <= high, both from {low} to {high}")
        for name, least_part in (("margin", 0.0), ("frame", 0.1)):
            if not least_part <= getattr(self, name) <= 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: {least_part} to 1")
        shares = self.formats.values()
        if set(self.formats) - set(SUFFIXES) or not sum(shares) > 0 or min(shares) < 0:
            raise ValueError(f"formats is {self.formats}; allowed: positive shares of {', '.join(SUFFIXES)}")

    def count(self, split: Split) -> int:
        return self.train if split == "train" else self.val


def _check_count(split: Split, count: int, classes: int) -> None:
    """ValueError for a split in which a class would have no image: what trains and measures refuses such a folder."""
    if 0 < count < classes:
        raise ValueError(
            f"{split} is {count}; allowed: 0, or {classes} and more, one image for each class; nearest: {classes}"
        )


def make_scene(config: SceneConfig, split: Split, index: int) -> Scene:
    """The scene of one image; its class is `classes[index % len(classes)]`, so that classes are balanced."""
    draw = np.random.default_rng(key(config.seed, SPLITS.index(split), index))
    character = config.classes[index % len(config.classes)]
    font = config.fonts[int(draw.integers(len(config.fonts)))]
    low, high = config.glyph_height
    if config.training_heights and split == "train":
        low, high = config.training_heights[index // len(config.classes) % len(config.training_heights)]
    # log-uniform: as many glyphs between 0.1 and 0.2 as between 0.4 and 0.8
    height = math.exp(draw.uniform(math.log(low), math.log(high)))
    rotation, shear = draw.uniform(-config.rotation, config.rotation), draw.uniform(-0.1, 0.1)
    # the turned glyph never leaves the frame: it shrinks where it would not fit
    ink = np.concatenate(glyph_outline(font, character)[0]) @ glyph_matrix(1.0, rotation, shear).T
    height = min(height, config.frame / float(np.ptp(ink, axis=0).max()))
    offset = (ink.min(axis=0) + ink.max(axis=0)) / 2 * height  # the turned outline is not centred exactly
    free = (config.frame - np.ptp(ink, axis=0) * height) * config.margin
    x, y = 0.5 + (draw.random(2) - 0.5) * free - offset
    foreground, background = colours(draw, config.polarity)
    scene = Scene(
        character=character, font=font, glyph_height=height, centre=(float(x), float(y)), rotation=float(rotation),
        shear=float(shear), foreground=foreground, background=background,
        gradient_angle=float(draw.uniform(0, 2 * math.pi)),
    )  # fmt: skip
    radius = float(np.linalg.norm(ink, axis=1).max()) * height
    return replace(scene, shapes=_distractors(draw, config, scene, radius))


def luma(colour: Colour) -> float:
    """Rec. 709 luma of an RGB colour of 0 to 255, from 0 to 1."""
    return (0.2126 * colour[0] + 0.7152 * colour[1] + 0.0722 * colour[2]) / 255


def _colour(draw: np.random.Generator) -> Colour:
    red, green, blue = (int(value) for value in draw.integers(0, 256, 3))
    return red, green, blue


def colours(draw: np.random.Generator, polarity: str) -> tuple[Colour, tuple[Colour, Colour]]:
    """Foreground, and the two ends of a faint gradient that keep their distance from it; dark on light, or "any"."""
    while True:
        # drawn until the contrast suffices: the colours of what passes stay uniform
        foreground, start = _colour(draw), _colour(draw)
        red, green, blue = (int(np.clip(value + draw.integers(-40, 41), 0, 255)) for value in start)
        end = (red, green, blue)
        gaps = (luma(foreground) - luma(start), luma(foreground) - luma(end))
        if max(gaps) <= -_CONTRAST or (polarity == "any" and min(gaps) >= _CONTRAST):
            return foreground, (start, end)


def _distractors(draw: np.random.Generator, config: SceneConfig, scene: Scene, radius: float) -> tuple[Shape, ...]:
    """Discs and bars clear of the glyph (a circle of `radius` around it), visible, and clearly smaller or larger."""
    wanted = int(draw.integers(config.distractors[0], config.distractors[1] + 1))
    shapes: list[Shape] = []
    for _ in range(wanted * 20):  # a glyph that leaves no room gets fewer shapes
        if len(shapes) == wanted:
            break
        # never about as large as the glyph, or size alone would not tell them apart
        factor = draw.uniform(0.2, 0.5) if draw.random() < 0.4 else draw.uniform(1.8, 3.5)
        length = min(float(factor) * scene.glyph_height, 0.5)
        kind: Literal["disc", "bar"] = "disc" if draw.random() < 0.5 else "bar"
        shape = Shape(
            kind=kind, centre=(float(draw.random()), float(draw.random())), length=length, colour=_colour(draw),
            thickness=length * float(draw.uniform(0.1, 0.3)), rotation=float(draw.uniform(0, 180)),
        )  # fmt: skip
        distance = math.dist(shape.centre, scene.centre) - radius - length / 2
        contrast = min(abs(luma(shape.colour) - luma(end)) for end in scene.background)
        if distance > 0.2 * scene.glyph_height and contrast > 0.15:
            shapes.append(shape)
    return tuple(shapes)


def make_canvas(config: SceneConfig, split: Split, index: int) -> tuple[int, int, str]:
    """Height and width in pixels and the file suffix of one image."""
    # a generator of its own, so that the canvas does not change what is drawn on it
    draw = np.random.default_rng(key(config.seed, SPLITS.index(split), index, 1))
    short = config.size if config.sizes == "fixed" else round(config.size * draw.uniform(1, 1.25))
    narrow, wide = config.aspect
    aspect = math.exp(draw.uniform(math.log(narrow), math.log(wide)))
    if draw.random() < 0.5 and narrow <= 1 <= wide:
        aspect = 1.0
    height, width = (short, round(short * aspect)) if aspect >= 1 else (round(short / aspect), short)
    names = sorted(config.formats)
    shares = np.array([config.formats[name] for name in names])
    return height, width, str(draw.choice(names, p=shares / shares.sum()))
