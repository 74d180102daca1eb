"""Photos that their EXIF data turns: how large they are either way, and which pixels their labels were made on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from PIL import Image

from anyres.data.decode import MAX_PIXELS, ORIENTATION, TURNS, open_header, read_image, stored_size
from anyres.data.png import may_have_exif
from anyres.data.tiff.tags import read_tags
from anyres.errors import check_choice
from anyres.sizes import Size

LabelsAs = Literal["shown", "stored"]
"""Whether boxes and masks fit photos as they are shown, turned by their EXIF orientation, or their pixels as stored.

Shown is the default: browsers turn photos, and so do the tools that people draw labels with (LabelMe, CVAT, Label
Studio) and those that read them again (OpenCV, Detectron2). Stored is what programs write that ignore EXIF.
"""

_UPRIGHT = 1
_DOWN = TURNS | {6: TURNS[8], 8: TURNS[6]}  # the others are their own opposites


def check_labels_as(given: object) -> None:
    """ValueError unless it is one of the conventions."""
    check_choice("labels_as", given, get_args(LabelsAs))


@dataclass(frozen=True)
class Header:
    """What an image file says of itself before it is decoded."""

    stored: Size
    """(height, width) of its pixels."""
    shown: Size
    """The same when it is turned upright."""
    orientation: int
    """EXIF's, 1 to 8; 1 is upright."""

    def size(self, labels_as: LabelsAs) -> Size:
        """The one that labels are to fit."""
        return self.shown if labels_as == "shown" else self.stored

    @property
    def is_turned(self) -> bool:
        return self.orientation != _UPRIGHT


def read_header(path: Path | str, *, max_pixels: int = MAX_PIXELS) -> Header:
    """Sizes and orientation of an image file. Raises as `read_image` for a header that is none."""
    size = stored_size(path, max_pixels=max_pixels)
    orientation = _orientation(path)
    return Header(size, size[::-1] if orientation > 4 else size, orientation)


def read_as(path: Path | str, labels_as: LabelsAs, *, max_pixels: int, channels: int) -> Image.Image:
    """The picture that labels fit: that of `read_image`, or for "stored" with its pixels where the file has them."""
    image = read_image(path, max_pixels=max_pixels, channels=channels)
    return image if labels_as == "shown" else laid_down(image, read_header(path, max_pixels=max_pixels).orientation)


def turned_up(image: Image.Image, orientation: int) -> Image.Image:
    """Stored pixels as they are shown."""
    return image.transpose(TURNS[orientation]) if orientation in TURNS else image


def laid_down(image: Image.Image, orientation: int) -> Image.Image:
    """Shown pixels as they are stored."""
    return image.transpose(_DOWN[orientation]) if orientation in _DOWN else image


def _orientation(path: Path | str) -> int:
    try:
        tags = read_tags(path)
        if tags is None:
            with open_header(path) as image:
                # Pillow decodes a whole PNG in search of them
                is_told = image.format != "PNG" or may_have_exif(path)
                found = image.getexif().get(ORIENTATION, _UPRIGHT) if is_told else _UPRIGHT
        else:
            found = tags.orientation
    except Exception:  # a photo with damaged EXIF data is still a photo
        found = _UPRIGHT
    return found if found in TURNS else _UPRIGHT


@dataclass(frozen=True)
class Turned:
    """The photos of a labelled set that have an EXIF orientation."""

    paths: Sequence[Path]
    looked_at: int
    of: int
    """Images in the set, of which only some may have been looked at."""
    misfits: Sequence[Path]
    """Those whose labels have the size of the other convention."""

    def report(self, what: str, labels_as: LabelsAs) -> list[str]:
        """One line, or none without such photos.

        Args:
            what: the labels, such as "masks".
        """
        if not self.paths:
            return []
        seen = f"{self.of}" if self.looked_at == self.of else f"{self.looked_at} that were looked at (of {self.of})"
        other = _other(labels_as)
        misfits = f"; {what} of {len(self.misfits)} have the size of {other}" if self.misfits else ""
        return [
            f"{len(self.paths)} of {seen} labelled photos are turned by their EXIF data, the first {self.paths[0]}: "
            f"{what} are taken to fit them as {labels_as}{misfits}. If they fit them as {other}: labels_as={other}"
        ]


def other_convention(header: Header, found: Size, labels_as: LabelsAs) -> str:
    """What to add to an error about labels of another size than their photo's, if EXIF is the cause."""
    other = _other(labels_as)
    if header.size(other) != found:
        return ""
    return f"; its EXIF orientation is {header.orientation}, and they fit it as {other}: labels_as={other}"


def _other(labels_as: LabelsAs) -> LabelsAs:
    return "stored" if labels_as == "shown" else "shown"
