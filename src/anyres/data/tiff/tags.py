"""What the header of a TIFF file says of its samples, and whether Pillow reads them right."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from PIL import TiffImagePlugin

from anyres.data.said_once import MORE_PAGES, say_more_pages, was_said

_BIG_BIG_ENDIAN = b"MM\0+"
TIFF_STARTS = (b"II*\0", b"MM\0*", b"II+\0", _BIG_BIG_ENDIAN)  # classic and BigTIFF, little and big endian

WHITE_IS_ZERO, BLACK_IS_ZERO, RGB, PALETTE, CMYK, YCBCR = 0, 1, 2, 3, 5, 6  # TIFF 6.0, PhotometricInterpretation
_COLOURS = {
    WHITE_IS_ZERO: "MINISWHITE", BLACK_IS_ZERO: "MINISBLACK", RGB: "RGB", PALETTE: "PALETTE", CMYK: "SEPARATED",
    YCBCR: "YCBCR", 8: "CIELAB", 32803: "CFA", 32844: "LOGL", 32845: "LOGLUV", 34892: "LINEAR_RAW",
}  # fmt: skip
_UNSIGNED, _SIGNED, _FLOAT = 1, 2, 3  # TIFF 6.0, SampleFormat
_FORMATS = {_UNSIGNED: "unsigned", _SIGNED: "signed", _FLOAT: "floating point"}
_PILLOWS_COMPRESSIONS = frozenset({1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000, 50001})
BELONGS_TO_ANOTHER = 1 | 4  # TIFF 6.0, NewSubfileType: a smaller copy of another page, or its mask


@dataclass(frozen=True)
class TiffTags:
    """The tags of one page that say what its samples mean."""

    size: tuple[int, int]
    """(height, width) in pixels, before it is turned upright."""
    bits: tuple[int, ...]
    """Of each sample of a pixel."""
    formats: tuple[int, ...]
    extra: tuple[int, ...]
    """The kinds of the samples behind the colours: 0 unspecified, 1 and 2 alpha."""
    colours: int
    planar: int
    compression: int
    fill_order: int
    subsampling: tuple[int, ...]
    is_big_endian: bool
    orientation: int
    nodata: float | None
    """What GDAL writes of the value that stands for no data."""
    next_page: int
    """Where the next page is in the file, 0 if there is none."""

    @property
    def has_more_channels(self) -> bool:
        """Whether there are samples behind the colours that are no alpha."""
        return 0 in self.extra

    @property
    def is_scrambled_when_mapped(self) -> bool:
        """Whether Pillow misreads the file if it was given a path, and not an open file: it maps what is not
        compressed with the sides of the upright image."""
        return self.orientation >= 5 and self.compression == 1

    @property
    def is_read_by_pillow(self) -> bool:
        """Whether Pillow gives the pixels that are stored. `docs/formats.md` is the whole table, which a test tries."""
        if self.compression not in _PILLOWS_COMPRESSIONS or len({*self.bits}) != 1 or len({*self.formats}) != 1:
            return False
        bits, kind = self.bits[0], self.formats[0]
        if self.fill_order != 1 and bits != 1:
            return False
        if kind != _UNSIGNED:
            return self._is_signed_grey(bits, kind)
        if self.nodata is not None and not self._is_without_effect(self.nodata) and not self._is_plain:
            return False
        if bits in (1, 2, 4):
            return len(self.bits) == 1 and self.colours in (WHITE_IS_ZERO, BLACK_IS_ZERO, PALETTE)
        return (bits == 8 and self._is_8_bit()) or (bits == 16 and self._is_16_bit())

    def _is_signed_grey(self, bits: int, kind: int) -> bool:
        # libtiff unpacks to the machine's order of bytes, and Pillow then swaps once more
        is_swapped_twice = self.is_big_endian and self.compression != 1
        is_grey = len(self.bits) == 1 and self.colours == BLACK_IS_ZERO
        return is_grey and not is_swapped_twice and (bits, kind) in {(16, _SIGNED), (32, _SIGNED), (32, _FLOAT)}

    def _is_8_bit(self) -> bool:
        if self.colours in (WHITE_IS_ZERO, PALETTE):
            return len(self.bits) == 1
        if self.colours == BLACK_IS_ZERO:
            return len(self.bits) == 1 or (self.extra in ((1,), (2,)) and self.planar == 1)
        if self.colours == RGB:
            return len(self.bits) == 3 or (self.planar == 1 and len(self.extra) <= 3)
        if self.colours == YCBCR:
            # Pillow takes what is not compressed for pixels, also where colours are shared by several
            return self.planar == 1 and (self.compression != 1 or self.subsampling == (1, 1))
        return self.colours == CMYK and self.planar == 1

    def _is_16_bit(self) -> bool:
        if self.colours == BLACK_IS_ZERO:
            return len(self.bits) == 1
        return self.planar == 1 and self.colours in (RGB, CMYK) and len(self.extra) <= 1

    def _is_without_effect(self, nodata: float) -> bool:
        """Whether no sample has the value for no data, or it is black anyway."""
        is_black = nodata == 0 and self.colours in (BLACK_IS_ZERO, RGB) and not self.extra
        return is_black or not (0 <= nodata < 2 ** self.bits[0] and nodata == int(nodata))

    @property
    def _is_plain(self) -> bool:
        """Whether Pillow's values are those stored, so that those for no data can be told among them."""
        is_grey = self.colours == BLACK_IS_ZERO and self.bits in ((8,), (16,))
        return is_grey or (self.colours == RGB and self.bits == (8, 8, 8))

    def __str__(self) -> str:
        if self == UNKNOWN:
            return "a header that Pillow cannot read"
        bits = "/".join(str(bits) for bits in sorted({*self.bits}))
        kinds = "/".join(_FORMATS.get(kind, f"format {kind}") for kind in sorted({*self.formats}))
        colours = _COLOURS.get(self.colours, f"colours {self.colours}")
        layout = ", in planes" if self.planar == 2 and len(self.bits) > 1 else ""
        count = f"{len(self.bits)} samples of " if len(self.bits) > 1 else ""
        return f"{count}{bits} bits, {kinds}, {colours}{layout}, compression {self.compression}"


UNKNOWN = TiffTags((0, 0), (), (), (), -1, 1, 1, 1, (), False, 1, None, 0)
"""Of a file that is damaged, or a big-endian BigTIFF."""


def is_tiff(path: Path | str) -> bool:
    """Whether the content is a TIFF, whatever the suffix. OSError if it cannot be read."""
    with open(path, "rb") as file:
        return file.read(4) in TIFF_STARTS


def read_tags(path: Path | str) -> TiffTags | None:
    """Of the first page of a TIFF; None for what is none by its content, UNKNOWN for what Pillow cannot parse."""
    if not is_tiff(path):
        return None
    try:
        with open(path, "rb") as file:
            directory = _directory(file, None)
            return tags_of(directory) if 256 in directory else UNKNOWN  # ImageWidth; what is missing is not an error
    except Exception:  # parsers raise nearly anything on damaged data
        return UNKNOWN


def say_if_more_pages(path: Path | str, tags: TiffTags) -> None:
    """Says once that a file has further pages that are no smaller copies of the first and no masks."""
    if tags.next_page == 0 or was_said(MORE_PAGES):
        return
    try:
        with open(path, "rb") as file:
            kind = _directory(file, tags.next_page).get(254, 0)  # NewSubfileType
    except Exception:  # whatever there is, it is not read
        return
    if not kind & BELONGS_TO_ANOTHER:
        say_more_pages(path)


def tags_of(directory: Any) -> TiffTags:
    """Of a directory of Pillow's, which an image that it has opened as TIFF has as `tag_v2`."""
    samples = int(directory.get(277, 1))
    bits, formats = (_each(directory.get(tag, 1), samples) for tag in (258, 339))
    extra = _each(directory.get(338, ()), 0)
    return TiffTags(
        (int(directory[257]), int(directory[256])), bits, formats, extra,
        colours=int(directory.get(262, 0)), planar=int(directory.get(284, 1)), compression=int(directory.get(259, 1)),
        fill_order=int(directory.get(266, 1)), subsampling=_each(directory.get(530, (2, 2)), 0),
        is_big_endian=directory.prefix[:2] == b"MM", orientation=int(directory.get(274, 1)),
        nodata=parse_nodata(directory.get(42113)),
        next_page=int(directory.next or 0),
    )  # fmt: skip


def parse_nodata(text: object) -> float | None:
    """GDAL's tag for the value of no data, a number in ASCII; None for NaN, which is no data by itself."""
    try:
        value = float(str(text).strip("\0 "))
    except ValueError:
        return None
    return None if math.isnan(value) else value


def _directory(file: BinaryIO, offset: int | None) -> Any:
    start = file.read(8)
    if start.startswith(_BIG_BIG_ENDIAN):
        raise ValueError("a big-endian BigTIFF, of which Pillow reads nothing")
    if start[2] == 43:  # BigTIFF
        start += file.read(8)
    directory = TiffImagePlugin.ImageFileDirectory_v2(start)
    file.seek(directory.next if offset is None else offset)
    directory.load(file)
    return directory


def _each(value: object, count: int) -> tuple[int, ...]:
    """A tag's value for each sample; it may be given once for all."""
    values = tuple(int(each) for each in value) if isinstance(value, tuple | list) else (int(value),)  # type: ignore
    return values * count if len(values) == 1 and count > 1 else values
