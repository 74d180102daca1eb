"""Layers for layer-wise learning rates of a model whose backbone is a ViTAR."""

from typing import Any

from anyres.models.vitar import ViTAR


def group_matcher_around(backbone: ViTAR, name: str) -> dict[str, Any]:
    """`ViTAR.group_matcher` for a model in which the backbone has this name. All else is above it: the top layer.

    So with a factor d on the learning rate from layer to layer, block i of n (from 0) has d ** (n - i), as in BEiT and
    ViTDet, the merger d ** (n + 1), and stem and positions one factor more; heads and pyramid have 1.
    """
    within = "^" + name.replace(".", r"\.") + r"\."
    found: dict[str, Any] = {}
    for group, patterns in backbone.group_matcher().items():
        if isinstance(patterns, str):
            found[group] = patterns.replace("^", within)
        else:
            found[group] = [(pattern.replace("^", within), order) for pattern, order in patterns]
    return found
