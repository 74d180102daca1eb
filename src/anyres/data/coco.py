"""Data sets in COCO's JSON format: boxes, classes and masks of images, all checked before any work."""

import hashlib
import json
import math
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from anyres.data.coco_masks import check_segmentation, covers_nothing, decode_mask
from anyres.data.orientation import LabelsAs, Turned, check_labels_as, read_header
from anyres.errors import UnreadableImageError
from anyres.files import LFS_POINTER, is_lfs_pointer
from anyres.sizes import Size
from anyres.spacing import evenly_spaced

Target = dict[str, Tensor]
"""What is to be found in an image, as torchvision names it: boxes (N, 4) float32 as x0, y0, x1, y1 in pixels, labels
(N,) int64 from 1 up, area (N,) float32, iscrowd (N,) int64 and, unless read without, masks (N, H, W) uint8."""

_THIN = 0.01  # pixels; a thinner box may have no width left in float32
_HEADERS = 2000  # of image files that are looked at before any work: seconds, also on a network
_OVERHANG = 1.0  # pixels beyond the edge that are rounding, not worth a word


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object."""

    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels, inside the image."""
    label: int
    """1 and up."""
    area: float
    crowd: bool
    """A region of many objects: nothing is learned from it, and finding something there is no mistake."""
    segmentation: Any
    """Polygons or an RLE as in the file, or None."""


@dataclass(frozen=True, slots=True)
class AnnotatedImage:
    """An image file and what is in it."""

    id: int
    path: Path
    size: Size
    instances: tuple[Instance, ...]


class CocoImages:
    """The images of a COCO annotation file with their instances; image files are not opened.

    Category ids, which may have holes, become labels 1..K in rising order of the ids. Boxes that reach over the edge
    are clipped; those outside their image, without area or with numbers that are none are dropped, and so are objects
    whose mask covers nothing: see `findings`.

    Args:
        annotations: the JSON file.
        images: the folder that its file names start from.
        masks: False reads boxes alone.
        categories: id -> name, those of the training set: the file may have no others, and labels follow them.
        labels_as: whether annotations fit photos as they are shown or as they are stored; see `LabelsAs`.

    Attributes:
        classes, category_ids: name and original id of label i + 1.
        absent: names of the classes of which there is no single object.
        images: in the order of the file.
        findings: what was clipped or dropped -> which annotations.

    Raises:
        ValueError: what is no such file, names files that are not there or unknown ids, has masks of another size than
            their image or none, or no annotation at all. Names the first few.
    """

    def __init__(
        self,
        annotations: Path,
        images: Path,
        *,
        masks: bool = True,
        categories: Mapping[int, str] | None = None,
        labels_as: LabelsAs = "shown",
    ) -> None:
        check_labels_as(labels_as)
        self.file, self.root, self.masks, self.labels_as = annotations, images, masks, labels_as
        self.findings: dict[str, list[str]] = {}
        content = _read(annotations)
        record = _parsed(annotations, content)
        try:
            found = {_whole(each["id"]): str(each["name"]) for each in record["categories"]}
            _refuse_doubles(annotations, "categories", [each["id"] for each in record["categories"]])
            self.categories = dict(sorted((categories or found).items()))
            self._check_categories(found)
            self.classes, self.category_ids = tuple(self.categories.values()), tuple(self.categories)
            self.images = self._images(record)
        except KeyError as error:
            raise ValueError(f"{annotations} is not in COCO's format: an entry has no {error}") from error
        except (TypeError, AttributeError, OverflowError) as error:
            raise ValueError(f"{annotations} is not in COCO's format: {error!r}") from error
        self.paths = [image.path for image in self.images]
        present = self.classes_in(range(len(self)))
        self.absent = tuple(name for name in self.classes if name not in present)
        if not present:
            raise ValueError(
                f"{annotations} has no annotation of a single object with a valid box; at least 1 is needed"
            )
        self._digest = hashlib.sha256(content).hexdigest()[:16]

    def __len__(self) -> int:
        return len(self.images)

    def digest(self) -> str:
        """Sixteen hexadecimal digits that tell the annotation file from every other."""
        return self._digest

    def target(self, index: int, *, crowds: bool = True) -> Target:
        """The instances of an image as tensors (see `Target`), crowds only if asked for."""
        image = self.images[index]
        chosen = [each for each in image.instances if crowds or not each.crowd]
        target = {
            "boxes": torch.tensor([each.box for each in chosen], dtype=torch.float32).reshape(-1, 4),
            "labels": torch.tensor([each.label for each in chosen], dtype=torch.int64),
            "area": torch.tensor([each.area for each in chosen], dtype=torch.float32),
            "iscrowd": torch.tensor([each.crowd for each in chosen], dtype=torch.int64),
        }
        if self.masks:
            masks = torch.zeros((len(chosen), *image.size), dtype=torch.uint8)
            for place, each in enumerate(chosen):
                masks[place] = torch.from_numpy(decode_mask(each.segmentation, image.size))
            target["masks"] = masks
        return target

    def classes_in(self, indices: Iterable[int]) -> set[str]:
        """The names of the classes of the single objects in some images."""
        chosen = (self.images[index].instances for index in indices)
        labels = {each.label for instances in chosen for each in instances if not each.crowd}
        return {self.classes[label - 1] for label in labels}

    def turned(self) -> Turned:
        """The photos that their EXIF data turns, of at most so many that are spread evenly: their headers are read."""
        found: list[Path] = []
        misfits: list[Path] = []
        chosen = evenly_spaced(len(self), _HEADERS)
        for index in chosen:
            image = self.images[index]
            try:
                header = read_header(image.path)
            except UnreadableImageError:
                continue  # named when it is read in earnest
            if header.is_turned:
                found.append(image.path)
                if header.size(self.labels_as) != image.size:
                    misfits.append(image.path)
        return Turned(found, len(chosen), len(self), misfits)

    def report(self) -> list[str]:
        """A line for each kind of finding: what was done, how often, and the first few annotations."""
        return [f"{self.file}: {len(ids)} {what}: {_first(ids)}" for what, ids in self.findings.items()]

    def _check_categories(self, found: Mapping[int, str]) -> None:
        other = [f"{key} ({name})" for key, name in found.items() if self.categories.get(key) != name]
        if other:
            known = _first([f"{key} ({name})" for key, name in self.categories.items()])
            raise ValueError(f"{self.file} has categories {_first(other)}; those of training are {known}")

    def _images(self, record: Mapping[str, Any]) -> list[AnnotatedImage]:
        _refuse_doubles(self.file, "images", [each["id"] for each in record["images"]])
        by_image: dict[int, list[Mapping[str, Any]]] = {each["id"]: [] for each in record["images"]}
        lost = [str(each["id"]) for each in record["annotations"] if each["image_id"] not in by_image]
        if lost:
            raise ValueError(f"{self.file}: {len(lost)} annotations are of images that are not listed: {_first(lost)}")
        ids = sorted({each["category_id"] for each in record["annotations"]} - self.categories.keys(), key=str)
        if ids:
            known = _first([str(key) for key in self.categories])
            unknown = _first([repr(each) for each in ids])
            raise ValueError(f"{self.file} has annotations of the unknown category ids {unknown}; known are {known}")
        for each in record["annotations"]:
            by_image[each["image_id"]].append(each)
        self._check_files([str(each["file_name"]) for each in record["images"]])
        labels = {key: place + 1 for place, key in enumerate(self.categories)}
        wrong: dict[str, list[str]] = {}
        images = []
        for each in record["images"]:
            size = (_whole(each["height"], 1), _whole(each["width"], 1))
            read = (self._instance(one, size, labels, wrong) for one in by_image[each["id"]])
            instances = tuple(one for one in read if one is not None)
            images.append(AnnotatedImage(_whole(each["id"]), self.root / each["file_name"], size, instances))
        if wrong:
            told = [f"{len(names)} annotations have {what}: {_first(names)}" for what, names in wrong.items()]
            raise ValueError(f"{self.file}: {'; '.join(told)}")
        return images

    def _check_files(self, names: Sequence[str]) -> None:
        paths = [self.root / name for name in names]
        # one listing a folder: asking for each of a hundred thousand files takes minutes on a network
        there = {folder: set(os.listdir(folder)) for folder in {path.parent for path in paths} if folder.is_dir()}
        pairs = zip(names, paths, strict=True)
        missing = [name or "''" for name, path in pairs if not name or path.name not in there.get(path.parent, ())]
        if missing:
            raise ValueError(
                f"{len(missing)} of {len(names)} images in {self.file} are not in {self.root}: {_first(missing)}"
            )

    def _instance(
        self, record: Mapping[str, Any], size: Size, labels: Mapping[int, int], wrong: dict[str, list[str]]
    ) -> Instance | None:
        """None if it is dropped; what makes the set unusable is added to `wrong`."""
        name = f"{record['id']} (image {record['image_id']})"
        box = self._box(record["bbox"], size, name)
        if box is None:
            return None
        segmentation, problem = check_segmentation(record.get("segmentation"), size) if self.masks else (None, None)
        crowd = record.get("iscrowd", 0)
        if crowd not in (0, 1):
            problem = "an iscrowd that is neither 0 nor 1"
        if problem is not None:
            wrong.setdefault(problem, []).append(name)
            return None
        if segmentation is not None and covers_nothing(segmentation, size):
            self._note("masks that cover nothing, dropped", name)
            return None
        area = record.get("area")
        if not isinstance(area, int | float) or not 0 < area < math.inf:
            if area:  # not just absent
                self._note("areas that are no numbers above 0, replaced by that of the box", name)
            area = (box[2] - box[0]) * (box[3] - box[1])
        return Instance(box, labels[record["category_id"]], float(area), bool(crowd), segmentation)

    def _box(self, given: Any, size: Size, name: str) -> tuple[float, float, float, float] | None:
        """x, y, width, height of the file as corners inside the image, or None."""
        height, width = size
        numbers = given if isinstance(given, list) else []
        if len(numbers) != 4 or not all(isinstance(each, int | float) and math.isfinite(each) for each in numbers):
            self._note("boxes that are not four finite numbers, dropped", name)
            return None
        x0, y0, x1, y1 = numbers[0], numbers[1], numbers[0] + numbers[2], numbers[1] + numbers[3]
        # before clipping: of a box that is thin by itself the cause is another than of one that leaves the image
        if min(x1 - x0, y1 - y0) < _THIN:
            self._note("boxes without area, dropped", name)
            return None
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        if min(box[2] - box[0], box[3] - box[1]) < _THIN:
            self._note("boxes outside their image, dropped", name)
            return None
        if max(abs(one - other) for one, other in zip(box, (x0, y0, x1, y1), strict=True)) > _OVERHANG:
            self._note("boxes that reach over the edge of their image, clipped", name)
        return box

    def _note(self, what: str, name: str) -> None:
        self.findings.setdefault(what, []).append(name)


def find_coco_split(root: Path, split: str) -> tuple[Path, Path] | None:
    """The annotation file and the image folder of a split ("train" or "val") below a data folder, None if it has none.

    The file is annotations/instances_SPLIT*.json, annotations/SPLIT*.json or SPLIT.json; the folder has its name
    without "instances_", or is SPLIT, or such a folder in images/, or images/ itself.

    Raises:
        ValueError: no such data folder, several such files, or none of these folders.
    """
    if not root.is_dir():
        raise ValueError(f"no such folder: {root}")
    patterns = (f"annotations/instances_{split}*.json", f"annotations/{split}*.json", f"{split}.json")
    files = next((found for pattern in patterns if (found := sorted(root.glob(pattern)))), [])
    if len(files) > 1:
        listed = ", ".join(file.name for file in files)
        raise ValueError(f"{root} has several annotation files for {split}: {listed}; allowed: one")
    if not files:
        return None
    names = dict.fromkeys((files[0].stem.removeprefix("instances_"), split))
    folders = [root / name for name in names] + [root / "images" / name for name in names] + [root / "images"]
    for folder in folders:
        if folder.is_dir():
            return files[0], folder
    raise ValueError(f"no images for {files[0]}; expected is one of {', '.join(map(str, folders))}")


def _read(path: Path) -> bytes:
    if not path.is_file():
        raise ValueError(f"no such annotation file: {path}")
    return path.read_bytes()


def _parsed(path: Path, content: bytes) -> dict[str, Any]:
    try:
        record = _from_json(content)
    except ValueError as error:
        raise ValueError(f"{path} {LFS_POINTER if is_lfs_pointer(path) else f'is not JSON: {error}'}") from error
    names = ("images", "annotations", "categories")
    if not isinstance(record, dict) or not all(isinstance(record.get(name), list) for name in names):
        raise ValueError(f"{path} is not in COCO's format: it needs the lists {', '.join(names)}")
    return record


def _from_json(content: bytes) -> Any:
    try:
        return json.loads(content)
    except UnicodeDecodeError:  # names of files that are no text, as the system has them
        return json.loads(os.fsdecode(content))


def _whole(value: Any, least: int = 0) -> int:
    if not isinstance(value, int | float) or not least <= value < math.inf or value % 1:
        raise TypeError(f"{value!r} is no whole number from {least} up")
    return int(value)


def _refuse_doubles(path: Path, what: str, ids: Sequence[Any]) -> None:
    if len(set(ids)) < len(ids):
        twice = sorted({str(each) for each, count in Counter(ids).items() if count > 1})
        raise ValueError(f"{path} lists {what} with the same id: {_first(twice)}")


def _first(names: Sequence[Any], count: int = 5) -> str:
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(map(str, names[:count])) + more
