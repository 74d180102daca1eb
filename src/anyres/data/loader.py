"""Batches for training, a pure function of (seed, step), and batches for evaluation."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from anyres.data.augment import TrainAugment
from anyres.data.batches import Batch, EvalBatch, View, stacked_if_alike
from anyres.data.cache import DEFAULT_BYTES, ImageCache
from anyres.data.decode import MAX_PIXELS, check_max_pixels
from anyres.data.folder import ImageFiles
from anyres.data.own_aspect import OwnAspectCrop
from anyres.data.samples import Samples, batches_of_steps, jitter_keys
from anyres.data.schedule import Schedule
from anyres.data.share import ALL, Share
from anyres.data.transforms import Transform, check_statistics, train_transform
from anyres.data.workers import ImageReader, Numbered, check_counts, run_in_order
from anyres.errors import Unreadable, UnreadableImageError
from anyres.seeds import key, seeded
from anyres.sizes import Size
from anyres.spacing import evenly_spaced


class TrainingStream:
    """Endless training batches, each a pure function of (seed, step, position in the batch).

    Every epoch has a permutation of its own, step s takes entries [s * B, (s + 1) * B) of the endless stream of
    permutations, so an epoch may end within a batch. A run that starts at step k therefore sees exactly what an
    uninterrupted one would, whatever the number of worker processes.

    A schedule that gives a step several sizes makes replicas: an image is read once and augmented anew for each size.
    With `own_aspect` every image has the area of the step's size at its own width / height, in whole patches of so many
    pixels (see `whole_patch_size`).
    `repeats` shows every image so many times in a row, augmented anew each time; an epoch is as long as without it and
    so shows the first part of its permutation only (DeiT's repeated augmentation).

    An unreadable file is replaced by the next readable one in folder order and reported; `strict` raises instead.
    `cache` keeps decoded images in memory (see `ImageCache`), reduced so far that the smallest random crop still has
    the pixels of the largest side of any step; if they would need more than `cache_bytes`, that is a ValueError here.
    """

    def __init__(
        self,
        folder: ImageFiles,
        *,
        batch_size: int,
        schedule: Schedule,
        augment: TrainAugment,
        mean: Sequence[float],
        std: Sequence[float],
        seed: int,
        num_workers: int = 0,
        max_pixels: int = MAX_PIXELS,
        cache: bool = False,
        cache_bytes: int = DEFAULT_BYTES,
        strict: bool = False,
        repeats: int = 1,
        own_aspect: int | None = None,
        share: Share = ALL,
    ) -> None:
        check_counts(batch_size, num_workers)
        if repeats < 1:
            raise ValueError(f"repeats is {repeats}; allowed: 1 and more")
        check_max_pixels(max_pixels)
        check_statistics(mean, std)
        self.folder = folder
        self.batch_size = batch_size
        self.schedule = schedule
        self.augment = augment
        self.mean, self.std = tuple(mean), tuple(std)
        self.seed = seed
        self.num_workers = num_workers
        self.positions = share.positions(batch_size)
        self.own_aspect = own_aspect
        self._cache: ImageCache | None = None
        if cache:
            # a crop of the smallest area has sqrt(scale) of the image's sides, and is to be resized down, not up
            short_side = math.ceil(schedule.largest_side() / math.sqrt(augment.scale[0]))
            self._cache = ImageCache(
                folder.paths, short_side=short_side, channels=len(mean), max_pixels=max_pixels, budget=cache_bytes
            )
        read = self._cache or ImageReader(folder.paths, max_pixels, len(mean))
        self._samples = Samples(read, folder.paths, f"in {folder.root}", seed, strict, repeats)

    def batches(self, start_step: int, stop_step: int) -> Iterator[Batch]:
        """The batches of steps start_step ... stop_step - 1."""
        if self._cache is not None and self.num_workers:
            self._cache.fill()
        return batches_of_steps(self.batch, start_step, stop_step, self.num_workers)

    def batch(self, step: int) -> Batch:
        """The batch of one step, made in this process."""
        sizes = self.schedule.sizes_at(step)
        transforms = [self._transform(size) for size in sizes]
        images: list[list[Tensor]] = [[] for _ in sizes]
        labels, skipped = [], []
        for position in self.positions:
            image, index, failed = self._samples.at(step * self.batch_size + position)
            for replica, transform in enumerate(transforms):
                with seeded(key(self.seed, step, position, *_later(replica))):
                    images[replica].append(transform(image))
            labels.append(self.folder.labels[index])
            skipped += failed
        views = [
            View(images=stacked_if_alike(found), keys=jitter_keys(self.seed, step, self.positions, *_later(replica)))
            for replica, found in enumerate(images)
        ]
        return Batch(
            step=step, size=sizes[0], images=views[0].images, labels=torch.tensor(labels), keys=views[0].keys,
            skipped=skipped, replicas=tuple(views[1:]),
        )  # fmt: skip

    def _transform(self, size: Size) -> Transform:
        if self.own_aspect is None:
            return train_transform(size, self.augment, self.mean, self.std)
        patch_size, augment = self.own_aspect, self.augment
        return OwnAspectCrop(size=size, mean=self.mean, std=self.std, patch_size=patch_size, augment=augment)


def _later(replica: int) -> tuple[int, ...]:
    """What a replica adds to the key of a draw; nothing for the first, which thus is what it would be alone."""
    return (replica,) if replica else ()


def evaluation_batches(
    folder: ImageFiles,
    transform: Transform,
    *,
    batch_size: int,
    num_workers: int = 0,
    max_pixels: int = MAX_PIXELS,
    strict: bool = False,
    limit: int | None = None,
) -> Iterator[EvalBatch]:
    """The images of a folder in order, each once; unreadable ones are left out and listed, or raise with `strict`.

    Args:
        transform: a Pillow image -> (C, H, W); where it gives different sizes a batch holds a list.
        limit: only so many images, spread evenly over the whole folder.

    Raises:
        ValueError: for a setting that is not allowed, at once; if no image at all can be read, at the end.
    """
    check_counts(batch_size, num_workers)
    check_max_pixels(max_pixels)
    if limit is not None and limit < 1:
        raise ValueError(f"limit is {limit}; allowed: 1 and more, or None for all images")
    chosen = evenly_spaced(len(folder), limit)
    groups = [chosen[first : first + batch_size] for first in range(0, len(chosen), batch_size)]
    read = ImageReader(folder.paths, max_pixels, 3)
    maker = _EvalGroups(folder, read, transform, strict, groups)
    return _with_images(run_in_order(Numbered(maker), range(len(groups)), num_workers), folder)


@dataclass(frozen=True)
class _EvalGroups:
    folder: ImageFiles
    read: ImageReader
    transform: Transform
    strict: bool
    groups: list[list[int]]

    def __call__(self, number: int) -> EvalBatch:
        images: list[Tensor] = []
        indices: list[int] = []
        skipped: list[Unreadable] = []
        for index in self.groups[number]:
            try:
                images.append(self.transform(self.read(index)))
                indices.append(index)
            except UnreadableImageError as error:
                if self.strict:
                    raise
                skipped.append(Unreadable.of(self.folder.paths[index], error))
        labels = [self.folder.labels[index] for index in indices]
        return EvalBatch(
            images=stacked_if_alike(images), labels=torch.tensor(labels, dtype=torch.int64),
            indices=torch.tensor(indices, dtype=torch.int64), skipped=skipped,
        )  # fmt: skip


def _with_images(batches: Iterator[EvalBatch], folder: ImageFiles) -> Iterator[EvalBatch]:
    """Never an empty batch: what was skipped in one is reported by a neighbour."""
    held: EvalBatch | None = None
    waiting: list[Unreadable] = []
    for batch in batches:
        if not len(batch.labels):
            (waiting if held is None else held.skipped).extend(batch.skipped)
            continue
        if held is not None:
            yield held
        batch.skipped[:0] = waiting
        waiting, held = [], batch
    if held is None:
        raise ValueError(f"none of the images in {folder.root} can be read; the first: {waiting[0][1]}")
    yield held
