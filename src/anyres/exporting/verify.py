"""Is an exported file the model? Both answer images of random sizes, and the worst difference is told."""

import math
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from anyres.models.vitar import ViTAR
from anyres.sizes import Size, size_text

TOLERANCE = 1e-4
PRIMES = (2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 211, 307, 509)

Run = Callable[[Tensor], Mapping[str, np.ndarray]]


@dataclass(frozen=True)
class Difference:
    """Of one size: the greatest difference of each output, relative to its greatest value."""

    size: Size
    batch: int
    of: dict[str, float]

    @property
    def worst(self) -> float:
        return max(self.of.values())


def draw_sizes(count: int, largest: int, most_pixels: int, seed: int = 0) -> list[Size]:
    """So many (height, width): one pixel, the longest sides, primes, 1:50, and anything else up to so many pixels."""
    draw = random.Random(seed)
    thin = max(1, min(most_pixels // largest, largest // 50))
    fixed = [(1, 1), (largest, 1), (1, largest), (largest, thin), (thin, largest)]
    square = min(math.isqrt(most_pixels), largest)
    fixed += [(square, square)]
    found = fixed[:count]
    while len(found) < count:
        if draw.random() < 0.3:
            size = draw.choice(PRIMES), draw.choice(PRIMES)
        else:
            area, aspect = math.exp(draw.uniform(0, math.log(most_pixels))), math.exp(draw.uniform(-4, 4))
            size = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        height, width = (min(max(side, 1), largest) for side in size)
        if height * width <= most_pixels:
            found.append((height, width))
    return found


@torch.inference_mode()
def compare(
    model: ViTAR, run: Run, sizes: list[Size], *, uint8: bool = False, seed: int = 0, progress: bool = False
) -> list[Difference]:
    """The differences at every size, batches of 1 to 3 of noise where images are small.

    Args:
        model: the original, in evaluation, in float32.
        run: normalised images (B, C, H, W) -> outputs by name.
        sizes: (height, width) each.
        uint8: the images' pixels are whole, as the file takes them.
        seed: of noise and batches.
        progress: shows a bar.
    """
    draw = torch.Generator().manual_seed(seed)
    mean, std = (torch.tensor(each)[:, None, None] for each in (model.config.mean, model.config.std))
    found = []
    for number, (height, width) in enumerate(tqdm(sizes, desc="verifying", unit="size", disable=not progress)):
        batch = 1 + number % 3 if height * width < 2**16 else 1
        shape = (batch, model.config.in_channels, height, width)
        if uint8:
            images = (torch.randint(0, 256, shape, generator=draw) / 255 - mean) / std
        else:
            images = torch.randn(shape, generator=draw)
        features = model.forward_features(images)
        expected = {"pooled": features.pooled, "tokens": features.tokens}
        if model.config.num_classes:
            expected["logits"] = model.forward_head(features)
        given = run(images)
        of = {}
        for name, value in expected.items():
            assert isinstance(value, Tensor)
            answer = torch.from_numpy(np.asarray(given[name]))
            if answer.shape != value.shape:
                raise ValueError(
                    f"{name} of {height}x{width} pixels is {tuple(answer.shape)} there, {tuple(value.shape)} here."
                )
            error = ((answer - value).abs().max() / value.abs().max().clamp(min=1e-6)).item()
            of[name] = error if error == error else math.inf
        found.append(Difference((height, width), batch, of))
    return found


def table(differences: list[Difference], rows: int = 5) -> str:
    """The worst sizes first, and how many there were."""
    worst = sorted(differences, key=lambda each: -each.worst)[:rows]
    names = list(worst[0].of)
    lines = [f"{'height x width':>16}  {'batch':>5}  " + "  ".join(f"{name:>9}" for name in names)]
    for each in worst:
        numbers = "  ".join(f"{each.of[name]:9.1e}" for name in names)
        lines.append(f"{size_text(each.size):>16}  {each.batch:>5}  {numbers}")
    pixels = max(each.size[0] * each.size[1] for each in differences)
    return "\n".join(lines) + f"\nthe worst of {len(differences)} sizes of up to {pixels} pixels"
