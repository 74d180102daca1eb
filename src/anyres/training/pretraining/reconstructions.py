"""Pictures of what a masked auto-encoder restores: input, masked input and output, a row for each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from anyres.sizes import Size, size_text

_PANEL = 224  # pixels of the longer side of a picture, at most
_GAP, _LINE = 12, 22
_PAPER, _INK = "#ffffff", "#1b1f24"
_COLUMNS = ("input", "masked", "output")


@dataclass(frozen=True)
class Restored:
    """One image at one size: three pictures (C, H, W), normalised, of 1 or 3 channels."""

    image: Tensor
    masked: Tensor
    output: Tensor


@dataclass(frozen=True)
class Block:
    """Some images at one size."""

    size: Size
    """(height, width) in pixels, or the square whose area the images have."""
    loss: float
    """The mean over the images."""
    rows: Sequence[Restored]


def draw_blocks(blocks: Sequence[Block], mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """Blocks side by side, the same image in the same row of each.

    Large pictures are reduced to 224 pixels on their longer side; small ones are enlarged by a whole factor, so that
    their pixels stay visible.

    Args:
        blocks: at least one; all with the same number of rows, at least one.
        mean, std: of each channel, to undo the normalisation.
    """
    font = ImageFont.load_default(15)
    panels = [[_panels(row, mean, std) for row in block.rows] for block in blocks]
    captions = [f"{size_text(block.size)}   loss {block.loss:.3f}" for block in blocks]
    columns = [max(panel.width for row in block for panel in row) for block in panels]
    texts = [int(font.getlength(caption)) for caption in captions]
    widths = [max(3 * (column + _GAP), text) + _GAP for column, text in zip(columns, texts, strict=True)]
    heights = [max(block[row][0].height for block in panels) for row in range(len(panels[0]))]
    sheet = Image.new("RGB", (_GAP + sum(widths), 2 * _LINE + _GAP + sum(height + _GAP for height in heights)), _PAPER)
    pen, left = ImageDraw.Draw(sheet), _GAP
    for block, caption, column, width in zip(panels, captions, columns, widths, strict=True):
        pen.text((left, 2), caption, fill=_INK, font=font)
        for place, name in enumerate(_COLUMNS):
            pen.text((left + place * (column + _GAP), 2 + _LINE), name, fill=_INK, font=font)
        top = 2 * _LINE + _GAP
        for row, height in zip(block, heights, strict=True):
            for place, panel in enumerate(row):
                sheet.paste(panel, (left + place * (column + _GAP), top))
            top += height + _GAP
        left += width
    return sheet


def to_picture(values: Tensor, mean: Sequence[float], std: Sequence[float]) -> Image.Image:
    """(C, H, W), normalised, 1 or 3 channels -> an image of mode RGB; what is out of range is cut off."""
    pixels = values.detach().float().cpu().permute(1, 2, 0).numpy() * np.asarray(std) + np.asarray(mean)  # (H, W, C)
    whole = np.rint(np.clip(pixels, 0, 1) * 255).astype(np.uint8)
    return Image.fromarray(np.broadcast_to(whole, (*whole.shape[:2], 3)).copy())


def _panels(row: Restored, mean: Sequence[float], std: Sequence[float]) -> list[Image.Image]:
    return [_fitted(to_picture(values, mean, std)) for values in (row.image, row.masked, row.output)]


def _fitted(picture: Image.Image) -> Image.Image:
    longest = max(picture.size)
    if longest <= _PANEL:
        factor = _PANEL // longest
        return picture.resize((picture.width * factor, picture.height * factor), Image.Resampling.NEAREST)
    width, height = (max(1, round(side * _PANEL / longest)) for side in picture.size)
    return picture.resize((width, height), Image.Resampling.BICUBIC)
