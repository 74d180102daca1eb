"""What loaders are made of: seeded draws, reading by index, worker processes that change neither order nor errors."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from anyres.data.decode import read_image


@dataclass(frozen=True)
class ImageReader:
    """Images by index."""

    paths: Sequence[Path]
    max_pixels: int
    channels: int

    def __call__(self, index: int) -> Image.Image:
        return read_image(self.paths[index], max_pixels=self.max_pixels, channels=self.channels)


class Numbered(Dataset):
    """Whole batches by number; errors travel as values, since a loader process would rewrite their message."""

    def __init__(self, make: Callable) -> None:
        self.make = make

    def __getitem__(self, number: int) -> object:
        try:
            return self.make(number)
        except ValueError as error:
            return error


def _itself(item: object) -> object:
    return item


def run_in_order(items: Numbered, numbers: range, num_workers: int) -> Iterator:
    """Batches in order. The loader's own draw comes from a generator of its own, so that training's is untouched."""
    loader: DataLoader = DataLoader(
        items, batch_size=None, sampler=numbers, num_workers=num_workers, collate_fn=_itself,
        generator=torch.Generator(),
    )  # fmt: skip
    for item in loader:
        if isinstance(item, ValueError):
            raise item
        yield item


def check_counts(batch_size: int, num_workers: int) -> None:
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; allowed: 1 and more")
    if num_workers < 0:
        raise ValueError(f"num_workers is {num_workers}; allowed: 0 and more, 0 for none")
