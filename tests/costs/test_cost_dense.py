"""Costs of segmenters and detectors: torch's flop counter over the whole model, by hand, memory, command, documents."""

import json
import re
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import anyres
from anyres.cli import main
from anyres.costs.cost import cost
from anyres.costs.memory import peak_tensor_bytes
from anyres.models.presets import DETECTORS, SEGMENTERS

TINY = {"width": 32, "heads": 4, "depth": 4, "patch_size": 8, "grid": 7}
SEGMENT = TINY | {"num_classes": 5, "taps": (0, 1, 2, 3), "head_channels": 24, "auxiliary_channels": 8}
DETECT = TINY | {
    "num_classes": 2, "channels": 16, "box_features": 24, "test_proposals": 23, "detections": 9,
    "score_threshold": 0.0, "nms_threshold": 1.0,
}  # fmt: skip
VIT = {"merger": "none", "position": "learned"}
RESFORMER = {"merger": "none", "position": "global_local", "prefix_tokens": 1, "pool": "token"}


def counted(run):
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops() / 2


@pytest.mark.parametrize(
    "overrides",
    [
        {},
        {"cells": "2x2"},
        {"cells": "2x2", "scales": (8, 4, 2, 1), "stem": "conv"},
        VIT,
        RESFORMER,
        {"taps": (0, 2), "scales": (2, 0.5), "auxiliary_tap": 0},
        {"taps": (1, 2), "scales": (1, 1), "auxiliary_tap": 1, "merger": "none", "tome": 5},
        {"window": 3, "global_blocks": (3,)},
        {"window": 14, "global_blocks": (), "taps": (0, 1, 2), "scales": (2, 1, 1)},
    ],
)
@pytest.mark.parametrize("size", [(61, 200), (7, 131)])
def test_segmenters_cost_what_torch_counts(overrides, size):
    with torch.device("meta"):
        model = anyres.create_model("upernet_vitar_small_patch16", **SEGMENT | overrides).eval()
    image = torch.empty(1, 3, *size, device="meta")
    found = cost(model, size, memory=False)
    assert found.macs == counted(lambda: model(image))
    assert "rest" not in found.parts and ("pyramid" in found.parts) == (max(model.config.scales) > 1)
    maps = model._maps(image)
    assert found.parts["head"] == counted(lambda: model.head(maps))


@pytest.mark.parametrize(
    "overrides", [{}, {"neighbours": True}, {"skip": False}, {"decoder": "bilinear"}, {"merger": "average"}, VIT]
)
@pytest.mark.parametrize("size", [(61, 200), (7, 131)])
def test_grids_carried_back_cost_what_torch_counts(overrides, size):
    with torch.device("meta"):
        options = TINY | {"grid": 3, "num_classes": 5, "head_channels": 24} | overrides
        model = anyres.create_model("unmerge_vitar_small_patch16", **options).eval()
    found = cost(model, size, memory=False)
    assert found.macs == counted(lambda: model(torch.empty(1, 3, *size, device="meta")))
    assert all(macs >= 0 for macs in found.parts.values()) and "head" in found.parts
    if not overrides:
        assert "rest" not in found.parts and found.parts["unmerge"] > 0


@pytest.mark.parametrize(
    ("size", "overrides"),
    [
        ((17, 31), {}),
        ((61, 97), {"masks": False, "cells": "2x2"}),
        ((97, 61), VIT | {"window": 3, "global_blocks": (1,), "patch_size": 16}),
        ((64, 32), {"test_proposals": 1000, "detections": 100, "in_channels": 1}),  # more than there are anchors
    ],
)
def test_detectors_cost_what_torch_counts(size, overrides):
    torch.manual_seed(0)
    model = anyres.create_model("mask_rcnn_vitar_small_patch16", **DETECT | overrides).eval()
    model.set_size(min(size), max(size))
    model.rpn.nms_thresh = 1.0  # nothing is dropped: as many boxes as there may be
    for module in model.modules():
        if hasattr(module, "fused_attn"):
            module.fused_attn = False  # the counter does not know the fused one of CPUs
    image = torch.rand(model.config.backbone.in_channels, *size)
    found = cost(model, size)
    assert found.macs == counted(lambda: model([image]))
    assert found.activation_bytes is None and ("mask head" in found.parts) == model.config.masks


def test_fewer_anchors_and_classes_than_boxes_and_masks():
    """4 + 1 + 1 + 1 + 1 places with 3 anchors each; the mask head's cost is that of each mask times their number."""
    small = DETECT | {"test_proposals": 1000, "detections": 100, "patch_size": 16}
    one, many = (cost(anyres.create_model("mask_rcnn_vitar_small_patch16", **small | changed), (1, 1)).parts
                 for changed in ({"test_proposals": 1, "detections": 1}, {}))  # fmt: skip
    anchors = 3 * (8 * 8 + 4 * 4 + 2 * 2 + 1 + 1)
    assert many["box head"] == anchors * one["box head"]
    assert many["mask head"] == min(100, 2 * anchors) * one["mask head"]


def test_heads_by_hand():
    """The named detector at 800x1280: ViTDet's heads on 256 channels, 1000 boxes and 100 masks."""
    parts = cost("mask_rcnn_vitar_base_patch16", (800, 1280), memory=False).parts
    places = [h * w for h, w in ((200, 320), (100, 160), (50, 80), (25, 40), (13, 20))]
    assert parts["first stage"] == sum(places) * (2 * 9 * 256**2 + 256 * 15)
    assert parts["box head"] == 1000 * (4 * 49 * 9 * 256**2 + 49 * 256 * 1024 + 1024 * 81 * 5)
    assert parts["mask head"] == 100 * (4 * 196 * 9 * 256**2 + 196 * 4 * 256**2 + 784 * 256 * 81)
    up = 4000 * 4 * (768 * 384 + 4 * 384 * 192 + 768 * 384)
    inner = sum(n * (width + 9 * 256) * 256 for n, width in zip(places[:4], (192, 384, 768, 768), strict=True))
    assert parts["pyramid"] == up + inner


@pytest.mark.parametrize("name", [*SEGMENTERS, *DETECTORS])
def test_every_named_dense_model(name):
    found = cost(name, (224, 320), memory=False)
    with torch.device("meta"):
        model = anyres.create_model(name)
    assert found.parameters == sum(p.numel() for p in model.parameters())
    assert sum(found.parts.values()) == found.macs
    free = {"positions"} if model.config.backbone.position == "rotary" else set()  # there is no table to be read
    assert {part for part, macs in found.parts.items() if macs <= 0} == free
    conventions = {each: cost(name, (224, 320), each, memory=False).parts for each in ("executed", "plain", "paper")}
    assert conventions["executed"]["trunk"] < conventions["paper"]["trunk"]
    assert len({tuple(parts.items())[-2:] for parts in conventions.values()}) == 1  # decoders are counted alike


def test_paper_convention_of_taps_has_no_final_norm():
    """Two norms of 5 per element in each of the blocks that are run, and none behind."""
    model = anyres.create_model("upernet_vitar_small_patch16", **SEGMENT | {"taps": (0, 1), "scales": (2, 1),
                                                                           "auxiliary_tap": 0})  # fmt: skip
    executed, paper = (cost(model, (40, 56), each, memory=False).parts["trunk"] for each in ("executed", "paper"))
    assert paper - executed == 5 * 2 * 2 * 35 * 32


@pytest.mark.parametrize(
    ("size", "overrides"), [((64, 64), {}), ((90, 134), VIT | {"window": 5, "global_blocks": (1,)})]
)
def test_activation_bytes_of_segmenters_are_those_of_a_real_run(size, overrides):
    model = anyres.create_model("upernet_vitar_small_patch16", **SEGMENT | overrides).eval()
    image = torch.randn(1, 3, *size)
    with torch.no_grad():
        measured = peak_tensor_bytes(lambda: model(image))
    assert cost(model, size).activation_bytes == pytest.approx(measured, rel=0.05)


def test_commands(capsys):
    assert main(["models", "*_vitar_small_patch16"]) == 0
    lines = {line.split()[0]: line.split() for line in capsys.readouterr().out.splitlines()[1:]}
    for name, line in lines.items():
        macs = [cost(name, (side, side), memory=False).macs for side in (224, 1120)]
        assert line[-2:] == [f"{each / 1e9:.1f}" for each in macs]
    assert {"upernet_vitar_small_patch16", "mask_rcnn_vitar_small_patch16"} <= set(lines)
    assert main(["cost", "mask_rcnn_vitar_small_patch16", "96", "64"]) == 0
    assert "first stage" in capsys.readouterr().out


def test_figures_of_the_documents_are_those_of_the_code():
    root = Path(__file__).parents[2]
    rows = json.loads((root / "benchmarks/results/dense_costs.json").read_text())["rows"]
    rebuilt = {"segmentation": ("upernet", (512, 2048), "none", {"scales": (1, 1, 1, 1)}),
               "detection": ("mask_rcnn", (800, 1280), "simple", {})}  # fmt: skip
    for task, (kind, size, pyramid, options) in rebuilt.items():
        for backbone, changed in (("ViTAR 2x2", {"cells": "2x2"}), ("ViTAR 1x1, windows of 14", {"window": 14})):
            stored = next(row for row in rows if (row["task"], row["size"], row["backbone"], row["pyramid"])
                          == (task, "base", backbone, pyramid))  # fmt: skip
            with torch.device("meta"):
                model = anyres.create_model(f"{kind}_vitar_base_patch16", **options, **changed)
            found = cost(model, size, memory=False)
            assert (round(found.macs / 1e9, 1), round(found.parameters / 1e6, 1)) == (
                stored["macs"],
                stored["parameters"],
            )
            assert {part: round(macs / 1e9, 1) for part, macs in found.parts.items()} == stored["parts"]
    section = (
        (root / "docs/performance.md").read_text().split("## Costs of detection and segmentation")[1].split("\n## ")[0]
    )
    known = {f"{value}" for row in rows for value in row.values() if isinstance(value, float)}
    printed = [number for line in section.splitlines() if line[:1] == "|" for number in re.findall(r"\d+\.\d", line)]
    assert len(printed) > 80 and set(printed) <= known
