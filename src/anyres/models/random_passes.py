"""Extra passes of the merger, drawn anew in every step of training, so that its depth is not memorised."""

import torch

from anyres.layers.merge_plan import MergePlan


def with_random_passes(plan: MergePlan, most: int) -> MergePlan:
    """The plan with up to `most` extra 1x1 passes at the end and, with probability 1/2, one after each other level."""
    if not plan.levels:  # no last pass, and an image no larger than the grid
        return plan
    draws = torch.randint(0, 2, (len(plan.levels),), device="cpu").tolist()
    draws[-1] = int(torch.randint(0, most + 1, (), device="cpu"))
    return plan.with_extra_passes(draws)
