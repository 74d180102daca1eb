"""The pyramid merger: grid attention whose cells are also seen from afar, in the image averaged down to their grid.

In equation 1 of ViTAR (arXiv 2403.18361) base and query of a cell are the mean of its tokens. All levels share one
block, so the tokens drift with every pass that training did not have, and accuracy falls beyond the training sizes
(docs/method.md). Here base and query of a cell at a level with grid G are its own token p in the image averaged down
to G patches:

    m = proj(Attn(q = norm1(p), keys = values = norm1(tokens of the cell)))
    m = m + mlp(norm2(p + m))
    t = p + a m

Every level gets fresh input that looks like what training showed it, detail flows up through attention alone, and
nothing drifts with depth. There is no new parameter, and an image of the final grid's own size is computed as ever.
"""

from collections.abc import Iterator, Sequence

from torch import Tensor

from anyres.layers.averaged import resize_to
from anyres.layers.counter_random import derived_keys
from anyres.layers.merge_plan import MergePlan
from anyres.layers.merging import AdaptiveTokenMerger
from anyres.layers.options import Start


class PyramidMerger(AdaptiveTokenMerger):
    """Applies one shared `GridAttention` level by level, with a base for every cell.

    Args:
        width, heads, mlp_ratio, start: see `GridAttention`; with start="mean" the untrained merger gives exactly the
            bases, so that the model is an ordinary one on the image resized to its final grid.
        full_levels: a is 1 in the last so many levels that merge and in passes beside them; None: in all.
        deep_weight: a of the level before those; of each further one so many times the a of the level after it.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        mlp_ratio: float = 4.0,
        *,
        start: Start = "random",
        full_levels: int | None = None,
        deep_weight: float = 0.25,
    ) -> None:
        super().__init__(width, heads, mlp_ratio, start=start)
        self.full_levels, self.deep_weight = full_levels, deep_weight

    def forward(self, x: Tensor, plan: MergePlan, bases: Sequence[Tensor] = ()) -> Tensor:
        """Merges tokens (B, rows, cols, D) of the plan's size into (B, *plan.grid, D).

        Args:
            x: (B, rows, cols, D).
            plan: how they are merged.
            bases: (B, R, C, D) for each level of the plan, see `models.bases.make_bases`.
        """
        for index, (level, base) in enumerate(zip(plan.levels, bases_of(self, bases, plan), strict=True)):
            x, _ = self.step(x, plan, index, level, base=base)
        return x

    def weighted(self, merged: Tensor, base: Tensor | None, plan: MergePlan, index: int) -> Tensor:
        """Base and message (..., D) of level `index` of a plan, with the message as much as the level's a says."""
        to_come = sum(not level.is_identity for level in plan.levels[index:])
        if self.full_levels is None or to_come <= self.full_levels or base is None:
            return merged
        return base + self.deep_weight ** (to_come - self.full_levels) * (merged - base)


def bases_of(merger: AdaptiveTokenMerger, bases: Sequence[Tensor], plan: MergePlan) -> Sequence[Tensor | None]:
    """The base of every level of a plan; None for each where a merger takes the mean of a cell instead.

    Raises:
        ValueError: fewer or more than there are levels.
    """
    if not isinstance(merger, PyramidMerger):
        return [None] * len(plan.levels)
    if len(bases) != len(plan.levels):
        raise ValueError(
            f"there are {len(bases)} bases for {len(plan.levels)} levels ({plan}); a pyramid needs one for each, the "
            "patches of the image averaged down to its grid."
        )
    return bases


def reduced_images(image: Tensor, plan: MergePlan, patch_size: int) -> Iterator[Tensor | None]:
    """The image (B, C, h, w) averaged down to the grid of each level of a plan, from level to level; None where a level
    merges nothing and so looks at the image of the level before."""
    for level in plan.levels:
        if level.is_identity:
            yield None
            continue
        rows, cols = level.output_grid
        image = resize_to(image, rows * patch_size, cols * patch_size)
        yield image


def level_keys(keys: Tensor | None, reductions: int) -> Tensor | None:
    """Jitter keys of an image that has been reduced so often: those of the image itself are kept for its patches."""
    return None if keys is None else derived_keys(keys, reductions)
