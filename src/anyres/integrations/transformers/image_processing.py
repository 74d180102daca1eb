"""The image processor, which keeps every image's own size, and how the models take its padding off again."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BaseImageProcessor, BatchFeature
from transformers.image_processing_backends import PilBackend, TorchvisionBackend
from transformers.image_utils import PILImageResampling

from anyres.integrations.transformers.configuration import AnyresConfig

Pixels = Tensor | Sequence[Any]


def unpadded(pixel_values: Pixels, image_sizes: Tensor | None = None) -> Tensor | list[Tensor]:
    """Images without their padding: one tensor if nothing is padded, else a list of (C, H_i, W_i).

    ValueError for sizes that do not fit.
    """
    if not isinstance(pixel_values, Tensor):
        images: list[Tensor] = []
        for each in pixel_values:  # a pipeline collates lists to a list of lists
            images += each if isinstance(each, list | tuple) else [each]
        return torch.stack(images) if len({image.shape for image in images}) == 1 else images
    if image_sizes is None:
        return pixel_values
    height, width = pixel_values.shape[-2:]
    given = torch.as_tensor(image_sizes)
    sizes = given.tolist()
    if given.shape != (len(pixel_values), 2) or any(not (0 < h <= height and 0 < w <= width) for h, w in sizes):
        raise ValueError(
            f"image_sizes are {sizes} for pixel_values of {tuple(pixel_values.shape)}; allowed: (height, width) for "
            f"each image, at most {height}x{width}."
        )
    if all(size == [height, width] for size in sizes):
        return pixel_values
    return [image[:, :h, :w] for image, (h, w) in zip(pixel_values, sizes, strict=True)]


class _NativeSizes(BaseImageProcessor):
    """What both backends share."""

    resample = PILImageResampling.BICUBIC
    do_resize = False
    do_rescale = True
    do_normalize = True
    do_pad = True
    do_convert_rgb = True
    size = {"height": 224, "width": 224}
    image_mean = [0.485, 0.456, 0.406]
    image_std = [0.229, 0.224, 0.225]
    model_input_names = ["pixel_values", "image_sizes"]

    @classmethod
    def of_model(cls, config: AnyresConfig, **options: Any) -> Self:
        """The one that a model needs: its mean and deviation."""
        settings = config.model_config()
        own = {"image_mean": list(settings.mean), "image_std": list(settings.std)}
        return cls(**{**own, "do_convert_rgb": settings.in_channels == 3, **options})

    def _preprocess(self, images: list[Any], **options: Any) -> BatchFeature:
        if not images:
            raise ValueError("there are no images; give one or more.")
        for index, image in enumerate(images):
            if 0 in image.shape:
                raise ValueError(
                    f"image {index} is {image.shape[-2]}x{image.shape[-1]} pixels; both must be at least 1."
                )
        wanted, is_padded = options.pop("return_tensors", None), options.pop("do_pad", True)
        made = super()._preprocess(images, do_pad=False, return_tensors=None, **options)["pixel_values"]
        found = [torch.as_tensor(image, dtype=torch.float32) for image in made]  # of Pillow's backend NumPy arrays
        sizes = torch.tensor([image.shape[-2:] for image in found])
        if not is_padded:
            return BatchFeature({"pixel_values": found})
        height, width = sizes.amax(0).tolist()
        padded = torch.stack([F.pad(each, (0, width - each.shape[-1], 0, height - each.shape[-2])) for each in found])
        return BatchFeature({"pixel_values": padded, "image_sizes": sizes}, tensor_type=wanted)


class AnyresImageProcessor(_NativeSizes, TorchvisionBackend):  # type: ignore[misc]
    """Images at their own size, normalised: `pixel_values` padded to a common tensor, and `image_sizes` (B, 2).

    `do_pad=False` gives a list of (C, H_i, W_i) instead. `do_resize=True` with `size` brings all to one size first.
    """


class AnyresImageProcessorPil(_NativeSizes, PilBackend):  # type: ignore[misc]
    """The same with Pillow and NumPy: AutoImageProcessor.from_pretrained(folder, backend="pil")."""


def collate(processor: _NativeSizes) -> Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]:
    """A data collator for `Trainer`: rows of "image" (anything the processor takes) and "labels" to a padded batch.

    Give the Trainer `remove_unused_columns=False`, since a model has no argument "image".
    """

    def batch(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        found = dict(processor([row["image"] for row in rows], return_tensors="pt"))
        if "labels" in rows[0]:
            found["labels"] = torch.tensor([row["labels"] for row in rows])
        return found

    return batch
