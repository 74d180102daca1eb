"""Slides of microscopes, through OpenSlide."""

from pathlib import Path
from typing import Any

import numpy as np

from anyres.data.source_base import OpenSource, check_level, import_extra
from anyres.data.tiff.pixels import on_white
from anyres.errors import UnreadableImageError
from anyres.files import LFS_POINTER, is_lfs_pointer

SLIDE_SUFFIXES = frozenset(
    {".svs", ".svslide", ".ndpi", ".mrxs", ".vms", ".vmu", ".scn", ".bif", ".czi", ".dcm"}
)  # also slides, but by no suffix of their own: TIFF, read as such


class SlideSource(OpenSource):
    """A slide: 8-bit RGB, what was not scanned is white.

    Args:
        path: the file; of formats of many files the one that OpenSlide asks for.
        level: of the pyramid, 0 is the finest. Where a coarser level is no whole number of times smaller than the
            finest, regions lie at the nearest pixel of the finest.
        cache_bytes: decoded tiles that OpenSlide keeps.
    """

    def __init__(self, path: Path, *, level: int, cache_bytes: int) -> None:
        self._openslide = import_extra("openslide", "slides", f"{path}: a slide")
        self.name = str(path)
        self._cache = self._openslide.OpenSlideCache(cache_bytes)
        self._level = level
        self._slide = self._open()
        sizes = [(height, width) for width, height in self._slide.level_dimensions]
        check_level(self.name, level, sizes)
        self.size = sizes[level]
        self._factor = self._slide.level_downsamples[level]

    def _open(self) -> Any:
        try:
            slide = self._openslide.OpenSlide(self.name)
        except self._openslide.OpenSlideError as error:
            if is_lfs_pointer(self.name):
                raise UnreadableImageError(self.name, LFS_POINTER) from error
            raise UnreadableImageError(self.name, f"{error}, read by OpenSlide as its suffix says") from error
        slide.set_cache(self._cache)
        return slide

    def _read(self, y: int, x: int, height: int, width: int) -> np.ndarray:
        place = round(x * self._factor), round(y * self._factor)
        try:
            region = self._slide.read_region(place, self._level, (width, height))
        except self._openslide.OpenSlideError:
            self._slide = self._open()  # after an error OpenSlide answers nothing but that error, so a retry needs this
            raise
        return on_white(np.asarray(region))  # (height, width, 4) -> (height, width, 3)

    def close(self) -> None:
        self._slide.close()
