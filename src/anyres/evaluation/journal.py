"""What a sweep has measured so far, on disk, so that a sweep that is stopped can go on where it was."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from anyres.evaluation.rows import FORMAT, SweepRow
from anyres.evaluation.stability import Answers
from anyres.files import read_json, write_json
from anyres.settings import differences
from anyres.sizes import Size


class Part(TypedDict):
    """Everything about one size on one set; `skipped` has the reason for each unreadable file."""

    set: str
    size: list[int]
    rows: list[SweepRow]
    examples: list[dict[str, Any]]
    skipped: dict[str, str]
    left_out: list[dict[str, Any]]
    answers: Answers | None
    """With `stability` alone."""


class Journal:
    """The finished parts of a sweep, in the file OUT.partial until the sweep is complete.

    `identity` is what decides about the rows (see identity.py). Raises ValueError naming the fields that differ if
    the file belongs to a sweep with another identity.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.path = _journal_of(out)
        self._identity = dict(identity)
        self.parts: list[Part] = []
        if self.path.exists():
            self.parts = self._read()

    def done(self, name: str) -> set[Size]:
        """The sizes of the set `name` that need not be measured again."""
        return {(part["size"][0], part["size"][1]) for part in self.parts if part["set"] == name}

    def add(self, part: Part) -> None:
        """The part is on disk when this returns."""
        self.parts.append(part)
        write_json(self.path, {"format": FORMAT, "identity": self._identity, "parts": self.parts})

    def close(self) -> None:
        """Removes the file, whose parts are in the complete sweep now."""
        self.path.unlink(missing_ok=True)

    def _read(self) -> list[Part]:
        remedy = "delete it to measure everything anew, or give another out"
        keys = ("format", "identity", "parts")
        found = read_json(self.path, "what is done of a sweep", keys=keys, remedy=remedy)
        changed = differences(found["identity"], self._identity)
        if changed or found["format"] != FORMAT:
            what = "; ".join(changed) or f"format: {found['format']} there, {FORMAT} here"
            raise ValueError(f"{self.path} belongs to a sweep with other settings ({what}); {remedy}")
        parts: list[Part] = found["parts"]
        return parts


def sizes_done(out: Path) -> list[Size]:
    """The sizes that a sweep into `out`, which runs in another process, has measured so far, set by set.

    Empty before the first one, and after the last, when there is no journal any more.
    """
    try:
        parts = read_json(_journal_of(out), "what is done of a sweep", keys=("parts",), remedy="delete it")["parts"]
    except FileNotFoundError:
        return []
    return [(part["size"][0], part["size"][1]) for part in parts]


def finished(out: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Any] | None, list[str]]:
    """The sweep that is in the file `out`, None if there is none, and how its identity differs from the one given.

    Raises ValueError for a file that is no sweep, since it would be replaced.
    """
    if not out.exists():
        return None, []
    keys = ("format", "title", "rows")
    found = read_json(out, "the JSON of a sweep", keys=keys, remedy="delete it, or give another out")
    return found, differences({name: found[name] for name in identity if name in found}, dict(identity))


def _journal_of(out: Path) -> Path:
    return out.with_name(out.name + ".partial")
