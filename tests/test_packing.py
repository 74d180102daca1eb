"""Groups within a limit."""

import pytest
from hypothesis import given, strategies as st

from anyres.packing import packed


@pytest.mark.parametrize(
    ("costs", "limit", "options", "expected"),
    [
        ([1, 2, 3, 4], 5, {}, [[0, 1], [2], [3]]),
        ([9, 1, 9, 1], 5, {}, [[0], [1], [2], [3]]),
        ([1, 1, 1, 1, 1], 9, {"most": 2}, [[0, 1], [2, 3], [4]]),
        ([3, 1, 2], 3, {"order": [1, 2, 0]}, [[1, 2], [0]]),
        ([], 5, {}, []),
    ],
)
def test_examples(costs, limit, options, expected):
    assert list(packed(costs, limit, **options)) == expected


@given(st.lists(st.integers(1, 20), max_size=30), st.integers(1, 30), st.integers(1, 6))
def test_every_index_is_in_one_group_which_keeps_the_limits_and_has_no_room_for_the_next(costs, limit, most):
    groups = list(packed(costs, limit, most=most))
    assert [index for group in groups for index in group] == list(range(len(costs)))
    for group, following in zip(groups, [*groups[1:], None], strict=False):
        together = sum(costs[index] for index in group)
        assert len(group) <= most and (together <= limit or len(group) == 1)
        assert following is None or len(group) == most or together + costs[following[0]] > limit
