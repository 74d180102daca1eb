"""What tasks on images share: the stream of training images, and batches to measure on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from tqdm import tqdm

from anyres.data.batches import EvalBatch
from anyres.data.folder import ImageFiles
from anyres.data.loader import TrainingStream, evaluation_batches
from anyres.data.transforms import Transform
from anyres.models.config import ViTARConfig
from anyres.sizes import Size, size_text
from anyres.training.parallel import share

if TYPE_CHECKING:
    from anyres.training.classification.config import TrainConfig
    from anyres.training.image_config import ImageRunConfig
    from anyres.training.pretraining.config import PretrainConfig


def training_stream(
    config: TrainConfig | PretrainConfig, folder: ImageFiles, model: ViTARConfig, *, own_aspect: int | None = None
) -> TrainingStream:
    """The images of a run as its settings say; `own_aspect`: see `TrainingStream`."""
    return TrainingStream(
        folder,
        batch_size=config.batch_size,
        schedule=config.schedule(),
        augment=config.augmentation,
        mean=model.mean,
        std=model.std,
        seed=config.seed,
        num_workers=config.num_workers,
        max_pixels=config.max_pixels,
        cache=config.cache,
        cache_bytes=config.cache_bytes,
        strict=config.strict,
        repeats=config.repeats,
        own_aspect=own_aspect,
        share=share(),
    )


def validation_batches(
    config: ImageRunConfig, folder: ImageFiles, transform: Transform, size: Size
) -> Iterator[EvalBatch]:
    """The images to measure on at a size, under a progress bar."""
    batches = evaluation_batches(
        folder,
        transform,
        batch_size=config.batch_size,
        num_workers=config.num_workers,
        max_pixels=config.max_pixels,
        strict=config.strict,
        limit=config.validate_limit,
    )
    name = f"validate {size_text(size)}"
    yield from tqdm(batches, desc=name, unit="batch", leave=False, disable=not config.progress)
