"""Layers that turn an image of any size into a fixed grid of tokens. Each works alone on (B, rows, cols, D)."""

from anyres.layers.grid_attention import GridAttention
from anyres.layers.merge_plan import Level, MergePlan
from anyres.layers.merging import AdaptiveTokenMerger, AveragePoolMerger, ConcatMerger
from anyres.layers.position import FuzzyPositionalEncoding
from anyres.layers.stem import ConvStem, PatchStem
from anyres.layers.token_merging import ToMeBlock
from anyres.layers.unmerge import Unmerge

__all__ = [
    "AdaptiveTokenMerger",
    "AveragePoolMerger",
    "ConcatMerger",
    "ConvStem",
    "FuzzyPositionalEncoding",
    "GridAttention",
    "Level",
    "MergePlan",
    "PatchStem",
    "ToMeBlock",
    "Unmerge",
]
