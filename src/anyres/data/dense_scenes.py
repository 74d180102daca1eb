"""A synthetic set for dense tasks: glyphs of very different sizes, with boxes, masks and a label for every pixel.

One folder is in both usual formats: ROOT/images/<split>/*.png with ROOT/annotations/instances_<split>.json (COCO's,
categories from 1 up, masks as uncompressed run lengths), and with ROOT/annotations/<split>/*.png (ADE20K's: the same
labels, 0 is the background) and ROOT/classes.txt. Every image is a pure function of (seed, split, index).
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from anyres.data.glyph_scenes import SPLITS, Split, colours
from anyres.data.scene import FONTS, fill, glyph_matrix, glyph_outline, gradient
from anyres.files import naming, read_json, write_bytes, write_json
from anyres.seeds import key
from anyres.settings import plain

_LEAST_PIXELS = 12  # of an object that counts; what is hidden more than that is taken out of the picture's annotations

_REMEDY = "allowed: a new or empty folder"


@dataclass(frozen=True, kw_only=True)
class DenseSceneConfig:
    """What the images show."""

    train: int = 200
    """Training images."""
    val: int = 40
    """Validation images."""
    size: int = 256
    """Short side in pixels."""
    aspect: tuple[float, float] = (0.75, 1.33)
    """Width / height, log-uniform in this interval."""
    classes: str = "237A"
    """A character for each class."""
    objects: tuple[int, int] = (1, 6)
    """Fewest and most glyphs of an image."""
    heights: tuple[float, float] = (0.08, 0.6)
    """Height of a glyph as a fraction of the short side, log-uniform."""
    seed: int = 0
    """From which all images follow."""

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) < len(self.classes):
            raise ValueError(f"classes is {self.classes!r}; allowed: one or more characters, each once")
        low, high = self.heights
        if not 0.02 <= low <= high <= 1:
            raise ValueError(f"heights is {self.heights}; allowed: low <= high, both from 0.02 to 1")
        if not 0 < self.aspect[0] <= self.aspect[1]:
            raise ValueError(f"aspect is {self.aspect}; allowed: low <= high, both above 0")
        if not 0 <= self.objects[0] <= self.objects[1] or self.objects[1] < 1:
            raise ValueError(f"objects is {self.objects}; allowed: fewest <= most, from 0 and 1 up")
        for name, least in (("train", 1), ("val", 0), ("size", 16)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: from {least} up")


def draw_dense(config: DenseSceneConfig, split: Split, index: int) -> tuple[Image.Image, np.ndarray, list[int]]:
    """An RGB image, which object each pixel shows (H, W) int32 from 1 up, 0 for none, and the label of each object."""
    draw = np.random.default_rng(key(config.seed, SPLITS.index(split), index, 2))
    aspect = _between(draw, *config.aspect)
    height, width = round(config.size / min(aspect, 1)), round(config.size * max(aspect, 1))
    _, ends = colours(draw, "dark")
    canvas = gradient(height, width, ends, float(draw.uniform(0, 2 * math.pi)))
    shown, labels = np.zeros((height, width), dtype=np.int32), []
    for number in range(1, 1 + int(draw.integers(config.objects[0], config.objects[1] + 1))):
        label = int(draw.integers(len(config.classes)))
        outlines, solid = glyph_outline(FONTS[int(draw.integers(len(FONTS)))], config.classes[label])
        tall = _between(draw, *config.heights)
        matrix = glyph_matrix(tall, float(draw.uniform(-15, 15)), 0.0)
        place = 0.5 + (draw.random(2) - 0.5) * np.array([width, height]) / config.size * (1 - 0.5 * tall)
        parts = [points @ matrix.T + place for points in outlines]
        red, green, blue = (int(value) for value in draw.integers(0, 110, 3))
        fill(canvas, parts, solid, (red, green, blue))
        cover = Image.new("L", canvas.size)
        fill(cover, parts, solid, 255)
        shown[np.asarray(cover) > 127] = number
        labels.append(label + 1)
    return canvas, shown, labels


def _between(draw: np.random.Generator, low: float, high: float) -> float:
    return math.exp(draw.uniform(math.log(low), math.log(high)))


def write_dense(root: Path | str, *, progress: bool = True, **options: Any) -> Path:
    """Writes the set; options are the fields of `DenseSceneConfig`. Returns root.

    A folder that already holds the same set is left as it is; any other non-empty folder is a ValueError.
    """
    root, config = Path(root), DenseSceneConfig(**options)
    record = plain({"format": 1, "generator": "anyres.data.dense_scenes", "parameters": asdict(config)})
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        written = root / "data.json"
        if written.is_file() and read_json(written, "the record of a synthetic set", remedy=_REMEDY) == record:
            return root
        raise ValueError(f"{root} is not empty and holds no such set; {_REMEDY}")
    jobs = [(split, index) for split in SPLITS for index in range(config.train if split == "train" else config.val)]
    files: dict[Split, dict[str, list[Any]]] = {split: {"images": [], "annotations": []} for split in SPLITS}
    for split, index in tqdm(jobs, desc=f"writing {root.name}", unit="image", disable=not progress):
        _write_one(root, config, split, index, files[split])
    categories = [{"id": place, "name": name} for place, name in enumerate(config.classes, start=1)]
    for split, found in files.items():
        if found["images"]:
            path = root / "annotations" / f"instances_{split}.json"
            write_json(path, {**found, "categories": categories}, indent=None)
    names = "\n".join(("background", *config.classes)) + "\n"
    write_bytes(root / "classes.txt", names.encode())
    write_json(root / "data.json", record)
    return root


def _write_one(root: Path, config: DenseSceneConfig, split: Split, index: int, found: dict[str, list[Any]]) -> None:
    image, shown, labels = draw_dense(config, split, index)
    name = f"{index:05d}.png"
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True, exist_ok=True)
    of_pixels = np.array([0, *labels], dtype=np.uint8)[shown]
    with naming(root):
        image.save(root / "images" / split / name, compress_level=1)
        Image.fromarray(of_pixels).save(root / "annotations" / split / name)
    found["images"].append({"id": index, "file_name": name, "height": image.height, "width": image.width})
    for number, label in enumerate(labels, start=1):
        mask = shown == number
        if mask.sum() >= _LEAST_PIXELS:
            entry = {"id": len(found["annotations"]) + 1, "image_id": index, "category_id": label, "iscrowd": 0}
            found["annotations"].append(entry | _described(mask))


def _described(mask: np.ndarray) -> dict[str, Any]:
    """Box, area and run lengths of a mask (H, W), as COCO has them."""
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    box = [cols[0], rows[0], cols[-1] + 1 - cols[0], rows[-1] + 1 - rows[0]]
    runs = {"size": list(mask.shape), "counts": _run_lengths(mask.ravel(order="F"))}
    return {"bbox": [int(side) for side in box], "area": int(mask.sum()), "segmentation": runs}


def _run_lengths(values: np.ndarray) -> Sequence[int]:
    """Lengths of the runs of False and True in turn, beginning with False."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], values, [False]]).astype(np.int8)))
    return np.diff(np.concatenate([[0], edges, [len(values)]])).tolist()
