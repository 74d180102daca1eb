"""Masked auto-encoding on ImageNet-1k: ViTAR-B, our own model and ViT-B pre-trained without labels, then fine-tuned.

Data, hours and hardware as in `recipes/imagenet.py`; pre-training reads DIR/train without its labels. Of the rate of
20.6e12 MACs per second, measured for whole training steps of DeiT-B, it is assumed, not measured, that pre-training
sustains it too: a decoder of width 512 and sets of 49 tokens use a GPU less well. `benchmarks/mae.py` measures on the
machine that runs it. The counted products include the resizing of what is to be restored, which has no backward pass:
under 1 %.

The settings are those of MAE (arXiv 2111.06377, tables 8 and 9, and its code). Of ViTAR with MAE its paper (section
4.4, table 6) states the sizes and 300 epochs before 100: what is hidden, how much, what is to be restored and with
which learning rate is open. Here: MAE's 75 %, of the cells of the final grid; for each the 16x16 normalised pixels
that its own rectangle is resized to; MAE's rates; every step of both at one of the five sizes, all alike.

Memory was not measured; --accumulate makes the pieces smaller. None of these runs has been carried out with this code.

Where these runs differ from MAE's code:
- one process and one device; `accumulate` replaces its 64 (fine-tuning: 32), with the result of the whole batch but for
  drop path, drawn for each piece; mixup draws once for a batch, MAE's once for each device;
- bfloat16 for its float16;
- the warm-up begins at a thousandth of the learning rate, MAE's at 0;
- fine-tuning reads the mean of the tokens after the final norm, which goes on from pre-training; MAE's leaves that norm
  out and normalises the mean by a fresh one (fc_norm), which learns as fast as the head: the norm here has the rate of
  the last block, 0.65 of it. The new head starts with a standard deviation of 0.02, MAE's with 2e-5;
- ViTAR's merger has a layer of its own between embedding and first block in the decay of learning rates, so that its
  embedding learns 0.65 times as fast as ViT's;
- the sin-cos positions of ViT stay fixed in fine-tuning; MAE's code trains them on from there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from anyres.recipes.imagenet import ASPECTS, STEPS_PER_EPOCH, VITAR_SIZES
from anyres.training.classification.config import TrainConfig
from anyres.training.pretraining.config import PretrainConfig

STEPS_PER_LARGE_EPOCH = 312  # of 4096 images: 1 281 167 without the incomplete last batch


def mae_vitar_base(data: Path, out: Path) -> PretrainConfig:
    """ViTAR-B pre-trained as a masked auto-encoder, each step at one of five sizes, 300 epochs.

    Command: `anyres recipe mae_vitar_base --data DIR --out RUN`. Hardware: one GPU, memory not measured. Then:
    `vitar_base_mae`.
    Time: 3 * (9.87 + 10.33 + 11.30 + 12.14 + 13.86)e9 / 5 MACs * 383.4e6 images / 20.6e12 / 3600 = 178 hours; decoding
    at 1120 pixels needs many cores.
    Paper: only what comes of it is measured, see `vitar_base_mae`. Open: all but sizes and epochs, see above.
    """
    return _pretraining(data, out, "mae_vitar_base_patch16", VITAR_SIZES, epochs=300)


def vitar_base_mae(data: Path, out: Path, init: Path) -> TrainConfig:
    """ViTAR-B fine-tuned from `mae_vitar_base`, each step at one of the same five sizes, 100 epochs.

    Command: `anyres recipe vitar_base_mae --init RUN --data DIR --out FINE`. Hardware: one GPU, memory not measured.
    Time: 3 * (18.63 + 20.39 + 24.13 + 27.41 + 33.95)e9 / 5 MACs * 128.1e6 images / 20.6e12 / 3600 = 129 hours.
    Paper: 82.5 % top-1 at 224, 83.2 at 384, 83.3 at 448, 83.6 at 640, 83.5 at 1120, 83.6 at 1792, 83.3 at 2240, 82.6
    at 3360, 82.0 at 4032 (table 6); with sin-cos positions 82.0 at 224, 82.5 at 1120, 80.6 at 2240, 77.4 at 4032
    (table 8). So at 224 it is below ViT-B with MAE (83.6); what it wins it wins at large sizes. Open: the settings of
    fine-tuning, here MAE's.
    """
    return _fine_tuning(data, out, init, "vitar_base_patch16", VITAR_SIZES)


def mae_anyres_base(data: Path, out: Path) -> PretrainConfig:
    """Our model pre-trained as `mae_vitar_base`, at an aspect between 1:2 and 2:1.

    Three sizes, since images are brought to 1, 2, 4 ... times the final grid first, so that nothing of what is hidden
    is seen from afar: 672 and 1120 pixels would both be 896.

    Command: `anyres recipe mae_anyres_base --data DIR --out RUN`. Hardware: one GPU, memory not measured. Then:
    `anyres_base_mae`.
    Time: 3 * (9.74 + 10.21 + 12.08)e9 / 3 MACs * 383.4e6 images / 20.6e12 / 3600 = 166 hours.
    Paper: has no such model, nor have we.
    """
    run = _pretraining(data, out, "mae_anyres_base_patch16", ("224", "448", "896"), epochs=300)
    return replace(run, aspect=ASPECTS)


def anyres_base_mae(data: Path, out: Path, init: Path) -> TrainConfig:
    """Our model fine-tuned from `mae_anyres_base` as `vitar_base_mae`, at an aspect between 1:2 and 2:1.

    Command: `anyres recipe anyres_base_mae --init RUN --data DIR --out FINE`. Hardware: one GPU, memory not measured.
    Time: 3 * (19.76 + 21.73 + 24.41 + 29.39 + 35.02)e9 / 5 MACs * 128.1e6 images / 20.6e12 / 3600 = 135 hours.
    Paper: has no such model, nor have we.
    """
    return replace(_fine_tuning(data, out, init, "anyres_base_patch16", VITAR_SIZES), aspect=ASPECTS)


def mae_vit_base(data: Path, out: Path) -> PretrainConfig:
    """ViT-B pre-trained as MAE's own code does, at 224 pixels, 800 epochs.

    Command: `anyres recipe mae_vit_base --data DIR --out RUN`. Hardware: one GPU, memory not measured. Then:
    `vit_base_mae`.
    Time: 3 * 9.70e9 MACs * 1022.4e6 images / 20.6e12 / 3600 = 401 hours.
    Paper: only what comes of it is measured, see `vit_base_mae`.
    """
    return _pretraining(data, out, "mae_vit_base_patch16", ("224",), epochs=800)


def vit_base_mae(data: Path, out: Path, init: Path) -> TrainConfig:
    """ViT-B fine-tuned from `mae_vit_base`, or from MAE's published weights, at 224 pixels, 100 epochs.

    Command: `anyres recipe vit_base_mae --init RUN --data DIR --out FINE`. Hardware: one GPU, memory not measured.
    Time: 3 * 17.56e9 MACs * 128.1e6 images / 20.6e12 / 3600 = 91 hours.
    Paper: 83.6 % top-1 at 224 (MAE; 83.46 to 83.66 in four runs of its code), 81.0 at 384, 77.5 at 448, 66.1 at 640,
    38.6 at 1120, 13.4 at 1792 (ViTAR, table 6), all after 1600 epochs of pre-training. Open: the same after 800.
    """
    return _fine_tuning(data, out, init, "deit_base_patch16", ("224",), position="sincos", pool="mean")


def _pretraining(data: Path, out: Path, model: str, sizes: tuple[str, ...], *, epochs: int) -> PretrainConfig:
    """What both share. PretrainConfig's own defaults are MAE's too: weight decay, betas, augmentation."""
    return PretrainConfig(
        data=data, out=out, model=model, sizes=sizes, steps=epochs * STEPS_PER_LARGE_EPOCH,
        warmup_steps=40 * STEPS_PER_LARGE_EPOCH, batch_size=4096, accumulate=32, lr=1.5e-4 * 4096 / 256,
        precision="bfloat16", num_workers=16, checkpoint_every=STEPS_PER_LARGE_EPOCH,
        validate_every=20 * STEPS_PER_LARGE_EPOCH, log_every=10,
    )  # fmt: skip


def _fine_tuning(data: Path, out: Path, init: Path, model: str, sizes: tuple[str, ...], **options: Any) -> TrainConfig:
    """What both share. TrainConfig's own defaults are MAE's too: weight decay, betas, augmentation, mixing."""
    return TrainConfig(
        data=data, out=out, init=init, model=model, model_options={"drop_path_rate": 0.1, **options}, sizes=sizes,
        steps=100 * STEPS_PER_EPOCH, warmup_steps=5 * STEPS_PER_EPOCH, batch_size=1024, accumulate=8, lr=2e-3,
        min_lr=1e-6, layer_decay=0.65, precision="bfloat16", num_workers=16, checkpoint_every=STEPS_PER_EPOCH,
        log_every=50,
    )  # fmt: skip


PRETRAINING: dict[str, Callable[[Path, Path], PretrainConfig]] = {
    function.__name__: function for function in (mae_anyres_base, mae_vitar_base, mae_vit_base)
}
FINE_TUNING: dict[str, Callable[[Path, Path, Path], TrainConfig]] = {
    function.__name__: function for function in (anyres_base_mae, vitar_base_mae, vit_base_mae)
}
STARTS = {
    "anyres_base_mae": "mae_anyres_base", "vitar_base_mae": "mae_vitar_base", "vit_base_mae": "mae_vit_base"
}  # fmt: skip
"""The recipe whose run each starts from."""
