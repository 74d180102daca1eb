"""What a predictor says of an image: its classes, a class for every pixel, or the objects in it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyres.predict.objects import Objects, draw_objects, result_of
from anyres.predict.overview import picture_step
from anyres.predict.pictures import class_colour, draw_labels, enlarged, with_legend
from anyres.predict.placed_masks import PlacedMask
from anyres.sizes import Size


@dataclass(frozen=True, kw_only=True)
class Result(ABC):
    """What is said of one image; `draw` reads the image again."""

    index: int
    """Its place among the inputs, from 0."""
    path: Path | None
    """None for what was given in memory."""
    size: Size
    """(height, width) in pixels of the upright image."""
    window: Size | None = None
    """(height, width) of the windows that it was looked at by, if it was."""
    picture: Callable[[], Image.Image] = field(repr=False, compare=False)
    """Reads the image for drawing; of a huge one every so many pixels."""

    def to_dict(self) -> dict[str, Any]:
        """All of it as values of JSON."""
        found: dict[str, Any] = {"index": self.index, "path": None if self.path is None else str(self.path)}
        found |= {"height": int(self.size[0]), "width": int(self.size[1])}
        return found if self.window is None else found | {"window": list(self.window)}

    @abstractmethod
    def draw(self) -> Image.Image:
        """The image with what is said of it, in colour."""


@dataclass(frozen=True, kw_only=True)
class Classification(Result):
    """The likeliest classes of an image, the best first."""

    classes: tuple[str, ...]
    probabilities: tuple[float, ...]
    """Of each of these."""
    reduced: Size | None = None
    """(height, width) that the image was made smaller to for a budget, if it was."""

    def to_dict(self) -> dict[str, Any]:
        """With "top": [{"class", "probability"}]."""
        found = super().to_dict()
        if self.reduced is not None:
            found["reduced"] = list(self.reduced)
        pairs = zip(self.classes, self.probabilities, strict=True)
        return found | {"top": [{"class": name, "probability": value} for name, value in pairs]}

    def draw(self) -> Image.Image:
        """The image above its classes."""
        picture, _ = enlarged(self.picture())
        pairs = zip(self.classes, self.probabilities, strict=True)
        names = [(f"{name} {value:.1%}", class_colour(rank)) for rank, (name, value) in enumerate(pairs, start=1)]
        return with_legend(picture, names)


@dataclass(frozen=True, kw_only=True)
class LabelMap(Result):
    """A class for every pixel of an image."""

    classes: tuple[str, ...]
    """All that the model tells apart."""
    first: int
    """The value of the first class: 1 where 0 stands for pixels without a class, else 0."""
    shares: dict[str, float]
    """Of the pixels, by class, of those that are there."""
    values: np.ndarray | None
    """(H, W) uint8; None if they are in a file alone."""
    file: Path | None = None
    """A tiled TIFF with the values of an image that was never in memory as a whole."""
    shown: np.ndarray = field(repr=False, compare=False)
    """(h, w) uint8: the values at the pixels of `picture`."""

    def to_dict(self) -> dict[str, Any]:
        """Without the values: with "share" by class and, if they are in a file, its name as "labels"."""
        found = super().to_dict() | ({} if self.file is None else {"labels": str(self.file)})
        return found | {"share": {name: round(value, 6) for name, value in self.shares.items()}}

    def draw(self) -> Image.Image:
        """The image under its classes' colours, with their names."""
        return draw_labels(self.picture(), self.shown, self.classes, self.first)


@dataclass(frozen=True, kw_only=True)
class Detections(Result):
    """The objects in an image, the best first."""

    classes: tuple[str, ...]
    """All that the model finds."""
    category_ids: tuple[int, ...]
    """Of each of these, in the annotations that it learned from."""
    objects: Objects = field(repr=False, compare=False)

    def __len__(self) -> int:
        return len(self.objects)

    @property
    def boxes(self) -> np.ndarray:
        """(N, 4) float32: x0, y0, x1, y1 in pixels."""
        return self.objects.boxes.numpy()

    @property
    def scores(self) -> np.ndarray:
        """(N,) float32, from 0 to 1."""
        return self.objects.scores.numpy()

    @property
    def labels(self) -> np.ndarray:
        """(N,) int64, places in `classes` from 0."""
        return self.objects.labels.numpy() - 1

    @property
    def names(self) -> list[str]:
        """The class of each object."""
        return [self.classes[label] for label in self.labels.tolist()]

    @property
    def masks(self) -> np.ndarray | None:
        """(N, H, W) bool, made at every call, or None from a model without; of huge images see `placed_masks`."""
        found = self.objects.found().get("masks")
        return None if found is None else found.numpy()

    def placed_masks(self) -> Iterator[PlacedMask]:
        """The same one by one, only what is not empty of each and where it lies. Nothing if the model has no masks."""
        return (self.objects.mask(place) for place in range(len(self) if self.objects.masks is not None else 0))

    def to_dict(self) -> dict[str, Any]:
        """Without the masks: with "detections": [{"class", "score", "box": [x0, y0, x1, y1]}]."""
        found = zip(self.names, self.scores.tolist(), self.boxes.tolist(), strict=True)
        return super().to_dict() | {
            "detections": [{"class": name, "score": score, "box": box} for name, score, box in found]
        }

    def to_coco(self, image_id: int | None = None) -> list[dict[str, Any]]:
        """COCO's list of results, with the categories' own ids, and masks as run lengths.

        Args:
            image_id: the image's place among the inputs, if not given.

        Raises:
            ImportError: without faster-coco-eval, if there are masks.
        """
        number = self.index if image_id is None else image_id
        masks: Sequence[Any] = [mask.encode(self.size) for mask in self.placed_masks()] or [None] * len(self)
        given = zip(self.boxes.tolist(), self.scores.tolist(), self.labels.tolist(), masks, strict=True)
        return [result_of(number, box, score, self.category_ids[label], mask) for box, score, label, mask in given]

    def to_supervision(self) -> Any:
        """As `supervision.Detections`. ImportError without that package."""
        supervision = import_supervision()
        return supervision.Detections(
            xyxy=self.boxes, mask=self.masks, confidence=self.scores, class_id=self.labels,
            data={"class_name": np.array(self.names, dtype=str)},
        )  # fmt: skip

    def draw(self, threshold: float = 0.5) -> Image.Image:
        """The image with the masks, boxes, classes and scores of what has a score of at least that."""
        step = picture_step(self.size) if self.window is not None else 1
        good = self.objects.kept(self.objects.scores >= threshold)
        masks = None if good.masks is None else [good.mask(place).every(step) for place in range(len(good))]
        return draw_objects(
            self.picture(), good.boxes / step, good.scores, good.labels, masks, self.classes, threshold=threshold
        )


def import_supervision() -> Any:
    """The package, or an ImportError that says how to get it."""
    try:
        import supervision
    except ImportError as error:
        raise ImportError("to_supervision needs the package supervision: pip install supervision") from error
    return supervision
