import pickle
import random

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st
from PIL import Image
from torchvision.transforms import v2

from anyres.data.augment import TrainAugment
from anyres.data.transforms import eval_transform, to_tensor, train_transform
from anyres.seeds import seeded

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
UNIT = ((0.0,) * 3, (1.0,) * 3)


def noise(height, width, mode="RGB"):
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels, "RGB").convert(mode)


def test_to_tensor_equals_torchvision():
    image = noise(5, 7)
    scaled = v2.functional.to_dtype(v2.functional.pil_to_tensor(image), scale=True)
    expected = v2.functional.normalize(scaled, MEAN, STD)
    torch.testing.assert_close(to_tensor(image, MEAN, STD), expected)
    grey = to_tensor(noise(5, 7, "L"), (0.5,), (0.5,))
    assert grey.shape == (1, 5, 7) and grey.dtype == torch.float32 and grey.is_contiguous()
    assert to_tensor(noise(5, 7, "L"), *UNIT).shape == (3, 5, 7)


@pytest.mark.parametrize("height", [64, 97, 300])
@pytest.mark.parametrize("side", [56, 49])
def test_square_sizes_follow_the_usual_protocol(height, side):
    """Against torchvision: short side to round(r / 0.875), bicubic, centre crop."""
    image = noise(height, 128)
    short = round(side / 0.875)
    wide = (round(height * short / min(height, 128)), round(128 * short / min(height, 128)))
    resized = v2.functional.resize(image, list(wide), interpolation=v2.InterpolationMode.BICUBIC)
    found = eval_transform((side, side), *UNIT)(image)
    top, left = (wide[0] - side) // 2, (wide[1] - side) // 2
    expected = torch.from_numpy(np.array(resized)).permute(2, 0, 1)[:, top : top + side, left : left + side] / 255
    torch.testing.assert_close(found, expected)


@settings(max_examples=60)
@given(
    st.tuples(st.integers(1, 90), st.integers(1, 90)), st.tuples(st.integers(1, 60), st.integers(1, 60)),
    st.sampled_from([1.0, 0.875, 0.5]),
)  # fmt: skip
def test_any_image_comes_out_at_the_size(image_size, size, ratio):
    image = Image.new("RGB", image_size[::-1], (10, 20, 30))
    for options in ({}, {"squash": True}):
        found = eval_transform(size, *UNIT, crop_ratio=ratio, **options)(image)
        assert found.shape == (3, *size)
        torch.testing.assert_close(found * 255, torch.tensor([10.0, 20, 30])[:, None, None].expand_as(found))
    kept = eval_transform(size, *UNIT, keep_aspect=True)(image)
    assert min(kept.shape[1:]) == min(size)
    long = max(image_size) * min(size) / min(image_size)
    assert abs(max(kept.shape[1:]) - long) <= 0.5
    assert (kept.shape[1] > kept.shape[2]) <= (image_size[0] > image_size[1])
    assert (kept.shape[1] < kept.shape[2]) <= (image_size[0] < image_size[1])


def test_no_crop_keeps_every_pixel_of_a_square_image():
    image = noise(40, 40)
    torch.testing.assert_close(eval_transform((40, 40), *UNIT, crop_ratio=1)(image), to_tensor(image, *UNIT))


def test_a_non_square_crop_just_fits():
    """A 2:1 crop of a 3:1 image: full height after division by the ratio, centred."""
    ramp = Image.fromarray(np.tile(np.arange(240, dtype=np.uint8), (80, 1)))
    found = eval_transform((40, 80), (0.0,), (1.0,), crop_ratio=1)(ramp)[0] * 255
    assert abs(found.mean() - 119.5) < 0.6 and abs((found[:, -1] - found[:, 0]).mean() - 158) < 2
    inner = eval_transform((40, 80), (0.0,), (1.0,), crop_ratio=0.5)(ramp)[0] * 255
    assert abs(inner.mean() - 119.5) < 0.6 and abs((inner[:, -1] - inner[:, 0]).mean() - 79) < 2


def test_eval_transforms_can_be_sent_to_processes():
    transform = eval_transform((8, 9), MEAN, STD)
    assert torch.equal(pickle.loads(pickle.dumps(transform))(noise(20, 20)), transform(noise(20, 20)))


@pytest.mark.parametrize("options", [{"crop_ratio": 0}, {"crop_ratio": 1.1}, {"keep_aspect": True, "squash": True}])
def test_bad_protocols(options):
    with pytest.raises(ValueError, match="allowed"):
        eval_transform((8, 8), MEAN, STD, **options)
    with pytest.raises(ValueError, match="2 and 2 entries; allowed"):
        eval_transform((8, 8), (0.5, 0.5), (0.5, 0.5))


@pytest.mark.parametrize("size", [(16, 16), (24, 8), (1, 1), (13, 17)])
@pytest.mark.parametrize("image_size", [(1, 1), (3, 200), (50, 40)])
@pytest.mark.parametrize("augment", [TrainAugment(), TrainAugment(auto_augment=None, color_jitter=0.4, vflip=0.5)])
def test_training_images_have_the_size(size, image_size, augment):
    for mode, channels in (("RGB", 3), ("L", 1)):
        transform = train_transform(size, augment, MEAN[:channels], STD[:channels])
        for seed in range(4):
            with seeded(seed):
                found = transform(noise(*image_size, mode))
            assert found.shape == (channels, *size) and found.dtype == torch.float32 and found.isfinite().all()


@pytest.mark.parametrize("size", [(12, 48), (48, 12), (31, 17), (24, 24)])
def test_crops_have_the_shape_of_their_step(size):
    columns, rows = np.meshgrid(np.arange(200), np.arange(120))
    slopes = Image.fromarray(np.stack([columns, rows, 0 * rows], 2).astype("uint8"))
    augment = TrainAugment(scale=(0.05, 0.2), ratio=(1, 1), hflip=0, auto_augment=None, erasing=0)
    with seeded(0):
        down, across = 255 * train_transform(size, augment, (0.0,) * 3, (1.0,) * 3)(slopes)[:2].flip(0)
    steps = down[2:-2].diff(dim=0).mean(), across[:, 2:-2].diff(dim=1).mean()  # pixels of the image to one of the crop
    assert steps[0] == pytest.approx(steps[1].item(), rel=0.1) and steps[0] > 0.2


def test_augmentation_without_chance_is_plain_normalisation():
    plain = TrainAugment(scale=(1, 1), ratio=(1, 1), hflip=0, auto_augment=None, erasing=0)
    image = noise(20, 20)
    torch.testing.assert_close(train_transform((20, 20), plain, MEAN, STD)(image), to_tensor(image, MEAN, STD))
    flip = TrainAugment(scale=(1, 1), ratio=(1, 1), hflip=1, auto_augment=None, erasing=0)
    flipped = train_transform((20, 20), flip, MEAN, STD)(image)
    torch.testing.assert_close(flipped.flip(2), to_tensor(image, MEAN, STD))


def test_training_transforms_are_made_once_per_size():
    made = train_transform((9, 9), TrainAugment(), MEAN, list(STD))
    assert train_transform((9, 9), TrainAugment(), list(MEAN), STD) is made
    assert train_transform((9, 10), TrainAugment(), MEAN, STD) is not made


@pytest.mark.parametrize(
    "options",
    [
        {"scale": (0, 1)}, {"scale": (0.5, 2)}, {"ratio": (2, 1)}, {"hflip": 1.5}, {"erasing": -1},
        {"color_jitter": 0.4}, {"color_jitter": -1, "auto_augment": None}, {"interpolation": "nearest"},
    ],
)  # fmt: skip
def test_bad_augmentation(options):
    with pytest.raises(ValueError, match="; allowed|no effect"):
        TrainAugment(**options)


@pytest.mark.parametrize("policy", ["rand-m10-n4-mstd0.5-inc1", "v0", "augmix-m9"])
def test_automatic_augmentation_never_asks_for_what_pillow_refuses(policy):
    """timm asks for 0 bits of posterisation at the highest magnitude."""
    transform = train_transform((8, 8), TrainAugment(auto_augment=policy), (0.5,) * 3, (0.5,) * 3)
    image = Image.fromarray(np.arange(12 * 12 * 3, dtype=np.uint8).reshape(12, 12, 3))
    random.seed(0)
    np.random.seed(0)
    for _ in range(300):
        assert transform(image).isfinite().all()
