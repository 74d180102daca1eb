"""Loops of the benchmarks that train small models on generated scenes without the engine."""

import math
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from anyres.data.augment import TrainAugment
from anyres.data.folder import ImageFolder
from anyres.data.transforms import eval_transform, train_transform
from anyres.models.config import ViTARConfig
from anyres.sizes import Size

Scenes = tuple[list[Image.Image], Tensor]
_MILD = TrainAugment(
    scale=(0.8, 1.0), ratio=(0.9, 1.1), hflip=0.0, auto_augment=None, erasing=0.0, interpolation="bilinear"
)


def seed_all(seed: int) -> None:
    """Transforms draw from all three."""
    for each in (random.seed, np.random.seed, torch.manual_seed):
        each(seed)


def read_scenes(folder: Path) -> Scenes:
    """All images of class folders, decoded, and their labels (N,)."""
    found = ImageFolder(folder)
    return [Image.open(path).convert("RGB") for path in found.paths], torch.tensor(found.labels)


def training_batch(
    scenes: Scenes, size: Size, config: ViTARConfig, draw: np.random.Generator, count: int
) -> tuple[Tensor, Tensor]:
    """Mildly augmented images (count, C, H, W) and their labels (count,)."""
    pictures, labels = scenes
    transform = train_transform(size, _MILD, config.mean, config.std)
    chosen = draw.choice(len(pictures), count, replace=False)
    return torch.stack([transform(pictures[index]) for index in chosen]), labels[chosen]


def learn(model: nn.Module, batch: Callable[[int], tuple[Tensor, Tensor]], steps: int, rate: float) -> None:
    """AdamW on what needs a gradient, a cosine after a short warm-up; `batch(step)` gives images and labels."""
    learned = [value for value in model.parameters() if value.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=rate, betas=(0.9, 0.99), weight_decay=0.05)
    warmup = max(steps // 20, 1)
    cosine = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, 0.5 + 0.5 * math.cos(math.pi * step / max(steps, 1)))
    )
    for step in range(steps):
        images, labels = batch(step)
        nn.functional.cross_entropy(model(images), labels).backward()
        nn.utils.clip_grad_norm_(learned, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        cosine.step()


@torch.inference_mode()
def top1(answer: Callable[[Tensor], Tensor], scenes: Scenes, size: Size, config: ViTARConfig) -> float:
    """Top-1 in per cent; `answer` makes logits of images (B, C, H, W)."""
    pictures, labels = scenes
    transform = eval_transform(size, config.mean, config.std)
    answers = [answer(torch.stack([transform(each) for each in pictures[start : start + 20]])).argmax(1)
               for start in range(0, len(pictures), 20)]  # fmt: skip
    return 100 * (torch.cat(answers) == labels).float().mean().item()
