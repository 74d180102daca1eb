"""Mixing of replicas: timm's own for one size, and the same draw, box and target at every other size."""

import numpy as np
import pytest
import torch
from timm.data import Mixup

from anyres.training.classification.mixing import SharedMixup

SETTINGS = {"label_smoothing": 0.1, "num_classes": 3}
KINDS = [{"mixup_alpha": 0.8}, {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}, {"mixup_alpha": 0.8, "cutmix_alpha": 1.0}]
KINDS.append({"mixup_alpha": 0.8, "cutmix_alpha": 1.0, "prob": 0.5})
LABELS = torch.tensor([0, 2, 1, 1])


def levels(*sizes):
    """Image i of each size is filled with i."""
    return [torch.arange(4.0)[:, None, None, None].expand(4, 2, *size).clone() for size in sizes]


@pytest.mark.parametrize("kind", KINDS)
def test_one_size_is_mixed_as_timm_does(kind):
    for seed in range(20):
        images = torch.rand(4, 3, 11, 7)
        np.random.seed(seed)
        expected, expected_targets = Mixup(**kind, **SETTINGS)(images.clone(), LABELS)
        np.random.seed(seed)
        mine = images.clone()
        targets = SharedMixup(**kind, **SETTINGS)([mine], LABELS)
        assert torch.equal(mine, expected) and torch.equal(targets, expected_targets)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_replica_and_the_target_do_not_depend_on_the_others(kind):
    for seed in range(10):
        np.random.seed(seed)
        alone = levels((30, 20))
        targets = SharedMixup(**kind, **SETTINGS)(alone, LABELS)
        np.random.seed(seed)
        several = levels((30, 20), (20, 20), (7, 3))
        assert torch.equal(SharedMixup(**kind, **SETTINGS)(several, LABELS), targets)
        assert torch.equal(several[0], alone[0])


def test_blending_uses_one_share():
    for seed in range(10):
        np.random.seed(seed)
        replicas = levels((9, 9), (4, 6))
        SharedMixup(mixup_alpha=0.8, **SETTINGS)(replicas, LABELS)
        values = [images[:, 0, 0, 0] for images in replicas]
        assert torch.equal(values[0], values[1])
        torch.testing.assert_close(values[0] + values[0].flip(0), torch.full((4,), 3.0))
        assert all(torch.equal(images, images[:, :1, :1, :1].expand_as(images)) for images in replicas)
        assert values[0][0] > 0


def test_one_box_is_cut_at_every_size():
    seen = 0
    for seed in range(40):
        np.random.seed(seed)
        replicas = levels((30, 20), (15, 40), (7, 3))
        targets = SharedMixup(mixup_alpha=0.0, cutmix_alpha=1.0, label_smoothing=0.0, num_classes=3)(replicas, LABELS)
        cut = replicas[0][0, 0] == 3  # the partner of image 0 is image 3
        rows, cols = cut.any(1).nonzero().flatten(), cut.any(0).nonzero().flatten()
        share = 1 - cut.float().mean()
        torch.testing.assert_close(targets[0], share * torch.eye(3)[0] + (1 - share) * torch.eye(3)[1])
        if not len(rows):
            continue
        seen += 1
        top, bottom, left, right = rows[0], rows[-1] + 1, cols[0], cols[-1] + 1
        for images, (height, width) in zip(replicas[1:], [(15, 40), (7, 3)], strict=True):
            expected = torch.zeros(height, width, dtype=torch.bool)
            expected[
                int(top * height / 30) : int(bottom * height / 30), int(left * width / 20) : int(right * width / 20)
            ] = True
            assert torch.equal(images[0, 1] == 3, expected)
            assert torch.equal(images[0, 1] == 0, ~expected)
    assert seen > 20
