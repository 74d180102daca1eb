"""ResFormer's loss (arXiv 2212.00776, section 3.2): every replica of an image is classified, and each learns from the
next larger one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import layer_norm, smooth_l1_loss

WHITENING_EPS = 1e-6


def scale_consistency(features: Sequence[Tensor]) -> Tensor:
    """How far the features of each replica are from those of the next larger one: a scalar, summed over the pairs.

    A chain of smooth L1 distances (beta 1, mean over images and channels). The teacher is whitened (layer norm over
    the channels, no weights) and gets no gradient; the student is left as it is. As the authors' code has it.

    Args:
        features: one (B, D) per replica, the largest image first.
    """
    total = features[0].new_zeros(())
    for teacher, student in zip(features, features[1:], strict=False):
        target = layer_norm(teacher.detach(), teacher.shape[-1:], eps=WHITENING_EPS)
        total = total + smooth_l1_loss(student, target)
    return total


def replica_loss(classification: Sequence[Tensor], features: Sequence[Tensor], weight: float) -> Tensor:
    """(sum of the classification losses + weight * scale_consistency) / number of replicas, as in the authors' code.

    Args:
        classification: one scalar per replica, the largest image first.
        features: one (B, D) per replica, the pooled features after the final norm.
        weight: alpha; 0 leaves the consistency out.
    """
    total = torch.stack(list(classification)).sum()
    if weight:
        total = total + weight * scale_consistency(features)
    return total / len(classification)
