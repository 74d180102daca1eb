"""Amounts of memory as they are written."""

import pytest

from anyres.amounts import parse_bytes, show_bytes


@pytest.mark.parametrize(("text", "count"), [("2GB", 2 * 10**9), ("1.5 mb", 1_500_000), ("1GiB", 2**30), ("7b", 7)])
def test_memory_is_read(text, count):
    assert parse_bytes(text) == count and parse_bytes(show_bytes(count + 10**6)) >= count


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "2", "2 XB", "0GB", "nanGB"])
def test_what_is_no_memory_is_refused(text):
    with pytest.raises(ValueError, match="allowed: a number with a unit"):
        parse_bytes(text)
