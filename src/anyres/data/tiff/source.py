"""TIFF files read in parts: tiles or strips, classic and BigTIFF, and one level of a pyramid."""

import contextlib
import io
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from anyres.data.mapped_file import MappedFile
from anyres.data.said_once import MORE_PAGES, say_more_pages, was_said
from anyres.data.source_base import OpenSource, check_level, import_extra
from anyres.data.tiff.pixels import JPEG, meaning_of, stored_region, upright
from anyres.data.tiff.segments import SegmentCache, SegmentGrid
from anyres.data.tiff.tags import BELONGS_TO_ANOTHER, parse_nodata
from anyres.errors import SourceError, UnreadableImageError
from anyres.sizes import size_text

MAX_SEGMENT_BYTES = 2**30
"""A tile or strip that is larger when decoded is refused before anything is read of it."""

_OWN_CODECS = frozenset({1, 8, 32946})  # tifffile alone: none and deflate
_OWN_SIZE = JPEG | {33003, 33005, 34712, 50001, 34933}  # compressions whose data state a size of their own
_FORMATS = ("JPEG", "JPEG2000", "WEBP", "PNG")


class TiffSource(OpenSource):
    """The first page of a TIFF file, or a coarser level of its pyramid.

    Only the segments that a region touches are read and decoded; the last ones are kept, since regions side by side
    share them. Uncompressed pages in one piece are mapped. The pixels are as `meaning_of` says, and upright. What has
    no data (NaN, GDAL's value, tiles that a sparse file leaves out) is 0. Colour profiles are ignored.

    Args:
        path: the file.
        level: of the pyramid, 0 is the finest.
        cache_bytes: decoded segments that are kept; at the least one row of tiles or strips that regions share should
            fit, or it is decoded again for every row of regions.
        nodata: the stored value that stands for no data; None: as the file says (GDAL_NODATA).
        as_picture: the first page, even if it is one of several that are an image's channels, and of values that will
            be scaled by their own range (see `meaning_of`).

    Attributes:
        size: (height, width) in pixels, upright.
        stored_size: (height, width) in pixels, before it is turned upright.
        meaning: of the samples.
        nodata: the value that is taken for no data, None if there is none.

    Raises:
        UnreadableImageError: not a TIFF, damaged, or of a kind that is not read, which is named.
        SourceError: segments lie behind the end of the file.
        ImportError: without tifffile, or without imagecodecs where the compression needs it.
        ValueError: for a level that there is not.
    """

    def __init__(
        self,
        path: Path | str,
        *,
        level: int = 0,
        cache_bytes: int = 0,
        nodata: float | None = None,
        as_picture: bool = False,
    ) -> None:
        tifffile = import_extra("tifffile", "huge-images", f"{path}: a TIFF file")
        self.name = str(path)
        self._cache = SegmentCache(cache_bytes)
        self._lock = threading.Lock()  # of the place in the file
        self._as_picture = as_picture
        self._file = open(path, "rb")  # noqa: SIM115  (see close)
        try:
            with _naming(self.name):
                levels = self._find_levels(tifffile)
            check_level(self.name, level, [(page.imagelength, page.imagewidth) for page in levels])
            with _naming(self.name):
                self._page = levels[level].aspage()
                self._prepare_decoding(tifffile)
                self.nodata = parse_nodata(self._page.tags.valueof(42113)) if nodata is None else nodata
                self._grid = self._find_grid()
                self._check_segments()
        except BaseException:
            self._file.close()
            raise
        grid = self._grid
        self.stored_size = (grid.height, grid.width)
        self.size = self.stored_size[::-1] if self._orientation >= 5 else self.stored_size

    def _find_levels(self, tifffile: Any) -> list[Any]:
        """The first page, and its smaller copies if it has any."""
        tiff = tifffile.TiffFile(self._file)
        if self._as_picture:
            return [tiff.pages[0]]
        series = tiff.series[0]
        if "C" in series.axes.upper() and len(series.pages) > 1:
            raise ValueError(f"its channels are on several pages ({series.axes}, {series.shape}); allowed: one")
        # OME-TIFF may name further files, which this one's segments are not in
        levels = [level.pages[0] for level in series.levels]
        if any(page is None or page.parent is not tiff for page in levels):
            raise ValueError("its pixels are in another file")
        if len(levels) == 1 and not was_said(MORE_PAGES) and _has_more_pages(tiff):
            say_more_pages(self.name)
        return levels

    def _prepare_decoding(self, tifffile: Any) -> None:
        page = self._page
        orientation = page.tags.valueof(274)  # TIFF 6.0, Orientation
        self._orientation = orientation if orientation in range(1, 9) else 1
        self.meaning = meaning_of(page, own_range=self._as_picture)
        if page.compression not in _OWN_CODECS or page.predictor == 3:
            import_extra("imagecodecs", "huge-images", f"{self.name}: compression {page.compression!r}")
        if page.compression != 1:
            tifffile.TIFF.DECOMPRESSORS[page.compression]  # KeyError, with the reason
        if page.predictor != 1 and page.compression not in tifffile.TIFF.IMAGE_COMPRESSIONS:
            tifffile.TIFF.UNPREDICTORS[page.predictor]
        # JPEG tiles share their tables, which lie in the page's tags and not in the tile
        self._tables: dict[str, Any] = {}  # for the decoder
        if page.compression in JPEG:
            self._tables = {"jpegtables": page.jpegtables, "jpegheader": page.jpegheader}

    def _find_grid(self) -> SegmentGrid:
        page = self._page
        # `shaped` and not `shape`: the same five axes whatever the page leaves out
        planes, depth, height, width, samples = page.shaped
        shape = (page.tilelength, page.tilewidth) if page.is_tiled else (min(page.rowsperstrip, height), width)
        if min(*page.shaped, *shape) < 1 or depth > 1 or (page.is_tiled and page.tiledepth > 1):
            raise ValueError(f"an image of {depth}x{height}x{width} in segments of {size_text(shape)} is not read")
        return SegmentGrid(height, width, *shape, planes, samples)

    def _check_segments(self) -> None:
        """Refuses what the header says before anything is read or allocated for it."""
        page, grid = self._page, self._grid
        self._mapped = None
        count = grid.count
        # tifffile joins contiguous segments to one
        if len(page.dataoffsets) == 1 and page.is_memmappable:
            count = 1
        elif min(len(page.dataoffsets), len(page.databytecounts)) < count:
            raise ValueError(
                f"{grid.height}x{grid.width} pixels need {count} segments, the header lists "
                f"{min(len(page.dataoffsets), len(page.databytecounts))}"
            )
        length = os.fstat(self._file.fileno()).st_size
        for index, (offset, size) in enumerate(zip(page.dataoffsets[:count], page.databytecounts[:count], strict=True)):
            if offset + size > length:
                raise SourceError(
                    self.name,
                    f"{grid.describe(index)} (as stored) end at byte {offset + size}, "
                    f"but the file is cut short at byte {length}",
                )
        decoded = grid.segment_pixels * grid.samples * page.dtype.itemsize
        # a map behind the end of a file would kill the process when it is touched
        if page.is_memmappable and page.dataoffsets[0] + page.nbytes <= length:
            # the file's byte order and not the machine's
            kind = np.dtype(page.parent.byteorder + page.dtype.char)
            self._mapped = np.memmap(self.name, kind, "r", page.dataoffsets[0], page.shaped)
            self._guard = MappedFile(self._mapped)
        elif decoded > MAX_SEGMENT_BYTES:
            raise ValueError(
                f"a segment of {grid.segment_height}x{grid.segment_width} pixels is {decoded} bytes when "
                f"decoded; allowed: {MAX_SEGMENT_BYTES}"
            )

    def _read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        return self.read_known(y, x, height, width)[0]

    def read_known(self, y: int, x: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray | None]:
        """The region within the image (height, width, channels), and where it has no data (see `Meaning.pixels`)."""
        region = stored_region(self._orientation, self.size, (y, x, height, width))
        samples = self._from_map(*region) if self._mapped is not None else self._from_segments(*region)
        pixels, missing = self.meaning.pixels(samples, self.nodata)
        turned = None if missing is None else upright(missing, self._orientation)
        return upright(pixels, self._orientation), turned

    def _from_map(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        assert self._mapped is not None
        self._guard.check()
        part = self._mapped[:, 0, y : y + height, x : x + width]  # (planes, height, width, samples), one of them 1
        samples = part[0] if self._grid.planes == 1 else np.moveaxis(part[..., 0], 0, -1)
        return np.array(samples, dtype=self._page.dtype)  # a copy, in the machine's byte order

    def _from_segments(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        """(height, width, samples)"""
        grid = self._grid
        samples = np.empty((height, width, grid.planes * grid.samples), self._page.dtype)
        for index, plane, top, left in grid.touching(y, x, height, width):
            first, last = max(y, top), min(y + height, top + grid.segment_height)
            start, stop = max(x, left), min(x + width, left + grid.segment_width)
            # with one plane of all the samples, or planes of one sample each
            into = samples[first - y : last - y, start - x : stop - x, plane : plane + grid.samples]
            segment = self._segment(index)
            into[:] = (
                self._page.nodata if segment is None else segment[first - top : last - top, start - left : stop - left]
            )
        return samples

    def _segment(self, index: int) -> np.ndarray | None:
        """(rows, cols, samples), decoded; None if the file leaves it out."""
        page = self._page
        offset, size = page.dataoffsets[index], page.databytecounts[index]
        if offset == 0 or size == 0:
            return None
        segment = self._cache.get(index)
        if segment is not None:
            return segment
        data = self._load(offset, size)
        # (depth, rows, cols, samples) and where it lies; the depth is 1, and the place is known
        segment = page.decode(data, index, **self._tables)[0][0]
        if page.dtype.kind == "b" and segment.dtype == np.uint8:  # fax
            segment = segment.astype(bool)
        if segment.dtype != page.dtype or segment.shape[2] != self._grid.samples:
            raise OSError(f"a tile decodes to {segment.shape} {segment.dtype}, the header says {page.dtype}")
        self._cache.put(index, segment)
        return segment

    def _load(self, offset: int, size: int) -> bytes:
        """The stored bytes of a segment, checked against the sizes that the page states."""
        grid, page = self._grid, self._page
        if size > 2 * grid.segment_pixels * grid.samples * page.dtype.itemsize + 2**16:  # no compression expands so
            raise OSError(f"a tile of {grid.segment_height}x{grid.segment_width} pixels is stored in {size} bytes")
        with self._lock:
            self._file.seek(offset)
            data = self._file.read(size)
        if len(data) < size:
            raise OSError(f"the file is cut short: {len(data)} of {size} bytes at {offset}")
        if page.compression in _OWN_SIZE:
            # the header may state small tiles whose own data state giant ones: a bomb for the decoder
            _check_own_size(data, 2 * grid.segment_pixels + 2**16)
        return data

    def close(self) -> None:
        self._file.close()
        self._mapped = None


def _has_more_pages(tiff: Any) -> bool:
    """Whether a second page is no smaller copy of the first and no mask."""
    try:
        return not tiff.pages[1].subfiletype & BELONGS_TO_ANOTHER
    except IndexError:
        return False


def _check_own_size(data: bytes, most_pixels: int) -> None:
    """Raises OSError if an encoded tile states more pixels, which its decoder would allocate."""
    try:
        with Image.open(io.BytesIO(data), formats=_FORMATS) as header:
            pixels = header.width * header.height
    except Image.DecompressionBombError as error:
        raise OSError(f"a tile that is larger than stated: {error}") from error
    except Exception:  # not for Pillow, which need not know every kind; the decoder judges
        return
    if pixels > most_pixels:
        raise OSError(f"a tile states {pixels} pixels of its own; allowed: {most_pixels}")


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """What goes wrong within becomes an error that names the file; parsers raise nearly anything on damaged data."""
    try:
        yield
    except (ImportError, SourceError):
        raise
    except Exception as error:
        reason = str(error).strip("'\"") or type(error).__name__
        raise UnreadableImageError(name, f"cannot be read as TIFF: {reason}") from error
