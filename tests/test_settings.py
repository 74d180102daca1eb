"""Configurations as such: defaults, the form on disk, and two of them compared."""

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from anyres.settings import default_of, defaults, differences, plain

OLD = {"lr": 0.001, "out": "here", "augmentation": {"hflip": 0.5, "scale": [0.1, 1.0]}}


def test_differences_name_nested_fields_and_pass_over_those_to_be_ignored():
    new = {"lr": 0.5, "out": "there", "augmentation": {"hflip": 0.25, "scale": [0.1, 1.0]}}
    assert differences(OLD, new, frozenset({"out"})) == [
        "lr: 0.001 there, 0.5 here",
        "augmentation.hflip: 0.5 there, 0.25 here",
    ]
    assert differences(OLD, OLD) == []


def test_a_field_of_one_side_only_is_not_set_on_the_other():
    assert differences(OLD, {**OLD, "added": 1}) == ["added: 'not set' there, 1 here"]
    assert differences({**OLD, "gone": 1}, OLD) == ["gone: 1 there, 'not set' here"]


def test_long_values_are_cut_short():
    [line] = differences({"classes": [f"class {i}" for i in range(1000)]}, {"classes": ["cat"]})
    assert len(line) < 400 and "class 3" in line and line.endswith("['cat'] here")


@dataclass
class Settings:
    needed: int
    size: tuple[int, int] = (1, 2)
    more: dict[str, int] = field(default_factory=dict)


def test_defaults_are_those_of_the_fields_that_may_be_left_out():
    assert defaults(Settings) == {"size": (1, 2), "more": {}} and default_of("size", Settings) == (1, 2)
    with pytest.raises(KeyError):
        default_of("needed", Settings)


def test_plain_values_are_as_json_reads_them_back():
    found = plain({"size": (1, 2), "path": Path("a") / "b", "settings": Settings(3), 3: None})
    settings = {"needed": 3, "size": [1, 2], "more": {}}
    assert found == {"size": [1, 2], "path": str(Path("a") / "b"), "settings": settings, "3": None}
