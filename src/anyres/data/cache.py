"""Decoded training images kept in memory at a reduced size, so that large files are decoded once."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from anyres.data.decode import read_image, stored_size
from anyres.errors import UnreadableImageError

DEFAULT_BYTES = 4 * 2**30


class ImageCache:
    """Images by index, decoded at first use and kept with a short side of at most `short_side` pixels.

    The reduction is Lanczos after a box filter, aspect kept; smaller images stay as they are. Files are assumed not to
    change.

    Raises:
        ValueError: if all images together would need more than `budget` bytes, judged by their headers alone.
    """

    def __init__(
        self, paths: Sequence[Path], *, short_side: int, channels: int, max_pixels: int, budget: int = DEFAULT_BYTES
    ) -> None:
        self.paths = paths
        self.short_side = short_side
        self.channels = channels
        self.max_pixels = max_pixels
        self._kept: dict[int, np.ndarray | UnreadableImageError] = {}
        self.bytes_needed = sum(self._bytes(path) for path in paths)
        if self.bytes_needed > budget:
            raise ValueError(
                f"the cache would need {self.bytes_needed / 2**20:.0f} MiB for {len(paths)} images of short side "
                f"{short_side}; allowed: {budget / 2**20:.0f} MiB (cache_bytes): allow more, or train without cache"
            )

    def __call__(self, index: int) -> Image.Image:
        """A new image of mode RGB or L; raises UnreadableImageError as `read_image`."""
        kept = self._kept.get(index)
        if kept is None:
            kept = self._kept[index] = self._load(index)
        if isinstance(kept, UnreadableImageError):
            raise UnreadableImageError(kept.path, kept.reason)
        return Image.fromarray(kept)

    def fill(self, threads: int = 2) -> None:
        """Decode everything now: before the loader's processes start, which then share the memory."""
        with ThreadPoolExecutor(threads) as pool:
            missing = [index for index in range(len(self.paths)) if index not in self._kept]
            self._kept.update(zip(missing, pool.map(self._load, missing), strict=True))

    def _load(self, index: int) -> np.ndarray | UnreadableImageError:
        try:
            image = read_image(self.paths[index], max_pixels=self.max_pixels, channels=self.channels)
        except UnreadableImageError as error:
            return error.with_traceback(None)  # a traceback would keep the half-read image alive
        width, height = self._reduced(image.size)
        if (width, height) != image.size:
            image = image.resize((width, height), Image.Resampling.LANCZOS, reducing_gap=2.0)
        return np.asarray(image)

    def _reduced(self, size: tuple[int, int]) -> tuple[int, int]:
        # enlarging would cost memory and add nothing
        scale = min(1.0, self.short_side / min(size))
        return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))

    def _bytes(self, path: Path) -> int:
        try:
            width, height = self._reduced(stored_size(path, max_pixels=self.max_pixels))
        except UnreadableImageError:
            return 0
        return width * height * self.channels
