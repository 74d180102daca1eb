"""Things of one kind together, and results in the order of what was given."""

import pytest
import torch

from anyres.models.images import group_by, run_by_group


def test_kinds_come_in_the_order_of_their_first_appearance():
    assert group_by(["b", "a", "b", "c", "a"]) == [[0, 2], [1, 4], [3]]
    assert group_by([]) == []


def test_results_are_as_if_run_one_by_one():
    calls = []

    def run(members):
        calls.append(members)
        return torch.tensor([float(10 * i) for i in members])  # a tensor's rows are results too

    assert run_by_group([(3, 2), (2, 3), (3, 2), (1, 1)], run) == [0, 10, 20, 30]
    assert calls == [[0, 2], [1], [3]]
    assert run_by_group([], run) == [] and len(calls) == 3


def test_a_result_for_each_is_demanded():
    with pytest.raises(ValueError, match="zip"):
        run_by_group([1, 1], lambda members: members[:1])
