"""Images at their own width / height: the area of a training step's size, in whole patches, nothing squeezed."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from anyres.data.augment import TrainAugment
from anyres.data.transforms import resize_and_crop, to_tensor, train_transform
from anyres.sizes import Size, whole_patch_size


@dataclass(frozen=True, kw_only=True)
class OwnAspectCrop:
    """Random crop of a Pillow image to (C, H_i, W_i) float32 of `whole_patch_size`, for training."""

    size: Size
    mean: Sequence[float]
    std: Sequence[float]
    patch_size: int
    augment: TrainAugment

    def __call__(self, image: Image.Image) -> Tensor:
        size = whole_patch_size(self.size, (image.height, image.width), self.patch_size)
        return train_transform(size, self.augment, self.mean, self.std)(image)


@dataclass(frozen=True, kw_only=True)
class OwnAspect:
    """A Pillow image as (C, H_i, W_i) float32 of `whole_patch_size`, bicubic; what rounding leaves over is cropped."""

    size: Size
    mean: Sequence[float]
    std: Sequence[float]
    patch_size: int

    def __call__(self, image: Image.Image) -> Tensor:
        size = whole_patch_size(self.size, (image.height, image.width), self.patch_size)
        return to_tensor(resize_and_crop(image, size, 1.0), self.mean, self.std)
