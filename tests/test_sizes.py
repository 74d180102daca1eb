"""Sizes: how they are read and written, ranges of them, and what is computed of one."""

import math

import pytest
from hypothesis import given, strategies as st

from anyres.sizes import SideRange, parse_entry, parse_size, rounded_up, size_text, stretched


@pytest.mark.parametrize(
    ("given_", "size"),
    [("224", (224, 224)), (224, (224, 224)), ("224x320", (224, 320)), (" 1X7 ", (1, 7)), ((3, 5), (3, 5))],
)
def test_parse_size_is_height_by_width(given_, size):
    assert parse_size(given_) == size


@pytest.mark.parametrize("bad", ["", "x", "0", "-4", "2x3x4", "224x", "big", 2.5, True, (), (1, 2, 3), None])
def test_parse_size_names_what_was_given(bad):
    with pytest.raises(ValueError, match="224x320") as caught:
        parse_size(bad)
    assert repr(bad) in str(caught.value)


def test_entries_are_sizes_or_ranges():
    assert parse_entry("224x320") == (224, 320) and parse_entry(7) == (7, 7)
    assert parse_entry("32-96") == parse_entry(" 32 - 96 ") == SideRange(32, 96)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ("96-32", "'96-32' as a range.*nearest: 32-96$"),
        ("32-32", "nearest: 32$"),
        ("0-32", "nearest: 1-32$"),
        ("a-b", "'a-b' as a range of sizes.*such as 32-96$"),
        ("32-", "such as 32-96$"),
        ("1-2-3", "such as 32-96$"),
        ("32x48-96", "such as 32-96$"),
        ("-32", "'-32' as a size"),
    ],
)
def test_ranges_out_of_order_name_the_nearest(bad, message):
    with pytest.raises(ValueError, match=message):
        parse_entry(bad)


@given(st.integers(1, 5000), st.integers(1, 5000), st.floats(0, 1))
def test_ranges_keep_their_ends(low, more, draw):
    side, other = SideRange(low, low + more).at(draw)
    assert side == other and low <= side <= low + more
    assert SideRange(low, low + more).at(0.0) == (low, low)
    assert SideRange(low, low + more).at(math.nextafter(1, 0)) == (low + more, low + more)


@given(st.integers(1, 4000), st.integers(1, 4000), st.floats(0.05, 20))
def test_stretching_multiplies_the_aspect_and_keeps_the_area(height, width, factor):
    tall, wide = stretched((height, width), factor)
    assert tall == max(1, round(height / factor**0.5)) and wide == max(1, round(width * factor**0.5))
    assert stretched((height, width), 1.0) == (height, width)


@given(st.integers(1, 9999), st.integers(1, 9999))
def test_a_size_is_written_as_it_is_read(height, width):
    assert parse_size(size_text((height, width))) == (height, width)


@given(st.integers(1, 9999), st.integers(1, 9999), st.integers(1, 64))
def test_sides_are_completed_to_the_next_multiple(height, width, multiple):
    for side, whole in zip((height, width), rounded_up((height, width), multiple), strict=True):
        assert whole % multiple == 0 and side <= whole < side + multiple
