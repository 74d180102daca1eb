"""How training images are augmented, as configurations: fields and checks, without torch or timm.

Carried out by `transforms.py` (classes, pre-training), `segmentation_stream.py` and `detection_augment.py`.
"""

from dataclasses import dataclass
from typing import Literal

from anyres.sizes import Size, size_text


@dataclass(frozen=True, kw_only=True)
class TrainAugment:
    """Augmentation of training images, carried out by timm. The defaults are DeiT's."""

    scale: tuple[float, float] = (0.08, 1.0)
    """Area of the random crop, as a fraction of the image."""
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    """Width / height of the random crop."""
    hflip: float = 0.5
    """Probability of a flip left to right."""
    vflip: float = 0.0
    """Probability of a flip upside down."""
    color_jitter: float = 0.0
    """Strength of brightness, contrast and saturation changes; only without auto_augment, or with "3a" in it."""
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    """RandAugment, AugMix or AutoAugment as timm describes them; None for none."""
    erasing: float = 0.25
    """Probability of erasing a random rectangle."""
    interpolation: Literal["bicubic", "bilinear", "random"] = "bicubic"
    """How the crop is resized."""

    def __post_init__(self) -> None:
        for name, most in (("scale", 1.0), ("ratio", float("inf"))):
            low, high = getattr(self, name)
            if not 0 < low <= high <= most:
                raise ValueError(f"{name} is ({low}, {high}); allowed: 0 < low <= high <= {most}")
        for name in ("hflip", "vflip", "erasing"):
            _check_probability(name, getattr(self, name))
        if self.color_jitter < 0:
            raise ValueError(f"color_jitter is {self.color_jitter}; allowed: 0 and more")
        if self.color_jitter and self.auto_augment and "3a" not in self.auto_augment:  # timm switches it off
            raise ValueError(
                f"color_jitter={self.color_jitter} has no effect beside auto_augment={self.auto_augment!r}: "
                "allowed: one of them, the other 0 or None"
            )
        if self.interpolation not in ("bicubic", "bilinear", "random"):
            raise ValueError(f"interpolation is {self.interpolation!r}; allowed: bicubic, bilinear and random")


@dataclass(frozen=True, kw_only=True)
class SegmentAugment:
    """Augmentation of training images and their masks. The defaults are mmsegmentation's for ADE20K."""

    scale: tuple[float, float] = (0.5, 2.0)
    """Factor on the size of the image, before so much as the step's size is cut from it."""
    cat_max_ratio: float = 0.75
    """Largest share of one class in a crop, if ten draws allow; 1 takes the first crop."""
    hflip: float = 0.5
    """Probability of a flip left to right."""
    photometric: bool = True
    """Changes of brightness, contrast, saturation and hue, each with probability 1/2."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"scale is ({low}, {high}); allowed: 0 < low <= high")
        if not 0 < self.cat_max_ratio <= 1:
            raise ValueError(f"cat_max_ratio is {self.cat_max_ratio}; allowed: above 0 up to 1")
        _check_probability("hflip", self.hflip)


@dataclass(frozen=True, kw_only=True)
class ScaleJitter:
    """Large-scale jitter (arXiv 2012.07177): a random scale, a random crop where the image is then too large, padding
    at the right and below where it is too small, and a flip left to right."""

    scale: tuple[float, float] = (0.1, 2.0)
    """Interval of the scale, uniform; at 1 the image just fits into the step's size."""
    hflip: float = 0.5
    """Probability of a flip left to right."""

    def __post_init__(self) -> None:
        low, high = self.scale
        if not 0 < low <= high < float("inf"):
            raise ValueError(f"scale is ({low}, {high}); allowed: 0 < low <= high, such as (0.1, 2.0)")
        _check_probability("hflip", self.hflip)


@dataclass(frozen=True, kw_only=True)
class MultiScale:
    """The multi-scale training of DETR (arXiv 2005.12872) as ViT-Adapter and its kin use it for Mask R-CNN.

    The short side is resized to one of the sides 480, 512, ... up to the shorter side of the step's size, unless that
    made the long side longer than the step's longer one: with a size of 800x1333 the recipe's, which in validation is
    the usual size. With probability 1/2 the image is resized to a short side of 400, 500 or 600 and cropped before.
    Then at most 1024x1024 pixels are cut out, and it may be flipped left to right. So every image has a size of its
    own. The authors complete a batch to its largest image; so does `DetectionStream`, hence the padding is the same
    however a batch is cut into pieces."""

    shortest: int = 480
    """Least short side in pixels."""
    spacing: int = 32
    """Pixels from one short side to the next."""
    crop_prob: float = 0.5
    """Probability of a crop before that."""
    before: tuple[int, ...] = (400, 500, 600)
    """Short sides that an image is resized to before this crop."""
    crop: tuple[int, int] = (384, 600)
    """Interval of the sides of this crop, height and width drawn apart, as far as the image goes."""
    most: int = 1024
    """Largest side of what remains in the end, cut out at random."""
    hflip: float = 0.5
    """Probability of a flip left to right."""

    def __post_init__(self) -> None:
        _check_probability("crop_prob", self.crop_prob)
        _check_probability("hflip", self.hflip)
        for name in ("shortest", "spacing", "most"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; allowed: whole numbers of pixels from 1 up")
        if not self.before or min(self.before) < 1:
            raise ValueError(f"before is {self.before}; allowed: one or more short sides in pixels from 1 up")
        if not 1 <= self.crop[0] <= self.crop[1]:
            raise ValueError(f"crop is {self.crop}; allowed: 1 <= low <= high, such as (384, 600)")
        for name in ("before", "crop"):
            if not self.crop_prob and getattr(self, name) != getattr(MultiScale, name):
                raise ValueError(f"{name} is {getattr(self, name)}, but it has no effect because crop_prob is 0")

    def sides(self, size: Size) -> range:
        """The short sides that are drawn at a step of this size, all alike."""
        return range(self.shortest, min(size) + 1, self.spacing)

    def check(self, size: Size) -> None:
        """ValueError for a step's size that leaves no side to draw, or that makes a setting idle."""
        if min(size) < self.shortest:
            raise ValueError(
                f"size is {size_text(size)}, but the short sides of multi-scale training begin at {self.shortest}; "
                f"allowed: sizes from there up, such as 800x1333; or shortest={min(size)}"
            )
        if self.most != MultiScale.most and self.most >= max(size):
            raise ValueError(f"most is {self.most}, but it has no effect because no side exceeds {max(size)}")


def _check_probability(name: str, given: float) -> None:
    if not 0 <= given <= 1:
        raise ValueError(f"{name} is {given}; allowed: a probability, 0 to 1")
