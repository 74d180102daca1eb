"""Batches for training a detector, a pure function of (seed, step), and images in order for measuring it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from anyres.data.augment import MultiScale, ScaleJitter
from anyres.data.coco import CocoImages, Target
from anyres.data.decode import MAX_PIXELS, check_max_pixels
from anyres.data.detection_augment import augmented, on_canvas
from anyres.data.orientation import other_convention, read_as, read_header
from anyres.data.samples import Samples, batches_of_steps, jitter_keys
from anyres.data.schedule import Schedule
from anyres.data.share import ALL, Share
from anyres.data.workers import check_counts
from anyres.errors import Unreadable, UnreadableImageError
from anyres.seeds import key, seeded
from anyres.sizes import Size, size_text


@dataclass(frozen=True)
class DetectionBatch:
    """One training step's images, all on canvases of one size, and what is in them."""

    step: int
    size: Size
    """Of the canvas."""
    images: Tensor
    """(B, C, H, W) float32 from 0 to 1."""
    targets: list[Target]
    """One for each image, without crowds."""
    keys: Tensor
    """(B,) int64, from which the model draws its positional jitter."""
    skipped: list[Unreadable]
    """Files that could not be read, and why; another image stands in their place."""

    @property
    def labels(self) -> Tensor:
        """(B,) int64: how many objects each image has."""
        return torch.tensor([len(target["labels"]) for target in self.targets])


class DetectionStream:
    """Endless training batches, each a pure function of (seed, step, position in the batch), as `TrainingStream`.

    The canvas of a batch is the smallest that holds its images as the augmentation leaves them, at the top left: with
    `ScaleJitter` all have the step's size, with `MultiScale` each its own.

    An unreadable file, or one of another size than its annotations say, is replaced by the next good one and reported;
    `strict` raises instead.
    """

    def __init__(
        self,
        data: CocoImages,
        *,
        batch_size: int,
        schedule: Schedule,
        augment: ScaleJitter | MultiScale,
        fill: Sequence[float],
        seed: int,
        num_workers: int = 0,
        max_pixels: int = MAX_PIXELS,
        strict: bool = False,
        share: Share = ALL,
    ) -> None:
        check_counts(batch_size, num_workers)
        check_max_pixels(max_pixels)
        self.data, self.batch_size, self.schedule, self.augment = data, batch_size, schedule, augment
        self.fill, self.seed, self.num_workers = tuple(fill), seed, num_workers
        self.positions = share.positions(batch_size)
        read = AnnotatedReader(data, max_pixels, len(self.fill))
        self._samples = Samples(read, data.paths, f"of {data.file}", seed, strict)

    def batches(self, start_step: int, stop_step: int) -> Iterator[DetectionBatch]:
        """The batches of steps start_step ... stop_step - 1."""
        return batches_of_steps(self.batch, start_step, stop_step, self.num_workers)

    def batch(self, step: int) -> DetectionBatch:
        """The batch of one step, made in this process."""
        (size,) = self.schedule.sizes_at(step)
        found: list[tuple[Tensor, Target]] = []
        skipped: list[Unreadable] = []
        for position in self.positions:
            image, index, failed = self._samples.at(step * self.batch_size + position)
            skipped += failed
            with seeded(key(self.seed, step, position)):
                target = self.data.target(index, crowds=False)
                found.append(augmented(self.augment, image, target, size, self.fill))
        canvas = max(image.shape[1] for image, _ in found), max(image.shape[2] for image, _ in found)
        images, targets = zip(*(on_canvas(image, target, canvas, self.fill) for image, target in found), strict=True)
        keys = jitter_keys(self.seed, step, self.positions)
        return DetectionBatch(step, canvas, torch.stack(images), list(targets), keys, skipped)


class AnnotatedReader:
    """Images by index, (C, H, W) uint8. UnreadableImageError also for another size than the annotations say."""

    def __init__(self, data: CocoImages, max_pixels: int = MAX_PIXELS, channels: int = 3) -> None:
        self.data, self._max_pixels, self._channels = data, max_pixels, channels

    def __call__(self, index: int) -> Tensor:
        path, labels_as, known = self.data.paths[index], self.data.labels_as, self.data.images[index].size
        image = read_as(path, labels_as, max_pixels=self._max_pixels, channels=self._channels)
        if (image.height, image.width) != known:
            other = other_convention(read_header(path, max_pixels=self._max_pixels), known, labels_as)
            text = f"{image.height}x{image.width} pixels, annotated as {size_text(known)}{other}"
            raise UnreadableImageError(path, text)
        return functional.pil_to_tensor(image)
