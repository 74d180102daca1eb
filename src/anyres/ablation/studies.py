"""The studies as data: what is compared with what, and the paper's table beside it.

All models share stem, width, depth and heads; a variant names what differs. In miniature 32 pixels stand for the
paper's 224, and the largest training size, 96 in most studies, for its 1120. `held` is no table of the paper's: it asks
whether accuracy holds up to 32 times the largest training size, on sets where resizing harms and where it does not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from anyres.ablation.config import SetName
from anyres.ablation.study import Pretraining, Study, Variant
from anyres.report.paper import TABLE_1_SMALL, TABLE_6, TABLE_7, TABLE_8, TABLE_9

DEIT, RESFORMER = "deit_tiny_patch16", "resformer_tiny_patch16"

_AS_TRAINED = {224: 32, 448: 64, 1120: 96, 2240: 192, 4032: 384}
_ONE_SIZE = {"sizes": ("32",), "size_weights": None}
_REPLICAS = {"size_weights": None, "replicas": True, "consistency": 1.0}
_CONDITIONAL = {"position": "conditional", "placement": "trunk"}
_HEAVY_RANGE = {"sizes": ("32", "64", "96", "96-256"), "size_weights": (1.0, 1.0, 2.0, 0.2)}
_HEAVY_TAIL = {"sizes": ("32", "64", "96", "256"), "size_weights": (1.0, 1.0, 2.0, 0.2)}


# In every study, since the paper's rows were trained at other sizes than ViTAR.
_RIVALS = (
    Variant(name="deit-vitar-sizes", text="DeiT trained on ViTAR's sizes, one size a step", model=DEIT),
    Variant(
        name="resformer-vitar-sizes", text="ResFormer trained on replicas at ViTAR's sizes, consistency loss",
        model=RESFORMER, training=_REPLICAS,
    ),
)  # fmt: skip

POSITIONS = Study(
    name="positions",
    title="Positional encodings",
    question="Which positional encoding lets ViTAR hold at sizes that it was not trained at (Table 8 of the paper)?",
    table=TABLE_8,
    landmarks=_AS_TRAINED,
    variants=(
        Variant(
            name="fuzzy", text="the paper's: a learned table, read at jittered places while training",
            placement="before the merger, on every patch", paper="fuzzy (FPE)",
        ),
        Variant(
            name="learned", text="the same table without jitter", placement="before the merger, on every patch",
            options={"position": "learned"},
        ),
        Variant(
            name="sincos", text="MAE's fixed sines and cosines", placement="before the merger, on every patch",
            options={"position": "sincos"}, paper="sin-cos absolute (APE)",
        ),
        Variant(
            name="conditional-before", text="PEG, a depthwise 3x3 convolution of the tokens",
            placement="before the merger; sees one patch around",
            options={"position": "conditional", "placement": "before"},
            paper="conditional (CPE)",
        ),
        Variant(
            name="conditional-trunk", text="PEG, a depthwise 3x3 convolution of the tokens",
            placement="in the trunk, on a constant grid", options={"position": "conditional", "placement": "trunk"},
            paper="conditional (CPE)",
        ),
        Variant(
            name="global-local-trunk",
            text="ResFormer's: convolved sines and cosines, and a convolution of the values",
            placement="global part before the merger, local part in every trunk block, on a constant grid",
            options={"position": "global_local", "placement": "trunk"}, paper="global-local (GLPE)",
        ),
        Variant(
            name="global-local-before",
            text="ResFormer's: convolved sines and cosines, and a convolution of the tokens",
            placement="both parts before the merger; the local one sees one patch around",
            options={"position": "global_local", "placement": "before"}, paper="global-local (GLPE)",
        ),
        Variant(
            name="relative-bias", text="Swin's table of biases on the attention logits",
            placement="in every trunk block, on a constant grid", options={"position": "relative_bias"},
            paper="relative bias (RPB)",
        ),
        Variant(
            name="rotary", text="DINOv3's axial rotation of queries and keys",
            placement="in every trunk block, on a constant grid", options={"position": "rotary"},
        ),
        Variant(
            name="rotary-rescale", text="the same with its box scaled by up to 2 while training",
            placement="in every trunk block, on a constant grid", options={"position": "rotary", "rescale": 2.0},
        ),
        Variant(name="none", text="no positional encoding at all", placement="nowhere", options={"position": "none"}),
        *_RIVALS,
    ),
)  # fmt: skip

MERGERS = Study(
    name="mergers",
    title="Mergers",
    question="What does grid attention add over simpler ways to reach a fixed grid (Table 7 of the paper)?",
    table=TABLE_7,
    landmarks=_AS_TRAINED,
    variants=(
        Variant(
            name="grid-attention", text="the paper's adaptive token merger, halving the grid level by level",
            paper="adaptive token merger",
        ),
        Variant(
            name="balanced-cells", text="grid attention on cells that differ by at most one patch",
            options={"cells": "balanced"},
        ),
        Variant(
            name="average", text="the mean of each cell in one go, balanced cells", options={"merger": "average"},
            paper="average pooling",
        ),
        Variant(
            name="concat", text="2x2 cells concatenated and projected, level by level (Swin's patch merging)",
            options={"merger": "concat"},
        ),
        Variant(
            name="none", text="no merger: a plain ViT with learned positions, trained at all the sizes",
            options={"merger": "none", "position": "learned"},
        ),
        Variant(
            name="tome", text="no merger; every block merges 30 % of the tokens that are most alike (ToMe)",
            placement="in every trunk block", options={"merger": "none", "position": "learned", "tome": 0.3},
        ),
        *_RIVALS,
    ),
)  # fmt: skip

TRAINING_SIZES = Study(
    name="training-sizes",
    title="Training sizes",
    question="How many training sizes does it take to hold beyond them (Table 9 of the paper)?",
    table=TABLE_9,
    landmarks={224: 32, 448: 64, 1120: 160, 2240: 320, 4032: 576},
    variants=tuple(
        Variant(
            name=f"32-to-{sizes[-1]}", text=f"trained at {', '.join(sizes)}, each as often as the others",
            training={"sizes": sizes, "size_weights": None}, paper=row,
        )
        for sizes, row in zip(
            [("32", "64", "96", "128", "160")[:count] for count in (5, 4, 3, 2)], TABLE_9.rows, strict=True
        )
    ) + _RIVALS,
)  # fmt: skip

TABLE_1 = Study(
    name="table1",
    title="ViTAR, DeiT and ResFormer",
    question="How do the models compare beyond their training sizes, and with rivals trained on ViTAR's own sizes, "
    "which the paper's were not (Table 1 of the paper)?",
    table=TABLE_1_SMALL,
    landmarks=_AS_TRAINED,
    variants=(
        Variant(name="vitar", text="trained at 32, 64, 96, one size a step", paper="ViTAR-S"),
        Variant(
            name="deit", text="as in the paper: trained at the smallest size", model=DEIT, training=_ONE_SIZE,
            paper="DeiT-S",
        ),
        Variant(
            name="resformer", text="as in the paper: replicas of every image at three sizes up to DeiT's, consistency "
            "loss. 16, 24, 32 are the whole patches nearest to the ratio 128 : 160 : 224",
            model=RESFORMER, training={"sizes": ("16", "24", "32"), **_REPLICAS}, paper="ResFormer-S",
        ),
        *_RIVALS,
        Variant(
            name="resformer-vitar-sizes-single", text="trained on ViTAR's sizes, one size a step, as ViTAR is",
            model=RESFORMER,
        ),
    ),
)  # fmt: skip

EXTRAPOLATION = Study(
    name="extrapolation",
    title="Beyond the largest training size",
    question="Which training or merger holds at four times the largest size of any training step, at equal cost of "
    "training?",
    table=TABLE_1_SMALL,
    landmarks=_AS_TRAINED,
    equal_cost=True,
    variants=(
        Variant(name="paper", text="the paper's recipe", paper="ViTAR-S"),
        Variant(
            name="extra-1", text="while training, random 1x1 passes of the shared block, up to 1 at the end",
            options={"extra_passes": 1},
        ),
        Variant(
            name="extra-2", text="while training, random 1x1 passes of the shared block, up to 2 at the end",
            options={"extra_passes": 2},
        ),
        Variant(name="heavy-tail", text="one step in twenty at 256 pixels", training=_HEAVY_TAIL),
        Variant(
            name="log-uniform", text="any size from 32 to 96, log-uniform, and aspect ratios from 1:2 to 2:1",
            training={"sizes": ("32-96",), "size_weights": None, "aspect": (0.5, 2.0)},
        ),
        Variant(
            name="balanced-cells", text="cells that differ by at most one patch", options={"cells": "balanced"},
        ),
        Variant(name="mean-start", text="grid attention that starts as the mean", options={"start": "mean"}),
        Variant(
            name="scale-query", text="the query is told how many patches a cell holds", options={"scale_query": True},
        ),
        Variant(
            name="learned-levels", text="plain means at the levels beyond the deepest trained one",
            options={"learned_levels": 2},
        ),
        Variant(
            name="conditional-trunk", text="PEG in the trunk, where it meets a constant grid; no fuzzy positions",
            placement="in the trunk, on a constant grid", options=_CONDITIONAL,
        ),
        Variant(
            name="conditional-trunk+heavy-tail", text="two together", placement="in the trunk, on a constant grid",
            options=_CONDITIONAL, training=_HEAVY_TAIL,
        ),
        Variant(
            name="conditional-trunk+heavy-range", text="one step in twenty at any size from 96 to 256 pixels",
            placement="in the trunk, on a constant grid", options=_CONDITIONAL, training=_HEAVY_RANGE,
        ),
        Variant(
            name="conditional-trunk+extra-1+heavy-tail", text="three together",
            placement="in the trunk, on a constant grid", options={**_CONDITIONAL, "extra_passes": 1},
            training=_HEAVY_TAIL,
        ),
        Variant(
            name="extra-1+heavy-tail", text="two together", options={"extra_passes": 1}, training=_HEAVY_TAIL,
        ),
    ),
)  # fmt: skip

_SINCOS = {"position": "sincos"}
_ONE_LEVEL = {"full_levels": 1}  # on a grid of 6x6 the largest training size, of 12x12 patches, merges once
_MAE_VIT = {**_SINCOS, "pool": "mean"}
_ONE_SIZE_48 = {"sizes": ("48",), "size_weights": None}


def _fine_tuned(percent: int, step_share: float) -> tuple[Variant, ...]:
    """The seven ways to a classifier with that many of the labels."""
    labels: dict[str, Any] = {"label_share": percent / 100}
    panel = f"{percent} % of the labels"
    shared: dict[str, Any] = {"panel": panel, "step_share": step_share}
    paper = dict.fromkeys(("fuzzy", "sincos", "vit")) if percent < 100 else {
        "fuzzy": "ViTAR + MAE (FPE)", "sincos": "ViTAR + MAE (APE)", "vit": "ViT + MAE"
    }  # fmt: skip
    return (
        Variant(
            name=f"vitar-mae-{percent}", text=f"ViTAR pre-trained with fuzzy positions, {panel}", start="vitar",
            training=labels, paper=paper["fuzzy"], **shared,
        ),
        Variant(
            name=f"vitar-sincos-mae-{percent}", text=f"ViTAR pre-trained with sin-cos positions, {panel}",
            start="vitar-sincos", options=_SINCOS, training=labels, paper=paper["sincos"], **shared,
        ),
        Variant(
            name=f"vit-mae-{percent}", text=f"an ordinary ViT pre-trained and fine-tuned at 48 pixels, {panel}",
            start="vit", model=DEIT, options=_MAE_VIT, training={**labels, **_ONE_SIZE_48}, paper=paper["vit"],
            **shared,
        ),
        Variant(
            name=f"anyres-mae-{percent}", text=f"the pyramid merger with rotary positions, pre-trained, {panel}",
            start="anyres", model="anyres_tiny_patch16", options=_ONE_LEVEL, training=labels, **shared,
        ),
        Variant(name=f"vitar-{percent}", text=f"ViTAR from random weights, {panel}", training=labels, **shared),
        Variant(
            name=f"anyres-{percent}", text=f"the pyramid merger from random weights, {panel}",
            model="anyres_tiny_patch16", options=_ONE_LEVEL, training=labels, **shared,
        ),
        Variant(
            name=f"vit-{percent}", text=f"an ordinary ViT at 48 pixels from random weights, {panel}", model=DEIT,
            options=_MAE_VIT, training={**labels, **_ONE_SIZE_48}, **shared,
        ),
    )  # fmt: skip


MAE = Study(
    name="mae",
    title="Masked auto-encoding",
    question="Does pre-training without labels hold at every size (Tables 6 and 8 of the paper), and what does it add "
    "with few labels?",
    table=TABLE_6,
    landmarks={224: 48, 448: 96, 2240: 192, 4032: 384},
    options={"grid": (6, 6)},
    training={"sizes": ("48", "64", "96"), "size_weights": None},
    pretrainings={
        "vitar": Pretraining(model="mae_vitar_tiny_patch16"),
        "vitar-sincos": Pretraining(model="mae_vitar_tiny_patch16", options=_SINCOS),
        "anyres": Pretraining(model="mae_anyres_tiny_patch16", options=_ONE_LEVEL),
        "vitar-patches": Pretraining(model="mae_vitar_tiny_patch16", options={"masking": "patches"}),
        "vit": Pretraining(model="mae_vit_tiny_patch16", training=_ONE_SIZE_48),
    },
    variants=(
        *_fine_tuned(1, 0.2),
        *_fine_tuned(10, 0.4),
        Variant(
            name="vitar-patches-mae-10",
            text="ViTAR pre-trained with patches hidden, not cells, 10 % of the labels",
            start="vitar-patches",
            training={"label_share": 0.1},
            step_share=0.4,
            panel="10 % of the labels",
        ),
        Variant(
            name="vitar-long-10",
            text="ViTAR from random weights for as many steps as pre-training and fine-tuning take, 10 % of the labels",
            training={"label_share": 0.1},
            step_share=4.4,
            panel="10 % of the labels",
        ),
        *_fine_tuned(100, 1.0),
    ),
)

_DIGITS: tuple[SetName, ...] = ("ordinary", "detail", "fine")
_LETTERS: tuple[SetName, ...] = ("ordinary-letters", "detail-letters", "fine-letters")
_ONE_SEED: Mapping[SetName, int] = dict.fromkeys(_DIGITS, 1)
_AS_THEY_ARE = 512
"""Largest side of images that models get as they are whose every patch attends to every other: one of 1024 pixels costs
them as much as 200 of 256."""

# Up to 96 pixels, of twelve patches a side, two levels merge.
_PYRAMID: Mapping[str, Any] = {"merger": "pyramid", "grid_shape": "aspect", "full_levels": 2, "position": "rotary"}

HELD = Study(
    name="held",
    title="Held at every size",
    question="Does accuracy hold from half the smallest to 32 times the largest training size, at equal cost of "
    "training: where resizing every image is a good answer (ordinary), where it costs accuracy (detail), and where it "
    "leaves little to read (fine)?",
    table=TABLE_1_SMALL,
    landmarks=_AS_TRAINED,
    sizes=(16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072),
    equal_cost=True,
    seeds={**dict.fromkeys(_DIGITS, 3), **dict.fromkeys(_LETTERS, 1)},
    quick_sets=_DIGITS,
    # small glyphs alone keep models at chance for some hundreds of steps, a number that is luck
    begins_on={
        "detail": "ordinary", "fine": "ordinary", "detail-letters": "ordinary-letters",
        "fine-letters": "ordinary-letters",
    },
    steps=1500,
    far_images=100,
    variants=(
        Variant(
            name="pyramid", text="every cell also seen from afar (merger pyramid), rotary positions in the trunk",
            placement="in the trunk, on a constant grid", options=_PYRAMID,
        ),
        Variant(name="paper", text="the paper's recipe", paper="ViTAR-S"),
        Variant(
            name="beyond", text="our best recipe with the paper's merger: one step in twenty at any size from 96 to "
            "256 pixels, positions by PEG in the trunk", placement="in the trunk, on a constant grid",
            options=_CONDITIONAL, training=_HEAVY_RANGE, seeds=_ONE_SEED,
        ),
        Variant(
            name="vit", text="an ordinary ViT (DeiT) trained on ViTAR's sizes, one size a step", model=DEIT,
            seeds=_ONE_SEED, largest=_AS_THEY_ARE,
        ),
        Variant(
            name="resformer", text="ResFormer trained on replicas at ViTAR's sizes, consistency loss", model=RESFORMER,
            training=_REPLICAS, seeds=_ONE_SEED, largest=_AS_THEY_ARE,
        ),
        Variant(
            name="vit-all-steps", text="the ordinary ViT for as many steps as ViTAR, whatever they cost", model=DEIT,
            equal_steps=True, seeds={"detail": 1}, largest=_AS_THEY_ARE,
        ),
        Variant(
            name="resformer-all-steps", text="ResFormer for as many steps as ViTAR, whatever they cost",
            model=RESFORMER, training=_REPLICAS, equal_steps=True, seeds={"detail": 1}, largest=_AS_THEY_ARE,
        ),
    ),
)  # fmt: skip

STUDIES: Mapping[str, Study] = {
    study.name: study for study in (POSITIONS, MERGERS, TRAINING_SIZES, TABLE_1, EXTRAPOLATION, MAE, HELD)
}
