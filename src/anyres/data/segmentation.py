"""Images with a class for every pixel, in folders as ADE20K has them: files checked, read and counted."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from anyres.data.decode import MAX_PIXELS, check_max_pixels, read_image, stored_size
from anyres.data.folder import find_images
from anyres.errors import Unreadable, UnreadableImageError
from anyres.sizes import size_text

IGNORE = 255
"""The label of pixels that nobody has labelled, in masks on disk and in targets."""

CLASSES = "classes.txt"

_SPLITS = {"train": ("training", "train"), "val": ("validation", "val")}
_ONE_CHANNEL = ("L", "P", "1", "I", "I;16", "I;16B", "I;16L")
_NAMED = 5  # files that a message names


class SegmentationFolder:
    """The images of ROOT/images/<split>/ with masks of the same names in ROOT/annotations/<split>/, as PNG.

    A mask has one channel, whose values are the labels; a palette is not looked at. Headers are read at once: images
    without a mask, with a mask of another size, or unreadable are left out and listed. Labels are checked when a mask
    is read; but that some image can be used at all is known at once.

    Args:
        root: with images/ and annotations/, in each training/ (or train/) and validation/ (or val/).
        split: "train" or "val".
        num_classes: labels are 0 to num_classes - 1, and 255 where nothing is known.
        reduce_zero_label: on disk 0 means that nothing is known, and the labels begin at 1 (ADE20K).
        max_pixels: files with more pixels than this count as unreadable.
        strict: nothing is left out; the first image that would be is an error.

    Attributes:
        root: of the images.
        paths, masks: sorted, one mask for each image.
        skipped: images that are left out, and why.

    Raises:
        ValueError: no such folders, no image that can be used, or with `strict` one that, by its headers, cannot.
    """

    def __init__(
        self,
        root: Path | str,
        split: str,
        *,
        num_classes: int,
        reduce_zero_label: bool = False,
        max_pixels: int = MAX_PIXELS,
        strict: bool = False,
    ) -> None:
        most = IGNORE - reduce_zero_label
        if not 2 <= num_classes <= most:
            raise ValueError(f"num_classes is {num_classes}; allowed: 2 to {most}, since label {IGNORE} is ignored")
        check_max_pixels(max_pixels)
        self.num_classes, self.reduce_zero_label, self.max_pixels = num_classes, reduce_zero_label, max_pixels
        self.root, masks = (split_folder(root, kind, split) for kind in ("images", "annotations"))
        self.paths: list[Path] = []
        self.masks: list[Path] = []
        self.skipped: list[Unreadable] = []
        for path in find_images([self.root]):
            mask = (masks / path.relative_to(self.root)).with_suffix(".png")
            problem = _problem(path, mask, max_pixels)
            if problem is None:
                self.paths.append(path)
                self.masks.append(mask)
            else:
                self.skipped.append(Unreadable(path, problem))
        if self.skipped and (strict or not self.paths):
            raise ValueError(described(self.skipped, len(self.paths) + len(self.skipped)))
        self._refuse_if_hopeless()

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int, channels: int = 3) -> "Labelled":
        """Image and labels of one place. UnreadableImageError for a file that cannot be read or has other labels."""
        image = read_image(self.paths[index], max_pixels=self.max_pixels, channels=channels)
        labels = self._labels(self.masks[index])
        if labels.shape != (image.height, image.width):
            raise UnreadableImageError(self.masks[index], _other_size(labels.shape, (image.height, image.width)))
        return Labelled(image, Image.fromarray(labels))

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
        """(H, W) uint8: 0 to num_classes - 1, or IGNORE."""
        labels = read_mask(path, max_pixels=self.max_pixels).astype(np.int64)
        is_unknown = labels == IGNORE
        if self.reduce_zero_label:
            # ADE20K's 0 is "other", which nobody learns; the classes 1 to 150 become 0 to 149
            is_unknown |= labels == 0
            labels -= 1
        is_wrong = ((labels < 0) | (labels >= self.num_classes)) & ~is_unknown
        if is_wrong.any():
            first = int(self.reduce_zero_label)
            found = _few(np.unique(labels[is_wrong] + first).tolist())
            ignored = f"0 and {IGNORE} are ignored" if first else f"{IGNORE} is ignored"
            raise UnreadableImageError(
                path,
                f"{int(is_wrong.sum())} pixels have labels {found}; "
                f"allowed: {first} to {self.num_classes - 1 + first}; {ignored}",
            )
        labels[is_unknown] = IGNORE
        return labels.astype(np.uint8)

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


def read_mask(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """(H, W) whole numbers as they are in the file. UnreadableImageError for a file with colours, or no image."""
    stored_size(path, max_pixels=max_pixels)
    try:
        with Image.open(path) as image:
            if image.mode in _ONE_CHANNEL:
                return np.asarray(image)
            mode = image.mode
    except Exception as error:  # decoders raise nearly anything on damaged data
        raise UnreadableImageError(path, error or type(error).__name__) from error
    raise UnreadableImageError(path, f"a mask of mode {mode}; allowed: one channel whose values are the labels")


def class_names(root: Path | str, num_classes: int, *, reduce_zero_label: bool = False) -> tuple[str, ...]:
    """The lines of ROOT/classes.txt, in the order of the labels; without it their numbers in the masks.

    ValueError if they are not as many as the classes."""
    path = Path(root, CLASSES)
    if not path.is_file():
        return tuple(str(label + reduce_zero_label) for label in range(num_classes))
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


def _problem(image: Path, mask: Path, max_pixels: int) -> str | None:
    """Why an image cannot be used, as far as the headers tell."""
    if not mask.is_file():
        return f"no mask {mask}"
    try:
        size, found = stored_size(image, max_pixels=max_pixels), stored_size(mask, max_pixels=max_pixels)
    except UnreadableImageError as error:
        return str(error)
    # a photo on its side is turned when it is read, which is where its mask is compared with it
    return None if found in (size, size[::-1]) else f"{mask}: {_other_size(found, size)}"


def _other_size(found: Sequence[int], size: Sequence[int]) -> str:
    return f"a mask of {size_text(found)} pixels for an image of {size_text(size)}"


def _few(values: Sequence[int]) -> str:
    shown = ", ".join(str(value) for value in values[:_NAMED])
    return shown + (f" and {len(values) - _NAMED} more" if len(values) > _NAMED else "")
