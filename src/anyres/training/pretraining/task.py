"""Masked auto-encoding as a task for the engine: images without labels, the loss as the measure, and pictures."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from anyres.data.batches import Batch, View, on_device
from anyres.data.decode import read_image
from anyres.data.folder import ImageFiles
from anyres.data.own_aspect import OwnAspect
from anyres.data.transforms import Transform, eval_transform
from anyres.data.workers import ImageReader
from anyres.errors import UnreadableImageError
from anyres.files import write_picture
from anyres.models.mae import MaskedAutoencoder
from anyres.models.modes import evaluating
from anyres.models.weights.files import save
from anyres.seeds import key, permutation, seeded
from anyres.sizes import Size
from anyres.training.image_task import training_stream, validation_batches
from anyres.training.pretraining.reconstructions import Block, Restored, draw_blocks
from anyres.training.run_checks import refuse_validation

if TYPE_CHECKING:
    from anyres.training.pretraining.config import PretrainConfig

PICTURES = "reconstructions"

_INIT, _MASK = 0x4D41454E, 0x484F4C45  # keep the draws of initialisation and of the masks to measure with apart


class PretrainTask:
    """A masked auto-encoder learning the images of `config.data`, measured on those in its folder val/ if there is one.

    The run folder in the end holds the auto-encoder, from whose encoder other runs can start, and pictures of what it
    restores in reconstructions/. What is hidden of an image while measuring and drawing follows from the run's seed and
    the image's place alone.

    Raises ValueError for a folder without images or with none that can be read, for val/ without train/ beside it, and
    for settings that need val/ where there is none.
    """

    headline = ("loss", 3)

    def __init__(self, config: PretrainConfig) -> None:
        self.config = config
        self.folder, self.validation = _folders(config)
        with seeded(key(config.seed, _INIT)):
            self.model = MaskedAutoencoder(config.model_settings())
        self.settings = self.model.config.backbone
        own_aspect = self.settings.patch_size if config.own_aspect else None
        self.stream = training_stream(config, self.folder, self.settings, own_aspect=own_aspect)
        for folder in (self.folder, self.validation):
            if folder is not None:
                _check_readable(folder, config.max_pixels)

    def identity(self) -> dict[str, Any]:
        """A digest of the training files' names: another folder under the same path is another run."""
        return {"kind": "masked auto-encoding", "training files": self.folder.digest()}

    def batches(self, start: int, stop: int) -> Iterator[Batch]:
        return self.stream.batches(start, stop)

    def prepare(self, batch: Batch, device: torch.device) -> View:
        return View(images=on_device(batch.images, device), keys=batch.keys.to(device))

    def loss(self, prepared: View, rows: slice) -> Tensor:
        """The mean over the images of what is wrong with their hidden cells."""
        loss: Tensor = self.model(prepared.images[rows], prepared.keys[rows])
        return loss

    def validates(self) -> bool:
        return self.validation is not None or self.config.draw_images > 0

    @torch.no_grad()
    def validate(self, model: nn.Module, device: torch.device, step: int) -> list[dict[str, Any]]:
        """The mean loss at every training size: size, images, loss. Draws pictures of some images too."""
        assert isinstance(model, MaskedAutoencoder)
        with evaluating(model):
            rows = []
            if self.validation is not None:
                sizes = self.config.parsed_sizes()
                rows = [self._validate_at(size, self.validation, model, device) for size in sizes]
            if self.config.draw_images:
                self._draw(model, device, step)
            return rows

    def _validate_at(
        self, size: Size, folder: ImageFiles, model: MaskedAutoencoder, device: torch.device
    ) -> dict[str, Any]:
        images, total, skipped = 0, 0.0, []
        for batch in validation_batches(self.config, folder, self._transform(size), size):
            count = len(batch.indices)
            loss = model(on_device(batch.images, device), self._keys(batch.indices.tolist()).to(device))
            total += loss.item() * count
            images += count
            skipped += batch.skipped
        return {"size": list(size), "images": images, "loss": total / images, "skipped": skipped}

    def _transform(self, size: Size) -> Transform:
        """What an image is measured and drawn as: nothing is cropped but what does not fit its shape."""
        mean, std = self.settings.mean, self.settings.std
        if self.config.own_aspect:
            return OwnAspect(size=size, mean=mean, std=std, patch_size=self.settings.patch_size)
        return eval_transform(size, mean, std, crop_ratio=1.0)

    def _keys(self, indices: list[int]) -> Tensor:
        """(B,) int64, from which the masks of images are drawn."""
        return torch.tensor([key(self.config.seed, _MASK, index) for index in indices], dtype=torch.int64)

    def _draw(self, model: MaskedAutoencoder, device: torch.device, step: int) -> None:
        """One picture of the same images every time, each restored at several sizes."""
        images = list(islice(self._readable(), self.config.draw_images))
        if not images:
            return
        blocks = []
        for size in _spread(self.config.parsed_sizes()):
            transform, rows, losses = self._transform(size), [], []
            for index, image in images:
                given = transform(image)[None].to(device)  # (1, C, H, W)
                found = model.reconstruct(given, self._keys([index]).to(device))
                pictures = (found.images, found.masked, found.output)
                rows.append(Restored(*(picture[0].float().cpu() for picture in pictures)))
                losses.append(found.loss.item())
            blocks.append(Block(size, sum(losses) / len(losses), rows))
        path = self.config.out / PICTURES / f"step-{step:06d}.png"
        write_picture(path, draw_blocks(blocks, self.settings.mean, self.settings.std))

    def _readable(self) -> Iterator[tuple[int, Image.Image]]:
        """Images to draw and their places, in an order that follows from the seed; unreadable ones are passed over."""
        folder = self.folder if self.validation is None else self.validation
        read = ImageReader(folder.paths, self.config.max_pixels, self.settings.in_channels)
        for index in permutation(self.config.seed, 0, len(folder)):
            with suppress(UnreadableImageError):
                yield index, read(index)

    def save(self, folder: Path, model: nn.Module, extra: dict[str, Any]) -> None:
        assert isinstance(model, MaskedAutoencoder)
        sizes = self.config.parsed_sizes()
        save(folder, model, name=self.config.model, training_sizes=sizes, extra=extra)


def _spread(sizes: list[Size]) -> list[Size]:
    """The smallest, the middle and the largest by area; fewer if there are fewer."""
    rising = sorted(sizes, key=lambda size: (size[0] * size[1], size))
    return list(dict.fromkeys((rising[0], rising[len(rising) // 2], rising[-1])))


def _folders(config: PretrainConfig) -> tuple[ImageFiles, ImageFiles | None]:
    """The images to learn from, and those to measure on."""
    train, val = config.data / "train", config.data / "val"
    if val.is_dir() and not train.is_dir():
        raise ValueError(
            f"{config.data} has a folder val and no folder train; allowed are both, or images without a folder val"
        )
    if val.is_dir():
        return ImageFiles(train), ImageFiles(val)
    refuse_validation(config, ("validate_limit",), f"there is nothing to measure without {val}; add images there")
    if not config.draw_images:
        nothing = f"there is nothing to measure or to draw without {val}; add images there"
        refuse_validation(config, ("validate_every",), nothing)
    return ImageFiles(train if train.is_dir() else config.data), None


def _check_readable(folder: ImageFiles, max_pixels: int) -> None:
    """ValueError if no image can be read; stops at the first one that can."""
    first = None
    for path in folder.paths:
        try:
            read_image(path, max_pixels=max_pixels)
            return
        except UnreadableImageError as error:
            first = first or error
    raise ValueError(f"none of the {len(folder)} images in {folder.root} can be read; the first: {first}") from first
