"""Amounts of memory as they are written."""

import pytest
from hypothesis import given, strategies as st

from anyres.amounts import parse_bytes, show_bytes, three_digits_up


@pytest.mark.parametrize(("text", "count"), [("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), ("1GiB", 2**30), ("7b", 7)])
def test_memory_is_read(text, count):
    assert parse_bytes(text) == count and parse_bytes(show_bytes(count + 10**6)) >= count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2", "2 XB", "0GB", "nanGB"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(ValueError, match="allowed: a number with a unit"):
        parse_bytes(text)


@given(st.floats(1e-9, 1e18))
def test_three_digits_are_enough_and_at_most_a_hundredth_more(value):
    assert value <= three_digits_up(value) * (1 + 1e-12) and three_digits_up(value) <= 1.0101 * value
    assert three_digits_up(0.0) == 0 == three_digits_up(-1.0)
