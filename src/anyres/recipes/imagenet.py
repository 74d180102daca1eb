"""ImageNet-1k as the papers train on it: ViTAR, DeiT and ResFormer, small and base; and our own model as ViTAR.

Data: DIR/train and DIR/val, each with one folder of images for each of the 1000 classes. All recipes are DeiT's
(arXiv 2012.12877, table 9, and its code) with what the other papers change: AdamW, batches of 1024, learning rate
1e-3, weight decay 0.05, a cosine after 5 epochs of warm-up, drop path 0.1, RandAugment, random erasing, mixup, cutmix,
label smoothing, every image three times in a row (repeated augmentation).

Hours are those of one RTX 3090, by the formula of `hours.training_hours`:

    hours = 3 * forward multiply-accumulates (MACs) per image * images / (MACs per second) / 3600

with the rates that timm measured for whole training steps of DeiT in mixed precision, data loading excluded (its file
results/benchmark-train-amp-nchw-pt112-cu113-rtx3090.csv): 1054 images/s of DeiT-S are 3 * 4.60e9 * 1054 = 14.5e12 MACs
per second, 391 images/s of DeiT-B are 3 * 17.56e9 * 391 = 20.6e12. That the other models sustain as much is assumed,
not measured; `benchmarks/training.py` measures on the machine that runs it how far it holds. For other hardware,
`anyres recipe NAME --data DIR --out RUN --show --macs-per-second RATE` computes the hours.

Memory: DeiT's pieces of 128 images fit into 24 GB (timm's runs had 384 and 192 images). For the others it was not
measured; a larger --accumulate makes the pieces smaller. None of these runs has been carried out with this code.

Where these runs differ from the authors':
- one process and one device; `accumulate` replaces the authors' eight, with the result of the whole batch but for drop
  path, drawn for each piece; mixup draws once for a batch, theirs once for each device;
- bfloat16 for their float16;
- the learning rate changes at every step, DeiT's at every epoch, and its cosine begins beneath the warm-up;
- no running average of the weights: the authors keep one, but report the raw weights;
- no ten epochs of cool-down: DeiT's code names them, but stops after epoch 300, before they begin;
- Glorot's initialisation (docs/architecture.md), the authors' has a standard deviation of 0.02.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from anyres.recipes.beyond import hold_beyond
from anyres.training.classification.config import TrainConfig

STEPS_PER_EPOCH = 1251  # of 1024 images: 1 281 167 without the incomplete last batch
SMALL_RATE, BASE_RATE = 14.5e12, 20.6e12  # MACs per second of one RTX 3090, see above

VITAR_SIZES = ("224", "448", "672", "896", "1120")
ASPECTS = (0.5, 2.0)
RESFORMER_SIZES = ("224", "160", "128")


def deit_small(data: Path, out: Path) -> TrainConfig:
    """DeiT-S at 224 pixels, 300 epochs.

    Command: `anyres recipe deit_small --data DIR --out RUN`. Hardware: one GPU with 24 GB.
    Time: 3 * 4.60e9 MACs * 384.3e6 images / 14.5e12 / 3600 = 102 hours.
    Paper: 79.8 % top-1 at 224 (DeiT's authors: 79.9); 75.9 at 448, 16.4 at 1120 (ViTAR, table 1).
    """
    return _deit_recipe(data, out, "deit_small_patch16")


def deit_base(data: Path, out: Path) -> TrainConfig:
    """DeiT-B at 224 pixels, 300 epochs.

    Command: `anyres recipe deit_base --data DIR --out RUN`. Hardware: one GPU with 24 GB.
    Time: 3 * 17.56e9 MACs * 384.3e6 images / 20.6e12 / 3600 = 273 hours.
    Paper: 81.8 % top-1 at 224; 79.8 at 448, 50.1 at 1120 (ViTAR, table 1).
    """
    return _deit_recipe(data, out, "deit_base_patch16")


def vitar_small(data: Path, out: Path) -> TrainConfig:
    """ViTAR-S, each step at one of five sizes, 300 epochs.

    The paper says "DeiT's strategy", and names optimiser, learning rate, decay, batch and augmentation. It leaves open
    epochs, warm-up, drop path, repeated augmentation (taken from DeiT) and its layer decay (off here). Its printed
    costs are those of a convolutional stem (`vitar_small_conv16`), its text's those of this model.

    Command: `anyres recipe vitar_small --data DIR --out RUN`. Hardware: one GPU, memory not measured.
    Time: 3 * (4.86 + 5.39 + 6.48 + 7.50 + 9.40)e9 / 5 MACs * 384.3e6 images / 14.5e12 / 3600 = 149 hours; a GPU is
    less well used by the merger, whose products are element by element, than by the trunk. Decoding and augmenting at
    1120 pixels needs many cores.
    Paper: 80.3 % top-1 at 224, 82.6 at 448, 83.1 at 1120, 82.3 at 2240, 78.6 at 4032 (table 1).
    """
    return replace(_deit_recipe(data, out, "vitar_small_patch16"), sizes=VITAR_SIZES)


def vitar_base(data: Path, out: Path) -> TrainConfig:
    """ViTAR-B, each step at one of five sizes, 300 epochs; what is open, see `vitar_small`.

    Command: `anyres recipe vitar_base --data DIR --out RUN`. Hardware: one GPU, memory not measured.
    Time: 3 * (18.63 + 20.39 + 24.13 + 27.41 + 33.95)e9 / 5 MACs * 384.3e6 images / 20.6e12 / 3600 = 387 hours.
    Paper: 81.9 % top-1 at 224, 83.2 at 448, 83.3 at 1120, 82.8 at 2240, 80.4 at 4032 (table 1).
    """
    return replace(_deit_recipe(data, out, "vitar_base_patch16"), sizes=VITAR_SIZES)


def anyres_small(data: Path, out: Path) -> TrainConfig:
    """Our model as `vitar_small` trains ViTAR-S, and every step at an aspect between 1:2 and 2:1.

    Its merger sees every cell also from afar, its positions are rotary in the trunk, and its grid follows the shape of
    the image, which must have been seen in training. No step at a far size is needed: on our small sets it holds
    without.

    Command: `anyres recipe anyres_small --data DIR --out RUN`. Hardware: one GPU, memory not measured.
    Time: 3 * (5.17 + 5.78 + 6.64 + 8.17 + 9.92)e9 / 5 MACs * 384.3e6 images / 14.5e12 / 3600 = 158 hours.
    Paper: has no such model. Nor have we one of this size: the evidence (docs/results.md) is from small models.
    """
    return _ours(data, out, "anyres_small_patch16")


def anyres_base(data: Path, out: Path) -> TrainConfig:
    """Our model as `vitar_base` trains ViTAR-B, and every step at an aspect between 1:2 and 2:1, see `anyres_small`.

    Command: `anyres recipe anyres_base --data DIR --out RUN`. Hardware: one GPU, memory not measured.
    Time: 3 * (19.76 + 21.73 + 24.41 + 29.39 + 35.02)e9 / 5 MACs * 384.3e6 images / 20.6e12 / 3600 = 405 hours.
    Paper: has no such model, nor have we.
    """
    return _ours(data, out, "anyres_base_patch16")


def vitar_small_far(data: Path, out: Path) -> TrainConfig:
    """ViTAR-S not as the paper trains it, but as held furthest beyond the training sizes on one of our small sets.

    `vitar_small` with `hold_beyond`: a convolution in the trunk for positions, and one step in twenty at 2976 pixels.

    Command: `anyres recipe vitar_small_far --data DIR --out RUN --accumulate 64`. Hardware: one GPU, memory not
    measured.
    Time: 3 * (4.86 + 5.39 + 6.47 + 7.48 + 9.37 + 0.25 * 35.80)e9 / 5.25 MACs * 384.3e6 images / 14.5e12 / 3600 =
    179 hours.
    Paper: has no such model. Nor have we one of this size: the evidence (docs/results.md) is from small models.
    """
    return hold_beyond(vitar_small(data, out))


def vitar_base_far(data: Path, out: Path) -> TrainConfig:
    """ViTAR-B, as `vitar_small_far`.

    Command: `anyres recipe vitar_base_far --data DIR --out RUN --accumulate 64`. Hardware: one GPU, memory not
    measured.
    Time: 3 * (18.63 + 20.38 + 24.11 + 27.37 + 33.88 + 0.25 * 122.09)e9 / 5.25 MACs * 384.3e6 images / 20.6e12 / 3600 =
    459 hours.
    Paper: has no such model, nor have we.
    """
    return hold_beyond(vitar_base(data, out))


def resformer_small(data: Path, out: Path) -> TrainConfig:
    """ResFormer-S-MR: every image at 224, 160 and 128 pixels in every step, with the consistency loss, 300 epochs.

    Command: `anyres recipe resformer_small --data DIR --out RUN`. Hardware: one GPU, memory not measured.
    Time: 3 * (4.61 + 2.27 + 1.44)e9 MACs * 384.3e6 images / 14.5e12 / 3600 = 184 hours.
    Paper: 78.2 % top-1 at 128, 80.4 at 160, 82.2 at 224, 82.5 at 448 (ResFormer, table 1); 62.7 at 1120 (ViTAR).
    """
    config = _deit_recipe(data, out, "resformer_small_patch16")
    return replace(config, sizes=RESFORMER_SIZES, replicas=True, consistency=1.0)


def resformer_base(data: Path, out: Path) -> TrainConfig:
    """ResFormer-B-MR: as the small one, but 200 epochs, 20 of warm-up, lr 1.6e-3, drop path 0.2 and clipping at 5.

    Command: `anyres recipe resformer_base --data DIR --out RUN`. Hardware: one GPU, memory not measured.
    Time: 3 * (17.58 + 8.84 + 5.64)e9 MACs * 256.2e6 images / 20.6e12 / 3600 = 332 hours.
    Paper: 79.7 % top-1 at 128, 81.5 at 160, 82.7 at 224, 82.9 at 448 (ResFormer, table 1); 68.6 at 1120 (ViTAR).
    """
    config = _deit_recipe(data, out, "resformer_base_patch16", epochs=200, warmup_epochs=20, drop_path=0.2)
    return replace(config, sizes=RESFORMER_SIZES, replicas=True, consistency=1.0, lr=1.6e-3, clip_grad=5.0)


def _ours(data: Path, out: Path, model: str) -> TrainConfig:
    return replace(_deit_recipe(data, out, model), sizes=VITAR_SIZES, aspect=ASPECTS)


def _deit_recipe(
    data: Path, out: Path, model: str, *, epochs: int = 300, warmup_epochs: int = 5, drop_path: float = 0.1
) -> TrainConfig:
    """What all share. TrainConfig's own defaults are DeiT's too: weight decay, betas, augmentation, mixing."""
    return TrainConfig(
        data=data, out=out, model=model, model_options={"drop_path_rate": drop_path}, sizes=("224",),
        steps=epochs * STEPS_PER_EPOCH, warmup_steps=warmup_epochs * STEPS_PER_EPOCH, batch_size=1024, accumulate=8,
        lr=1e-3, min_lr=1e-5, repeats=3, precision="bfloat16", num_workers=16, checkpoint_every=STEPS_PER_EPOCH,
        log_every=50,
    )  # fmt: skip


RECIPES: dict[str, Callable[[Path, Path], TrainConfig]] = {
    function.__name__: function
    for function in (
        anyres_small, anyres_base, vitar_small, vitar_base, vitar_small_far, vitar_base_far, deit_small, deit_base,
        resformer_small, resformer_base,
    )
}  # fmt: skip
