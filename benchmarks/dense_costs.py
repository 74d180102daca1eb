"""Costs and parameters of detectors and segmenters beside those that the ViTAR paper prints. Nothing is timed.

    python benchmarks/dense_costs.py [--out benchmarks/results/dense_costs.json]

Multiply-accumulates in 1e9 (G) of one image: 800x1280 pixels for Mask R-CNN with 1000 boxes and 100 masks, 512x2048 for
UperNet with 512 channels and 150 classes. Ours is the "executed" convention (`anyres cost`). What the papers counted is
not said, so every backbone is also counted with the attention's products left out, as a counter that looks at layers
alone does, and with other pyramids and heads:

- segmentation: BEiT's pyramid, with maps 4, 2, 1 and 1/2 times as large as the backbone's; the same times two for cells
  of 2x2; or none, all four maps at the backbone's stride;
- detection: ViTDet's simple feature pyramid, or BEiT's and a feature pyramid network; ViTDet's heads (two convolutions
  in the first stage, four and a linear layer for boxes), or mmdetection's (one convolution, two linear layers).
"""

import argparse
import json
import math
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models.detection.faster_rcnn import RPNHead, TwoMLPHead
from torchvision.ops import FeaturePyramidNetwork

from anyres.costs.cost import macs_by_part, window_pairs
from anyres.costs.cost_dense import decoder_parts, padded_size
from anyres.layers.merge_plan import token_grid
from anyres.layers.pyramid import TapPyramid
from anyres.models.architectures import create_model
from anyres.models.config import ViTARConfig

OUT = Path(__file__).parent / "results" / "dense_costs.json"
SEGMENT_SIZE, DETECT_SIZE = (512, 2048), (800, 1280)
VIT = {"merger": "none", "position": "learned"}
RESFORMER = {"merger": "none", "position": "global_local"}
BACKBONES: dict[str, dict[str, Any]] = {
    "ViT": VIT,
    "ViT, windows of 14": VIT | {"window": 14},
    "ResFormer": RESFORMER,
    "ViTAR 1x1": {},
    "ViTAR 1x1, windows of 14": {"window": 14},
    "ViTAR 1x1, conv stem": {"stem": "conv"},
    "ViTAR 2x2": {"cells": "2x2"},
}
PYRAMIDS = {"4, 2, 1, 1/2": (4, 2, 1, 0.5), "8, 4, 2, 1": (8, 4, 2, 1), "none": (1, 1, 1, 1)}
HEADS = ("ViTDet", "mmdetection")
PRINTED: dict[str, dict[str, float | None]] = {  # the ViTAR paper's Tables 2, 3 and 5: 1e6 parameters, 1e9 products
    "segmentation small ResFormer": {"parameters": 52, "macs": 1099},
    "segmentation small ViTAR 1x1": {"parameters": 57, "macs": 1156},
    "segmentation small ViTAR 2x2": {"parameters": 57, "macs": 579},
    "segmentation base ViT": {"parameters": 177, "macs": 1283},
    "segmentation base ResFormer": {"parameters": 120, "macs": 1286},
    "segmentation base ViTAR 1x1": {"parameters": 128, "macs": 1296},
    "segmentation base ViTAR 2x2": {"parameters": 128, "macs": 687},
    "detection small ViT": {"parameters": 44, "macs": None},
    "detection small ViT, windows of 14": {"parameters": 46, "macs": None},
    "detection small ResFormer": {"parameters": 46, "macs": None},
    "detection small ViTAR 1x1": {"parameters": 51, "macs": None},
    "detection base ViT": {"parameters": 114, "macs": None},
    "detection base ViT, windows of 14": {"parameters": 121, "macs": 812},
    "detection base ResFormer": {"parameters": 115, "macs": 823},
    "detection base ViTAR 1x1": {"parameters": 123, "macs": 836},
    "detection base ViTAR 2x2": {"parameters": 123, "macs": 421},
}


class FeaturePyramid(nn.Module):
    """BEiT's pyramid of one map, then a feature pyramid network: (B, D, rows, cols) -> four (B, 256, h, w)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.taps = TapPyramid(width)
        self.network = FeaturePyramidNetwork([width] * 4, 256)

    def forward(self, x: Tensor) -> list[Tensor]:
        maps = self.taps([x] * 4)
        return list(self.network({str(level): each for level, each in enumerate(maps)}).values())


def attention_products(config: ViTARConfig, size: tuple[int, int]) -> int:
    """Multiply-accumulates of queries with keys and of weights with values, in all blocks of the trunk."""
    grid = config.plan(token_grid(*size, config.patch_size)).grid
    whole = len(config.whole_blocks)
    pairs = whole * (grid[0] * grid[1] + config.prefix_tokens) ** 2
    if config.window:
        pairs += (config.depth - whole) * window_pairs(grid, config.window)
    return 2 * config.width * pairs


def window_padding(config: ViTARConfig, size: tuple[int, int]) -> int:
    """What ViTDet does more in its windows: it completes the grid to whole ones, before keys and values are made."""
    rows, cols = config.plan(token_grid(*size, config.patch_size)).grid
    padded = [math.ceil(side / config.window) * config.window for side in (rows, cols)]
    tokens = padded[0] * padded[1]
    pairs = tokens * config.window**2 - window_pairs((rows, cols), config.window)
    blocks = config.depth - len(config.whole_blocks)
    return blocks * (4 * config.width**2 * (tokens - rows * cols) + 2 * config.width * pairs)


def row(model: Any, task: str, size: str, name: str, pixels: tuple[int, int], **about: str) -> dict[str, Any]:
    """One model: parameters, products in 1e9 by part and in all, and in all without those of attention."""
    config, pixels = model.config.backbone, padded_size(model, pixels)
    backbone = macs_by_part(config, pixels)
    parts = {part: macs for part, macs in backbone.items() if part != "head"}
    parts |= decoder_parts(model, pixels, sum(backbone.values()))
    whole, attention = sum(parts.values()), attention_products(config, pixels)
    counted = {"macs": whole, "without_attention": whole - attention}
    if config.window:
        counted["padded_windows"] = whole + window_padding(config, pixels)
    return {
        "task": task, "size": size, "backbone": name, **about,
        "parameters": round(sum(each.numel() for each in model.parameters()) / 1e6, 1),
        **{key: round(macs / 1e9, 1) for key, macs in counted.items()},
        "parts": {part: round(macs / 1e9, 1) for part, macs in parts.items()},
        "printed": PRINTED.get(f"{task} {size} {name}"),
    }  # fmt: skip


def segmenters(size: str) -> list[dict[str, Any]]:
    rows = []
    for name, options in BACKBONES.items():
        for pyramid, scales in PYRAMIDS.items():
            if pyramid != "8, 4, 2, 1" or "2x2" in name:
                with torch.device("meta"):
                    model = create_model(f"upernet_vitar_{size}_patch16", scales=scales, **options).eval()
                rows.append(row(model, "segmentation", size, name, SEGMENT_SIZE, pyramid=pyramid, channels="512"))
    with torch.device("meta"):  # mmsegmentation's head for MAE's ViT-B
        model = create_model(f"upernet_vitar_{size}_patch16", head_channels=768, **VIT).eval()
    return [*rows, row(model, "segmentation", size, "ViT", SEGMENT_SIZE, pyramid="4, 2, 1, 1/2", channels="768")]


def detectors(size: str) -> list[dict[str, Any]]:
    rows = []
    for name, options in BACKBONES.items():
        for pyramid in ("simple", "network"):
            for heads in HEADS:
                with torch.device("meta"):
                    model: Any = create_model(f"mask_rcnn_vitar_{size}_patch16", **options).eval()
                    if pyramid == "network":
                        model.backbone.pyramid = FeaturePyramid(model.config.backbone.width)
                    if heads == "mmdetection":
                        model.rpn.head = RPNHead(256, 3)
                        model.roi_heads.box_head = TwoMLPHead(256 * 7 * 7, 1024)
                rows.append(row(model, "detection", size, name, DETECT_SIZE, pyramid=pyramid, heads=heads))
    return rows


def measured() -> list[dict[str, Any]]:
    """Every row, in the order in which they are printed."""
    return [each for make in (segmenters, detectors) for size in ("small", "base") for each in make(size)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    rows = measured()
    for each in rows:
        kind = f"{each['task'][:7]} {each['size']:<5} {each['backbone']:<25} {each['pyramid']:<12}"
        kind += f" {each.get('heads') or each['channels']:<11}"
        figures = f"{each['parameters']:>6} M {each['macs']:>7} G, without attention {each['without_attention']:>7}"
        print(kind, figures, each.get("padded_windows", ""), each["printed"] or "")
    options.out.write_text(json.dumps({"rows": rows}, indent=1) + "\n")
    print(options.out)


if __name__ == "__main__":
    main()
