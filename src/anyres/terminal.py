"""Text on terminals of any encoding: nothing is lost for a name."""

from typing import TextIO


def printable(text: object, file: TextIO) -> str:
    """Text as a terminal shows it on one line: after a backslash what is no letter, or none in the encoding of `file`.

    Names of files may hold anything: bytes that are no text, ends of lines, the codes that move a terminal's cursor.
    """
    letters = (each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text))
    encoding = getattr(file, "encoding", None) or "utf-8"
    return "".join(letters).encode(encoding, "backslashreplace").decode(encoding)
