"""What held furthest beyond the training sizes in our study of extrapolation, as a change to a run of ViTAR."""

from dataclasses import replace

from anyres.training.classification.config import TrainConfig

FAR = 8 / 3
"""How many times the largest ordinary side the far one is."""
SHARE = 0.05
"""Steps at the far size for each step at an ordinary one."""


def hold_beyond(config: TrainConfig) -> TrainConfig:
    """The run with one step in twenty at 2.7 times its largest size, and positions from a convolution in the trunk.

    The trunk's grid is the same at every size, so that its positions (CPVT's conditional encoding, arXiv 2102.10882)
    meet nothing new at large images; the rare far steps let the shared block of the merger be applied more often than
    the ordinary sizes do. They take about a fifth of the products of the whole run.

    Evidence, small models only (docs/results.md, "Beyond the largest training size"): where large glyphs are read, 95
    and 98 % at four times the largest ordinary size in place of 44 and 75 (two seeds), 57 and 87 % at four times the
    far size. Where small ones are, it is worse by up to nine points at twice to three times the largest ordinary size
    (one seed). So it is no default.

    Args:
        config: a run of ViTAR without a position of its own among the model's options.

    Raises:
        ValueError: a size that cannot be read.
    """
    largest = max(max(size) for size in config.parsed_sizes())
    weights = config.size_weights or (1.0,) * len(config.sizes)
    far = 32 * round(largest * FAR / 32)
    return replace(
        config,
        model_options={**config.model_options, "position": "conditional", "placement": "trunk"},
        sizes=(*config.sizes, str(far)),
        size_weights=(*weights, SHARE * sum(weights)),
    )
