"""A class for every pixel of files and folders of images: label maps as PNG, and pictures with the classes' colours."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from anyres.data.decode import MAX_PIXELS, check_max_pixels, read_image
from anyres.data.folder import find_images
from anyres.data.schedule import parse_size
from anyres.devices import resolve_device
from anyres.errors import UnreadableImageError
from anyres.evaluation.miou import Inference, label_map
from anyres.files import write_atomically
from anyres.models.segmenter import load_segmenter


@dataclass(frozen=True, kw_only=True)
class SegmentConfig:
    """Label every pixel of images with a trained segmenter."""

    run: Path
    """folder of the trained model"""
    inputs: tuple[Path, ...]
    """image files, and folders that are searched for images"""
    out: Path
    """folder to write NAME.png into, a label map of each image at its own size; values are those of the masks that
    the model was trained on"""
    size: str | None = None
    """unset: every image at its own size; "512": short side of 512 pixels, aspect kept"""
    window: str | None = None
    """unset: all of an image at once; "512": by windows of so many pixels that overlap by a third"""
    ratios: tuple[float, ...] = (1.0,)
    """sizes of an image, relative to that, whose probabilities are averaged"""
    flip: bool = False
    """look at the mirror image too"""
    draw: bool = False
    """write NAME.drawn.png too, the image under its classes' colours"""
    max_pixels: int = MAX_PIXELS
    """files with more pixels are not decoded"""
    strict: bool = False
    """stop at the first unreadable file instead of listing it at the end"""
    device: str = "auto"
    """where the model runs: auto (cuda if there is one), cpu, cuda, cuda:N or mps"""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no inputs given: allowed are image files and folders")
        check_max_pixels(self.max_pixels)
        resolve_device(self.device)
        if self.size is not None and len(set(parse_size(self.size))) > 1:
            raise ValueError(f"size={self.size} given: allowed is one number, the short side, since the aspect is kept")
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out is {self.out}, which is a file; give a folder")
        self.inference()

    def inference(self) -> Inference:
        """How the model looks at an image."""
        window = None if self.window is None else parse_size(self.window)
        return Inference(window=window, ratios=self.ratios, flip=self.flip)


def segment(config: SegmentConfig, *, progress: bool = True) -> list[dict[str, Any]]:
    """Writes a label map of every image, each file atomically.

    Returns:
        One entry per image in the order of the inputs: {"path", "height", "width", "labels", "share"}, the path of its
        label map and the share of its pixels by class name; {"path", "error"} for a file that cannot be read.

    Raises:
        ValueError: bad settings, missing inputs, inputs of one name or an unreadable model, before any image is read.
        UnreadableImageError: with `strict`, at the first unreadable file.
    """
    paths = find_images(config.inputs)
    _check_names(paths)
    model, info = load_segmenter(config.run)
    model.to(resolve_device(config.device))
    offset = int(bool(info.extra.get("reduce_zero_label")))
    size = None if config.size is None else parse_size(config.size)
    config.out.mkdir(parents=True, exist_ok=True)
    results: list[dict[str, Any]] = []
    for path in tqdm(paths, desc="segment", unit="image", file=sys.stderr, disable=not progress):
        try:
            image = read_image(path, max_pixels=config.max_pixels, channels=model.config.backbone.in_channels)
        except UnreadableImageError as error:
            if config.strict:
                raise
            results.append({"path": str(path), "error": str(error)})
            continue
        labels = label_map(model, image, config.inference(), size).numpy().astype(np.uint8)  # (H, W)
        target = config.out / f"{path.stem}.png"
        _write(target, coloured(labels + np.uint8(offset)))
        if config.draw:
            _write(config.out / f"{path.stem}.drawn.png", drawn(image, labels, offset))
        shares = np.bincount(labels.reshape(-1), minlength=len(info.classes)) / labels.size
        share = {name: round(float(value), 6) for name, value in zip(info.classes, shares, strict=True) if value}
        result = {"path": str(path), "height": image.height, "width": image.width}
        results.append(result | {"labels": str(target), "share": share})
    return results


def coloured(labels: np.ndarray) -> Image.Image:
    """Labels (H, W) uint8 as an image whose values they are, with a palette of clearly different colours."""
    image = Image.fromarray(labels).convert("L")
    image.putpalette(_palette())
    return image


def drawn(image: Image.Image, labels: np.ndarray, offset: int = 0) -> Image.Image:
    """An image half covered by the colours that its labels (H, W) have in the label map."""
    colours = coloured(labels + np.uint8(offset)).convert("RGB")
    return Image.blend(image.convert("RGB"), colours, 0.5)


def _palette() -> list[int]:
    """256 colours, as Pascal VOC has them: the bits of a label are spread over red, green and blue."""
    colours = []
    for label in range(256):
        for channel in range(3):
            bits = [label >> (3 * place + channel) & 1 for place in range(8)]
            colours.append(sum(bit << (7 - place) for place, bit in enumerate(bits)))
    return colours


def _check_names(paths: Sequence[Path]) -> None:
    seen: dict[str, Path] = {}
    for path in paths:
        if path.stem in seen:
            raise ValueError(
                f"{seen[path.stem]} and {path} would both be written to {path.stem}.png; give them in two calls with "
                "different out"
            )
        seen[path.stem] = path


def _write(path: Path, image: Image.Image) -> None:
    write_atomically(path, lambda file: image.save(file, format="PNG"))
