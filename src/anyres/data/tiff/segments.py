"""The pieces that a file stores an image in (tiles or strips): where they lie, and the decoded ones used last."""

import math
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from dataclasses import dataclass

import numpy as np

from anyres.data.source_base import describe_region


class SegmentCache:
    """The segments used last, up to a number of bytes; the newest is kept even if it alone is larger."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._lock = threading.Lock()
        self._segments: OrderedDict[Hashable, np.ndarray] = OrderedDict()

    def get(self, key: Hashable) -> np.ndarray | None:
        with self._lock:
            if key in self._segments:
                self._segments.move_to_end(key)
            return self._segments.get(key)

    def put(self, key: Hashable, segment: np.ndarray) -> None:
        with self._lock:
            if key in self._segments:  # another thread was faster
                return
            self._segments[key] = segment
            self.bytes += segment.nbytes
            while self.bytes > self.most_bytes and len(self._segments) > 1:
                self.bytes -= self._segments.popitem(last=False)[1].nbytes


@dataclass(frozen=True)
class SegmentGrid:
    """How a page is cut into segments, which are its tiles or strips. In stored pixels, before orientation."""

    height: int
    width: int
    segment_height: int
    segment_width: int
    planes: int
    """1, or the number of samples where each is stored by itself."""
    samples: int
    """In one segment."""

    @property
    def count(self) -> int:
        return self.planes * self.per_plane

    @property
    def segment_pixels(self) -> int:
        return self.segment_height * self.segment_width

    @property
    def across(self) -> int:
        return math.ceil(self.width / self.segment_width)

    @property
    def per_plane(self) -> int:
        return self.across * math.ceil(self.height / self.segment_height)

    def touching(self, y: int, x: int, height: int, width: int) -> Iterator[tuple[int, int, int, int]]:
        """(index, plane, top, left) of every segment with pixels in the region."""
        for plane in range(self.planes):
            for row in range(y // self.segment_height, (y + height - 1) // self.segment_height + 1):
                for col in range(x // self.segment_width, (x + width - 1) // self.segment_width + 1):
                    index = plane * self.per_plane + row * self.across + col
                    yield index, plane, row * self.segment_height, col * self.segment_width

    def describe(self, index: int) -> str:
        """The rows and columns of a segment."""
        row, col = divmod(index % self.per_plane, self.across)
        y, x = row * self.segment_height, col * self.segment_width
        return describe_region(y, x, min(self.segment_height, self.height - y), min(self.segment_width, self.width - x))
