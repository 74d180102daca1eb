"""Layers that turn an image of any size into a fixed grid of tokens. Each works alone on (B, rows, cols, D)."""

from typing import TYPE_CHECKING

from anyres.lazy import attach

if TYPE_CHECKING:
    from anyres.layers.grid_attention import GridAttention as GridAttention
    from anyres.layers.merge_plan import Level as Level, MergePlan as MergePlan
    from anyres.layers.merging import (
        AdaptiveTokenMerger as AdaptiveTokenMerger,
        AveragePoolMerger as AveragePoolMerger,
        ConcatMerger as ConcatMerger,
    )
    from anyres.layers.places import Places as Places
    from anyres.layers.position import FuzzyPositionalEncoding as FuzzyPositionalEncoding
    from anyres.layers.stem import ConvStem as ConvStem, PatchStem as PatchStem
    from anyres.layers.token_merging import ToMeBlock as ToMeBlock
    from anyres.layers.unmerge import Unmerge as Unmerge
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "anyres.layers.grid_attention": ("GridAttention",),
            "anyres.layers.merge_plan": ("Level", "MergePlan"),
            "anyres.layers.merging": ("AdaptiveTokenMerger", "AveragePoolMerger", "ConcatMerger"),
            "anyres.layers.places": ("Places",),
            "anyres.layers.position": ("FuzzyPositionalEncoding",),
            "anyres.layers.stem": ("ConvStem", "PatchStem"),
            "anyres.layers.token_merging": ("ToMeBlock",),
            "anyres.layers.unmerge": ("Unmerge",),
        },
    )
