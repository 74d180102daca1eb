"""Whether a model says the same of one image at every size.

Accuracy may stay while the single answers change. So a sweep with `stability` counts the images whose class is the same
at all sizes, and compares what the model makes of an image with what it makes of it at its largest training size.
Images are given to the models as they are ("native").
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from anyres.evaluation.rows import NATIVE, SweepRow, size_label
from anyres.sizes import Size


class Answers(TypedDict):
    """The class that every model names for every image, at one size of one set; kept until the sweep is complete."""

    images: list[int]
    """Numbers in the set."""
    classes: dict[str, list[int]]
    """Model -> the class of each of them, by its place in the model's own order."""


class Stability(TypedDict):
    """What a sweep says of one model on one set."""

    set: str
    model: str
    reference: list[int]
    """The largest training size."""
    sizes: list[list[int]]
    """Those measured, in the order of the sweep."""
    images: int
    """That were read at all of them."""
    same_class: float
    """Percent of these images whose class is the same at all the sizes."""
    cosines: list[float]
    """For each size: cosine of an image's pooled features to its own at the reference, mean over the images."""


@dataclass(kw_only=True)
class Reference:
    """What one model makes of the images of a set at its largest training size, by their numbers in the set."""

    classes: dict[int, int] = field(default_factory=dict)
    pooled: dict[int, Tensor] = field(default_factory=dict)
    """(D,) float32 each."""

    def add(self, indices: Sequence[int], classes: Tensor, pooled: Tensor) -> None:
        """Keeps what was found of some images: their classes (B,) and features (B, D)."""
        self.classes |= dict(zip(indices, classes.tolist(), strict=True))
        self.pooled |= dict(zip(indices, pooled, strict=True))

    def compare(self, indices: Sequence[int], classes: Tensor, pooled: Tensor) -> dict[str, Tensor]:
        """Of the same images at another size: metrics of a row of the sweep, each (B,)."""
        there = torch.stack([self.pooled[index] for index in indices])  # (B, D)
        same = classes == torch.tensor([self.classes[index] for index in indices])
        return {"same_class": 100.0 * same.float(), "cosine": cosine_similarity(pooled, there, dim=1)}


def stability(
    rows: Iterable[SweepRow], answers: Mapping[Size, Answers], references: Mapping[str, Size], name: str
) -> list[Stability]:
    """The entries of one set, by its native rows, the answers at each size, and each model's reference size."""
    native = [row for row in rows if row["protocol"] == NATIVE]
    found = []
    for model, reference in references.items():
        own = [row for row in native if row["model"] == model]
        if own:
            by_image = [_by_image(answers[row["size"][0], row["size"][1]], model) for row in own]
            everywhere = set(by_image[0]).intersection(*by_image)
            same = sum(len({classes[image] for classes in by_image}) == 1 for image in everywhere)
            found.append(Stability(
                set=name, model=model, reference=list(reference), sizes=[row["size"] for row in own],
                images=len(everywhere), same_class=100 * same / len(everywhere) if everywhere else 0.0,
                cosines=[row["metrics"]["cosine"] for row in own],
            ))  # fmt: skip
    return found


def _by_image(answers: Answers, model: str) -> dict[int, int]:
    return dict(zip(answers["images"], answers["classes"][model], strict=True))


def stability_text(entries: Sequence[Stability]) -> str:
    """A table for the terminal: one line for each model on each set."""
    lines = []
    for entry in entries:
        sizes = [size_label(size) for size in entry["sizes"]]
        cosines = ", ".join(f"{size}: {value:.3f}" for size, value in zip(sizes, entry["cosines"], strict=True))
        lines += [
            f"{entry['model']} on {entry['set']}: the same class at all {len(sizes)} sizes for "
            f"{entry['same_class']:.1f} % of {entry['images']} images",
            f"  cosine of features to those at {size_label(entry['reference'])}, by size: {cosines}",
        ]
    return "\n".join(lines)
