"""Mixup and cutmix of images that are shown at one size or at several."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from timm.data import Mixup
from timm.data.mixup import cutmix_bbox_and_lam, mixup_target
from torch import Tensor

if TYPE_CHECKING:
    from anyres.training.classification.config import TrainConfig


class SharedMixup(Mixup):
    """timm's mixup, for replicas too: one draw, one pairing, one box rescaled to every size, one mixed target.

    The draw and the box are those that timm makes for the first replica alone; the share of a class is what the box
    leaves of it there. At other sizes the edges of the box are rounded down, as in ResFormer's code.
    """

    def __call__(self, replicas: Sequence[Tensor], labels: Tensor) -> Tensor:
        """Mixes (B, C, H_i, W_i) in place, B even; labels (B,) int64 -> targets (B, classes). Draws from numpy."""
        share, cuts = self._params_per_batch()
        if cuts:
            box, share = cutmix_bbox_and_lam(replicas[0].shape, share, correct_lam=self.correct_lam)
            for images in replicas:
                rows, cols = _rescaled(box, replicas[0], images)
                images[:, :, rows, cols] = images.flip(0)[:, :, rows, cols]
        elif share < 1:
            for images in replicas:
                partners = images.flip(0).mul_(1 - share)  # before the images change
                images.mul_(share).add_(partners)
        return mixup_target(labels, self.num_classes, share, self.label_smoothing)


def _rescaled(box: tuple[int, int, int, int], first: Tensor, other: Tensor) -> tuple[slice, slice]:
    """Rows and columns of `other` that the box (top, bottom, left, right) of `first` covers; exact for equal sizes."""
    top, bottom, left, right = (int(edge) for edge in box)
    (height, width), (tall, wide) = first.shape[-2:], other.shape[-2:]
    return slice(top * tall // height, bottom * tall // height), slice(left * wide // width, right * wide // width)


def make_mixup(config: TrainConfig, classes: int) -> SharedMixup | None:
    """None if no batch of the run is ever mixed."""
    if not config.is_mixing():
        return None
    return SharedMixup(
        mixup_alpha=config.mixup,
        cutmix_alpha=config.cutmix,
        prob=config.mixup_prob,
        switch_prob=config.mixup_switch_prob,
        label_smoothing=config.smoothing,
        num_classes=classes,
    )
