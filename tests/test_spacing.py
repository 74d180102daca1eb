"""Places at equal distances."""

import pytest
from hypothesis import given, strategies as st

from anyres.spacing import evenly_spaced


@pytest.mark.parametrize(
    ("count", "limit", "expected"),
    [
        (8, 4, [1, 3, 5, 7]),
        (5, 1, [2]),
        (10, 2, [2, 7]),
        (3, None, [0, 1, 2]),
        (3, 9, [0, 1, 2]),
        (0, 2, []),
        (7, 0, []),
    ],
)
def test_examples(count, limit, expected):
    assert evenly_spaced(count, limit) == expected


@given(st.integers(1, 10**6), st.integers(1, 50))
def test_places_are_distinct_rising_and_lie_as_far_from_either_end(count, limit):
    places = evenly_spaced(count, min(limit, count))
    assert len(set(places)) == min(limit, count) and places == sorted(places)
    assert places[0] >= 0 and places[-1] < count
    gaps = {after - before for before, after in zip(places, places[1:], strict=False)}
    assert len(gaps) <= 2 and (not gaps or max(gaps) - min(gaps) <= 1)
