"""Which classes are in a set of masks at all: a look at some of them before any work."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from anyres.errors import UnreadableImageError
from anyres.spacing import evenly_spaced

LOOKED_AT = 1000
"""Masks that are looked at as long as a class is missing: seconds, where all of a large set would take minutes."""

_NAMED = 5


@dataclass(frozen=True)
class Survey:
    """What was seen in masks that are spread evenly over a set, none beyond the one at which all classes were seen."""

    looked_at: int
    of: int
    absent: tuple[int, ...]
    """Labels that no pixel has."""
    has_unknown: bool
    """Whether some pixel has no label."""

    @property
    def is_of_all(self) -> bool:
        return self.looked_at == self.of

    def report(self, where: object, names: Sequence[str]) -> list[str]:
        """One line, or none if every class is there."""
        if not self.absent:
            return []
        seen = f"{self.of} masks" if self.is_of_all else f"the {self.looked_at} of {self.of} masks that were looked at"
        return [f"No pixel in {seen} in {where} is of {class_text([names[label] for label in self.absent])}."]


def survey(
    labels_of: Callable[[int], np.ndarray], count: int, num_classes: int, ignored: int, most: int = LOOKED_AT
) -> Survey:
    """Looks at up to so many of `count` masks, until each of the classes has a pixel.

    Args:
        labels_of: (H, W) uint8 by place, `ignored` where nothing is known; an unreadable one is passed over.
    """
    seen, looked_at = np.zeros(256, dtype=bool), 0
    for index in evenly_spaced(count, most):
        looked_at += 1
        try:
            seen |= np.bincount(labels_of(index).reshape(-1), minlength=256) > 0
        except UnreadableImageError:
            continue  # named when it is read in earnest
        if seen[:num_classes].all():
            break
    absent = tuple(np.flatnonzero(~seen[:num_classes]).tolist())
    return Survey(looked_at, count, absent, bool(seen[ignored]))


def class_text(names: Sequence[str]) -> str:
    """The first of some classes: "class cat", or "classes cat, dog, ... and 7 more"."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"class{'es' * (len(names) > 1)} {', '.join(names[:_NAMED])}{more}"
