"""What is printed of names that a terminal has no letters for."""

import io

import pytest

from anyres.terminal import printable


@pytest.mark.parametrize(
    ("text", "encoding", "shown"),
    [
        ("caf\udce9.png", "utf-8", r"caf\udce9.png"),
        ("café.png", "utf-8", "café.png"),
        ("café.png", "ascii", r"caf\xe9.png"),
        ("日本", "latin-1", r"\u65e5\u672c"),
        ("a\nb\x1b[2Jc", "utf-8", r"a\nb\x1b[2Jc"),
    ],
)
def test_nothing_is_lost_and_nothing_moves_the_cursor(text, encoding, shown):
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")
    assert printable(text, file) == shown
    print(printable(text, file), file=file)
    assert printable(text, io.StringIO()) == printable(text, io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
