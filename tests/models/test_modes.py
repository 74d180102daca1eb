"""A model in evaluation for a while."""

import pytest
import torch
from torch import nn

from anyres.models.modes import evaluating


def test_every_module_is_put_back_in_its_own_mode_also_after_an_error():
    model = nn.Sequential(nn.Dropout(), nn.Sequential(nn.BatchNorm2d(2), nn.Dropout())).train()
    model[1][0].eval()  # as where statistics are kept
    before = [module.training for module in model.modules()]
    with pytest.raises(KeyError), evaluating(model):
        assert not any(module.training for module in model.modules())
        assert torch.equal(model[0](torch.ones(9)), torch.ones(9))
        raise KeyError
    assert [module.training for module in model.modules()] == before == [True, True, True, False, True]
