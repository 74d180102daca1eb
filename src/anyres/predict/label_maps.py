"""A class for every pixel of images: looked at whole or by windows, averaged over sizes and mirror images."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from anyres.data.segmentation_stream import bounded_aspect_size
from anyres.data.transforms import to_tensor
from anyres.models.images import run_by_group
from anyres.models.segmenter import Segmenter
from anyres.predict.config import check_ratios
from anyres.predict.sliding import sliding_logits, usual_step
from anyres.sizes import Size

MULTI_SCALE = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The ratios of mmsegmentation's multi-scale test, used with `flip`."""


@dataclass(frozen=True, kw_only=True)
class Inference:
    """How a map is made of an image."""

    window: Size | None = None
    """(height, width) of windows that slide over the image; None looks at all of it at once."""
    step: Size | None = None
    """(rows, cols) from window to window in pixels; two thirds of the window if not given."""
    ratios: tuple[float, ...] = (1.0,)
    """Sizes of the image, relative to its own, whose probabilities are averaged."""
    flip: bool = False
    """Looks at the mirror image too."""

    def __post_init__(self) -> None:
        check_ratios(self.ratios)
        if self.window is None:
            if self.step is not None:
                raise ValueError(f"step is {self.step} but has no effect, because there is no window; leave it out")
            return
        if min(self.window) < 1:
            raise ValueError(f"window is {self.window}; allowed: sides from 1 up")
        if self.step is not None and not all(0 < a <= b for a, b in zip(self.step, self.window, strict=True)):
            raise ValueError(f"step is {self.step}; allowed: from 1 up to the window {self.window}, or pixels are lost")

    def steps(self) -> Size:
        """`step` with its default filled in."""
        assert self.window is not None
        return self.step or usual_step(self.window)


def probabilities(model: Segmenter, images: Tensor, how: Inference, size: Size | None = None) -> Tensor:
    """Of every class at every pixel, averaged over ratios and mirror images.

    Args:
        model: in evaluation mode.
        images: (B, C, H, W), normalised.
        how: whole or by windows, and what is averaged.
        size: (height, width) of the result; that of the images if not given.

    Returns:
        (B, num_classes, height, width) float32.
    """
    own = images.shape[-2:]
    views = [False, True] if how.flip else [False]
    total: Tensor | None = None
    for ratio in how.ratios:
        scaled = _resized(images, (max(1, round(own[0] * ratio)), max(1, round(own[1] * ratio))))
        for mirrored in views:
            logits = _logits(model, scaled.flip(-1) if mirrored else scaled, how)
            found = _resized(logits.flip(-1) if mirrored else logits, size or (own[0], own[1])).softmax(1)
            total = found if total is None else total.add_(found)
    assert total is not None
    return total.div_(len(how.ratios) * len(views))


def _logits(model: Segmenter, images: Tensor, how: Inference) -> Tensor:
    if how.window is None:
        return model(images).float()
    return sliding_logits(model, images, how.window, how.steps())


def _resized(x: Tensor, size: Size) -> Tensor:
    """(B, C, h, w) at another size, bilinear."""
    if tuple(x.shape[-2:]) == size:
        return x
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def label_map(model: Segmenter, image: Image.Image, how: Inference, short_side: int | None = None) -> Tensor:
    """The most likely class of every pixel of an image, (H, W) int64 on the CPU.

    With a short side the model sees the image resized, its aspect kept: see `evaluate_segmenter`.
    """
    return label_maps(model, [image], how, short_side)[0]


def label_maps(
    model: Segmenter, images: Sequence[Image.Image], how: Inference, short_side: int | None = None
) -> list[Tensor]:
    """`label_map` of each image; those of one size share calls of the model."""
    pixels = [prepared(model, image, short_side) for image in images]
    return labels_of(model, pixels, [(image.height, image.width) for image in images], how)


def prepared(model: Segmenter, image: Image.Image, short_side: int | None) -> Tensor:
    """The image as the model sees it, (C, H, W)."""
    config = model.config.backbone
    height, width = seen_size((image.height, image.width), short_side)
    if image.size != (width, height):
        image = image.resize((width, height), Image.Resampling.BILINEAR)
    return to_tensor(image, config.mean, config.std)


def seen_size(size: Size, short_side: int | None) -> Size:
    """(height, width) that an image of (height, width) is given to the model at."""
    return size if short_side is None else bounded_aspect_size(size, short_side)


@torch.no_grad()
def labels_of(model: Segmenter, pixels: Sequence[Tensor], sizes: Sequence[Size], how: Inference) -> list[Tensor]:
    """The most likely classes of images, as `prepared` gives them, at the sizes (height, width): (H_i, W_i) int64 each,
    on the CPU. Those of one size share calls of the model."""
    device = next(model.parameters()).device

    def together(members: list[int]) -> Tensor:
        batch = torch.stack([pixels[i] for i in members]).to(device)  # (B, C, h, w)
        return probabilities(model, batch, how, sizes[members[0]]).argmax(1).cpu()  # (B, H, W)

    return run_by_group(((*size, *each.shape) for size, each in zip(sizes, pixels, strict=True)), together)
