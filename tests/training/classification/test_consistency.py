"""ResFormer's loss against numbers worked out by hand."""

import pytest
import torch

from anyres.training.classification.consistency import replica_loss, scale_consistency

# Whitened, (3, 1) is (1, -1) and (0.5, 1) is (-1, 1). The students' distances from that are
#   (0.5, 1)  from (1, -1): -0.5 and 2 -> 0.5 * 0.25 = 0.125 and 2 - 0.5 = 1.5, mean 0.8125
#   (2, 1)    from (-1, 1):  3   and 0 -> 3 - 0.5    = 2.5   and 0,             mean 1.25
FEATURES = [torch.tensor([[3.0, 1.0]]), torch.tensor([[0.5, 1.0]]), torch.tensor([[2.0, 1.0]])]


def test_consistency_by_hand():
    assert scale_consistency(FEATURES).item() == pytest.approx(0.8125 + 1.25, abs=1e-4)
    assert scale_consistency(FEATURES[:1]).item() == 0.0


def test_consistency_is_a_mean_over_images():
    doubled = [torch.cat([feature, feature + torch.tensor([[0.0, 7.0]])]) for feature in FEATURES]
    parts = [scale_consistency([feature[rows] for feature in doubled]) for rows in (slice(0, 1), slice(1, 2))]
    torch.testing.assert_close(scale_consistency(doubled), (parts[0] + parts[1]) / 2)
    assert parts[0] != parts[1]


def test_loss_by_hand():
    classification = [torch.tensor(value) for value in (0.3, 0.6, 0.9)]
    assert replica_loss(classification, FEATURES, 2.0).item() == pytest.approx((1.8 + 2 * 2.0625) / 3, abs=1e-4)
    assert replica_loss(classification, FEATURES, 0.0).item() == pytest.approx(0.6)
    assert torch.equal(replica_loss(classification[:1], FEATURES[:1], 0.0), classification[0])


def test_teachers_get_no_gradient():
    features = [feature.clone().requires_grad_() for feature in FEATURES]
    scale_consistency(features).backward()
    assert features[0].grad is None
    # d/dx of smooth L1 is x within 1 and the sign beyond; the mean is over two channels
    torch.testing.assert_close(features[1].grad, torch.tensor([[-0.25, 0.5]]), rtol=0, atol=1e-5)
    torch.testing.assert_close(features[2].grad, torch.tensor([[0.5, 0.0]]), rtol=0, atol=1e-4)
