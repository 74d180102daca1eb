"""Images with a class for every pixel, in folders as ADE20K has them: files checked, read and counted."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from PIL import Image

from anyres.data.class_survey import Survey, survey
from anyres.data.decode import MAX_PIXELS, check_max_pixels
from anyres.data.folder import find_images
from anyres.data.mask_file import MASK_SUFFIXES, read_mask
from anyres.data.orientation import (
    LabelsAs,
    Turned,
    check_labels_as,
    other_convention,
    read_as,
    read_header,
    turned_up,
)
from anyres.errors import Unreadable, UnreadableImageError
from anyres.sizes import size_text

IGNORE = 255
"""The label of pixels that nobody has labelled, in masks on disk and in targets."""

CLASSES = "classes.txt"

HOW_MASKS_ARE_READ = ("reduce_zero_label", "mask_values", "labels_as")
"""The settings of a run that whoever measures its model needs; they have the same names everywhere."""

_SPLITS = {"train": ("training", "train"), "val": ("validation", "val")}
_NAMED = 5  # files that a message names
_VALUES = 1 << 16  # what a mask may hold: 0 up to this
_WRONG = -1


class SegmentationFolder:
    """The images of ROOT/images/<split>/ with masks of their names in ROOT/annotations/<split>/, as PNG, TIFF or BMP.

    A mask has one channel, whose values are the labels; a palette is not looked at. Headers are read at once: images
    without a mask, with a mask of another size, or unreadable are left out and listed. Labels are checked when a mask
    is read; but that some image can be used at all is known at once.

    Args:
        root: with images/ and annotations/, in each training/ (or train/) and validation/ (or val/).
        split: "train" or "val".
        num_classes: labels are 0 to num_classes - 1, and 255 where nothing is known.
        reduce_zero_label: on disk 0 means that nothing is known, and the labels begin at 1 (ADE20K).
        mask_values: what the masks hold for each label in turn, if not the label: (0, 255) for black and white.
        labels_as: whether masks fit photos as they are shown or as they are stored; see `LabelsAs`. A mask that has an
            orientation itself is treated like its photo.
        max_pixels: files with more pixels than this count as unreadable.
        strict: nothing is left out; the first image that would be is an error.

    Attributes:
        root: of the images.
        paths, masks: sorted, one mask for each image.
        skipped: images that are left out, and why.
        turned: the photos that their EXIF data turns otherwise than their masks.

    Raises:
        ValueError: no such folders, no image that can be used, or with `strict` one that, by its headers, cannot. Masks
            of 0 and 255 for two classes, of which nobody said that 255 is a class.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        *,
        num_classes: int,
        reduce_zero_label: bool = False,
        mask_values: Sequence[int] = (),
        labels_as: LabelsAs = "shown",
        max_pixels: int = MAX_PIXELS,
        strict: bool = False,
    ) -> None:
        most = IGNORE - reduce_zero_label
        if not 2 <= num_classes <= most:
            raise ValueError(f"num_classes is {num_classes}; allowed: 2 to {most}, since label {IGNORE} is ignored")
        check_mask_values(mask_values, num_classes, reduce_zero_label)
        check_labels_as(labels_as)
        check_max_pixels(max_pixels)
        self.num_classes, self.max_pixels, self.labels_as = num_classes, max_pixels, labels_as
        self.reduce_zero_label, self.mask_values = reduce_zero_label, tuple(mask_values)
        self.root, masks = (split_folder(root, kind, split) for kind in ("images", "annotations"))
        self.paths: list[Path] = []
        self.masks: list[Path] = []
        self.skipped: list[Unreadable] = []
        self._turned: list[Path] = []
        self._misfits: list[Path] = []
        for path in find_images([self.root]):
            try:
                mask = _mask_of((masks / path.relative_to(self.root)).with_suffix(""))
                self._check_headers(path, mask)
            except ValueError as error:
                self.skipped.append(Unreadable(path, str(error)))
            else:
                self.paths.append(path)
                self.masks.append(mask)
        if self.skipped and (strict or not self.paths):
            raise ValueError(described(self.skipped, len(self.paths) + len(self.skipped)))
        self._refuse_if_hopeless()
        self._refuse_black_and_white()

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, channels: int = 3) -> "Labelled":
        """Image and labels of one place. UnreadableImageError for a file that cannot be read or has other labels."""
        path, mask = self.paths[index], self.masks[index]
        image = read_as(path, self.labels_as, max_pixels=self.max_pixels, channels=channels)
        labels = Image.fromarray(self._labels(mask))
        if self.labels_as == "shown":
            labels = turned_up(labels, read_header(mask, max_pixels=self.max_pixels).orientation)
        if labels.size != image.size:
            found, header = labels.size[::-1], read_header(path, max_pixels=self.max_pixels)
            text = _other_size(found, image.size[::-1]) + other_convention(header, found, self.labels_as)
            raise UnreadableImageError(mask, text)
        return Labelled(image, labels)

    @cached_property
    def survey(self) -> Survey:
        """Which classes the masks have at all, from a look at some of them."""
        return survey(lambda index: self._labels(self.masks[index]), len(self), self.num_classes, IGNORE)

    @property
    def turned(self) -> Turned:
        return Turned(self._turned, len(self), len(self), self._misfits)

    def _check_headers(self, path: Path, mask: Path) -> None:
        """ValueError for an image that cannot be used, as far as the headers tell."""
        image, labels = (read_header(each, max_pixels=self.max_pixels) for each in (path, mask))
        # of a photo on its side either may be meant, which is told when it is read
        if labels.stored not in (image.stored, image.shown):
            raise ValueError(f"{mask}: {_other_size(labels.stored, image.stored)}")
        if image.orientation != labels.orientation:
            self._turned.append(path)
            if image.size(self.labels_as) != labels.size(self.labels_as):
                self._misfits.append(path)

    def _refuse_black_and_white(self) -> None:
        """ValueError for masks of 0 and 255 alone, which would be one class and pixels that nobody has labelled."""
        if self.num_classes > 2 or self.reduce_zero_label or self.mask_values:
            return
        if self.survey.absent == (1,) and self.survey.has_unknown:
            seen = "all" if self.survey.is_of_all else f"{self.survey.looked_at} of"
            raise ValueError(
                f"the masks in {self.masks[0].parent} ({seen} {self.survey.of} were looked at) hold 0 and {IGNORE}, "
                f"but {IGNORE} means that nothing is known, so that class 1 has no pixel; for two classes: "
                f"mask_values=(0, {IGNORE}), on the command line --mask-values 0 {IGNORE}; if nothing is known there: "
                "mask_values=(0, 1)"
            )

    def _refuse_if_hopeless(self) -> None:
        """ValueError unless some mask labels a pixel with an allowed label; usually only the first one is read."""
        wrong: list[Unreadable] = []
        for path, mask in zip(self.paths, self.masks, strict=True):
            try:
                if (self._labels(mask) != IGNORE).any():
                    return
            except UnreadableImageError as error:
                wrong.append(Unreadable.of(path, error))
            else:
                wrong.append(Unreadable(path, f"{mask}: no pixel has a known label"))
        raise ValueError(described(wrong, len(self.paths)))

    def _labels(self, path: Path) -> np.ndarray:
        """(H, W) uint8, as they lie in the file: 0 to num_classes - 1, or IGNORE."""
        stored = read_mask(path, max_pixels=self.max_pixels).astype(np.int64)
        labels = self._label_of[stored.clip(-1, len(self._label_of) - 1)]
        is_wrong = labels == _WRONG
        if is_wrong.any():
            raise UnreadableImageError(path, self._other_labels(stored[is_wrong]))
        return labels.astype(np.uint8)

    @cached_property
    def _label_of(self) -> np.ndarray:
        """(65537,) int16: the label of each stored value. The last is of those below and above all."""
        table = np.full(_VALUES + 1, _WRONG, dtype=np.int16)
        values, unknown = self._values(), self._unknown()
        table[list(unknown)] = IGNORE
        table[list(values)] = np.arange(len(values))
        return table

    def _values(self) -> Sequence[int]:
        """What stands for each label in turn."""
        # ADE20K's 0 is "other", which nobody learns; its classes 1 to 150 become 0 to 149
        first = int(self.reduce_zero_label)
        return self.mask_values or range(first, first + self.num_classes)

    def _unknown(self) -> Sequence[int]:
        """What stands for pixels without a label."""
        return [0] * self.reduce_zero_label + [IGNORE] * (IGNORE not in self._values())

    def _other_labels(self, found: np.ndarray) -> str:
        """Why a mask with these stored values cannot be used."""
        values, unknown = self._values(), self._unknown()
        allowed = _few(values) if self.mask_values else f"{values[0]} to {values[-1]}"
        told = f"{len(found)} pixels have labels {_few(np.unique(found).tolist())}; allowed: {allowed}"
        if unknown:
            told += f"; {' and '.join(map(str, unknown))} {'are' if len(unknown) > 1 else 'is'} ignored"
        return told if self.mask_values else f"{told}; other values are labels with mask_values"

    def digest(self) -> str:
        """Sixteen hexadecimal digits of the files' names and lengths, to know other files there."""
        digest = hashlib.sha256()
        for path, mask in zip(self.paths, self.masks, strict=True):
            name = path.relative_to(self.root).as_posix()
            digest.update(os.fsencode(f"{name}\t{path.stat().st_size}\t{mask.stat().st_size}\n"))
        return digest.hexdigest()[:16]


@dataclass(frozen=True)
class Labelled:
    """An image, and the class of each of its pixels."""

    image: Image.Image
    """Mode RGB or L."""
    labels: Image.Image
    """Mode L, of the same size: 0 to num_classes - 1, or IGNORE."""


def split_folder(root: Path | str, kind: str, split: str) -> Path:
    """The folder of a split's "images" or "annotations". ValueError if there is none."""
    names = _SPLITS[split]
    found = [Path(root, kind, name) for name in names if Path(root, kind, name).is_dir()]
    if len(found) == 1:
        return found[0]
    if found:
        raise ValueError(f"{found[0]} and {found[1]} exist; allowed: one of them")
    where = ", ".join(str(Path(root, each, names[0])) for each in ("images", "annotations"))
    raise ValueError(f"no folder {Path(root, kind, names[0])}; expected are {where} (or {names[1]} for {names[0]})")


def has_split(root: Path, split: str) -> bool:
    """Whether there is a folder of images for a split."""
    return any(Path(root, "images", name).is_dir() for name in _SPLITS[split])


def check_mask_values(values: Sequence[int], num_classes: int, reduce_zero_label: bool) -> None:
    """ValueError unless these are as many different whole numbers as there are classes, or none."""
    if not values:
        return
    if reduce_zero_label:
        raise ValueError("reduce_zero_label is True but has no effect, because mask_values say what is a label")
    is_whole = all(isinstance(each, int) and not isinstance(each, bool) and 0 <= each < _VALUES for each in values)
    if not is_whole or len(set(values)) < len(values) or len(values) != num_classes:
        raise ValueError(
            f"mask_values is {tuple(values)}; allowed: {num_classes} different whole numbers from 0 to {_VALUES - 1}, "
            "the value of each of the num_classes labels in turn"
        )


def class_names(
    root: Path | str, num_classes: int, *, reduce_zero_label: bool = False, mask_values: Sequence[int] = ()
) -> tuple[str, ...]:
    """The lines of ROOT/classes.txt, in the order of the labels; without it their numbers in the masks.

    ValueError if they are not as many as the classes."""
    path = Path(root, CLASSES)
    if not path.is_file():
        first = int(reduce_zero_label)
        return tuple(map(str, mask_values or range(first, first + num_classes)))
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} is not text in UTF-8: {error}") from error
    names = tuple(line.strip() for line in text.splitlines() if line.strip())
    if len(names) != num_classes:
        raise ValueError(f"{path} names {len(names)} classes; num_classes is {num_classes}")
    return names


def described(skipped: Sequence[Unreadable], count: int) -> str:
    """How many of so many images cannot be used, and the first of them with the reasons."""
    lines = [f"{len(skipped)} of {count} images cannot be used:"]
    lines += [f"  {path}: {reason}" for path, reason in skipped[:_NAMED]]
    return "\n".join(lines + [f"  and {len(skipped) - _NAMED} more"] * (len(skipped) > _NAMED))


def _mask_of(stem: Path) -> Path:
    """The mask of this name, whatever its container. ValueError if there is none, or more than one."""
    # not `with_suffix`, to which "photo.v2" has one
    known = [stem.with_name(f"{stem.name}{suffix}") for suffix in MASK_SUFFIXES]
    found = [path for path in known if path.is_file()]
    if not found:
        raise ValueError(f"no mask {known[0]}")
    if len(found) > 1:
        raise ValueError(f"masks {found[0]} and {found[1].name}; allowed: one")
    return found[0]


def _other_size(found: Sequence[int], size: Sequence[int]) -> str:
    return f"a mask of {size_text(found)} pixels for an image of {size_text(size)}"


def _few(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:_NAMED])
    return shown + (f" and {len(values) - _NAMED} more" if len(values) > _NAMED else "")
