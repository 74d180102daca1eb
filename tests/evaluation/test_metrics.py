"""Metrics of a sweep are those that a loop over images gives, and rows and report have them all."""

import math

import pytest
import torch

from anyres.evaluation.metrics import METRICS, nll, top5


def test_top5_counts_the_five_most_likely():
    probabilities = torch.tensor([[0.3, 0.2, 0.1, 0.15, 0.13, 0.12], [0.12, 0.2, 0.1, 0.15, 0.13, 0.3]])
    assert top5(probabilities, torch.tensor([2, 0])).tolist() == [0, 100]  # sixth of six, fifth of six


def test_top5_of_few_classes_is_always_right():
    assert top5(torch.tensor([[0.9, 0.1, 0.0]]), torch.tensor([2])).tolist() == [100]


def test_nll_is_cross_entropy():
    logits = torch.randn(7, 13)
    labels = torch.randint(0, 13, (7,))
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="none")
    torch.testing.assert_close(nll(logits.softmax(-1), labels), expected)


def test_nll_of_an_impossible_answer_is_finite():
    assert math.isfinite(nll(torch.tensor([[1.0, 0.0]]), torch.tensor([1])).item())


@pytest.mark.parametrize("name", METRICS)
def test_every_metric_has_a_value_for_each_image(name):
    assert METRICS[name](torch.full((3, 2), 0.5), torch.tensor([0, 1, 0])).shape == (3,)
