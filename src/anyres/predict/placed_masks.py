"""Masks of objects in images too large for a mask of the whole of each: a small one and where it lies."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision.models.detection.roi_heads import expand_boxes, expand_masks, paste_mask_in_image

from anyres.data.coco_masks import mask_tools
from anyres.sizes import Size


@dataclass(frozen=True)
class PlacedMask:
    """A mask that is empty outside of a rectangle."""

    part: np.ndarray
    """(h, w) bool."""
    top: int
    left: int
    """Where it begins in the image, in pixels."""

    def whole(self, size: Size) -> np.ndarray:
        """(height, width) bool."""
        mask = np.zeros(size, dtype=bool)
        height, width = self.part.shape
        mask[self.top : self.top + height, self.left : self.left + width] = self.part
        return mask

    def every(self, step: int, offset: Size = (0, 0)) -> "PlacedMask":
        """The mask at every `step`-th row and column of the image that this mask's image begins in at (row, col)."""
        top, left = self.top + offset[0], self.left + offset[1]
        return PlacedMask(self.part[-top % step :: step, -left % step :: step], -(-top // step), -(-left // step))

    def blend_into(self, pixels: np.ndarray, colour: Sequence[int], opacity: float, factor: int = 1) -> None:
        """Lays a colour on the mask's pixels of an image (H, W, 3) uint8 `factor` times as large, in place."""
        height, width = (factor * side for side in self.part.shape)
        where = pixels[factor * self.top :, factor * self.left :][:height, :width]
        is_covered = self.part.repeat(factor, axis=0).repeat(factor, axis=1)
        mixed = where[is_covered] * (1 - opacity) + np.array(colour) * opacity
        where[is_covered] = np.rint(mixed).astype(np.uint8)

    def encode(self, size: Size, offset: Size = (0, 0)) -> dict[str, Any]:
        """COCO's compressed run lengths for an image of (height, width), as plain JSON; no larger mask is made.

        Args:
            size: of the image that the runs cover.
            offset: (rows, cols) of where this mask's image begins in that one.
        """
        runs = self._runs(size[0], self.top + offset[0], self.left + offset[1])
        ends, last = runs.reshape(-1), size[0] * size[1]
        counts = np.diff(ends if ends.size and ends[-1] == last else np.append(ends, last), prepend=0)
        packed = mask_tools().frPyObjects({"size": list(size), "counts": counts.tolist()}, *size)
        text = packed["counts"]
        return {"size": [int(side) for side in size], "counts": text.decode() if isinstance(text, bytes) else text}

    def _runs(self, height: int, top: int, left: int) -> np.ndarray:
        """(runs, 2): where each begins and ends, counted down the columns of an image of this height."""
        columns = np.pad(self.part.T, ((0, 0), (1, 1))).astype(np.int8)  # (w, h + 2)
        changes = np.diff(columns, axis=1)
        col, begin = np.nonzero(changes == 1)
        _, end = np.nonzero(changes == -1)
        base = (left + col) * height + top
        runs = np.stack([base + begin, base + end], axis=1).astype(np.int64)
        joined = np.flatnonzero(runs[1:, 0] == runs[:-1, 1])  # from the foot of a column to the head of the next
        return np.stack([np.delete(runs[:, 0], joined + 1), np.delete(runs[:, 1], joined)], axis=1)


def place_mask(small: Tensor, box: Sequence[float] | Tensor, size: Size) -> PlacedMask:
    """What torchvision's `paste_masks_in_image` makes of a mask (h, w) of a box, cut at 0.5, where it is not empty.

    Args:
        small: probabilities within the box.
        box: x0, y0, x1, y1 in pixels.
        size: (height, width) of the image.
    """
    padded, scale = expand_masks(small[None, None].float(), padding=1)
    x0, y0, x1, y1 = expand_boxes(torch.as_tensor(box)[None].float(), scale)[0].to(torch.int64).tolist()
    top, left = max(y0, 0), max(x0, 0)
    height, width = min(y1 + 1, size[0]) - top, min(x1 + 1, size[1]) - left
    if height < 1 or width < 1:
        return PlacedMask(np.zeros((0, 0), dtype=bool), 0, 0)
    shifted = torch.tensor([x0 - left, y0 - top, x1 - left, y1 - top])
    pasted = paste_mask_in_image(padded[0, 0], shifted, height, width)
    return PlacedMask((pasted > 0.5).numpy(), top, left)
