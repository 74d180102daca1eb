"""Objects in files and folders of images: COCO's JSON of results, and pictures with boxes, masks and scores."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from anyres.data.decode import MAX_PIXELS, check_max_pixels, read_image
from anyres.data.folder import find_images
from anyres.devices import resolve_device
from anyres.errors import UnreadableImageError
from anyres.evaluation.detections import coco_results, detect, draw_detections, write_results
from anyres.files import write_atomically
from anyres.models.detector import load_detector

RESULTS = "results.json"


@dataclass(frozen=True, kw_only=True)
class DetectConfig:
    """Find objects in images with a trained detector."""

    run: Path
    """folder of the trained model"""
    inputs: tuple[Path, ...]
    """image files, and folders that are searched for images"""
    out: Path
    """folder to write results.json into, COCO's results; image_id is the place of an image among the inputs, from 0"""
    threshold: float = 0.05
    """least score of what is written"""
    draw: bool = False
    """write pictures too, of what has a score of 0.5 or more"""
    max_pixels: int = MAX_PIXELS
    """files with more pixels are not decoded"""
    strict: bool = False
    """stop at the first unreadable file instead of listing it at the end"""
    device: str = "auto"
    """where the model runs: auto (cuda if there is one), cpu, cuda, cuda:N or mps"""

    def __post_init__(self) -> None:
        if not self.inputs:
            raise ValueError("no inputs given: allowed are image files and folders")
        if not 0 <= self.threshold <= 1:
            raise ValueError(f"threshold is {self.threshold}; allowed: 0 to 1")
        check_max_pixels(self.max_pixels)
        resolve_device(self.device)
        if self.out.exists() and not self.out.is_dir():
            raise ValueError(f"out is {self.out}, which is a file; give a folder")


def find_objects(config: DetectConfig, *, progress: bool = True) -> list[Mapping[str, Any]]:
    """Writes what is found in every image to one file, and pictures if they are asked for.

    Returns:
        One entry per image in the order of the inputs: {"path", "height", "width", "objects"}, the number found;
        {"path", "error"} for a file that cannot be read.

    Raises:
        ValueError: bad settings, missing inputs or an unreadable model, before any image is read.
        UnreadableImageError: with `strict`, at the first unreadable file.
    """
    paths = find_images(config.inputs)
    model, info = load_detector(config.run)
    device = resolve_device(config.device)
    model.to(device)
    entries: list[Mapping[str, Any]] = []
    results: list[dict[str, Any]] = []
    for index, path in enumerate(tqdm(paths, desc="detect", unit="image", file=sys.stderr, disable=not progress)):
        try:
            image = read_image(path, max_pixels=config.max_pixels, channels=model.config.backbone.in_channels)
        except UnreadableImageError as error:
            if config.strict:
                raise
            entries.append({"path": str(path), "error": str(error)})
            continue
        (found,) = detect(model, [image], device)
        kept = found["scores"] >= config.threshold
        found = {name: values[kept] for name, values in found.items()}
        results += coco_results(index, found, info.extra["category_ids"])
        entries.append({"path": str(path), "height": image.height, "width": image.width, "objects": int(kept.sum())})
        if config.draw:
            picture = draw_detections(image, found, info.classes)
            target = config.out / f"{index:06d}-{path.stem}.png"
            target.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(target, lambda file, picture=picture: picture.save(file, format="PNG"))  # type: ignore[misc]
    write_results(config.out / RESULTS, results)
    return entries
