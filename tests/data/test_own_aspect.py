"""Images at their own width / height: shapes, areas, and batches that are a function of seed and step alone."""

import math

import pytest
import torch
from hypothesis import given, strategies as st
from PIL import Image

from anyres.data.augment import TrainAugment
from anyres.data.folder import ImageFiles
from anyres.data.loader import TrainingStream, evaluation_batches
from anyres.data.own_aspect import OwnAspect, OwnAspectCrop
from anyres.data.schedule import ResolutionSchedule
from anyres.data.transforms import eval_transform, train_transform
from anyres.seeds import seeded
from anyres.sizes import MOST_ASPECT, whole_patch_size

PLAIN = TrainAugment(scale=(1, 1), ratio=(1, 1), hflip=0, auto_augment=None, erasing=0)
UNIT = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
SIDES = st.integers(1, 5000)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ((500, 500), (224, 224)),
        ((480, 640), (192, 256)),  # 12 x 16 patches are 192, of 196
        ((640, 480), (256, 192)),
        ((499, 500), (224, 224)),
        ((100, 400), (112, 448)),
        ((100, 4000), (112, 448)),  # longer than 4:1 is cropped
        ((4000, 100), (448, 112)),
    ],
)
def test_sizes_by_hand(image, expected):
    assert whole_patch_size((224, 224), image, 16) == expected


@given(st.integers(16, 1200), SIDES, SIDES, st.sampled_from([4, 14, 16]))
def test_sizes_are_whole_patches_of_about_the_area_and_shape(side, height, width, patch):
    found = whole_patch_size((side, side), (height, width), patch)
    assert whole_patch_size((side, side), (width, height), patch) == found[::-1]
    rows, cols = found[0] / patch, found[1] / patch
    assert rows == int(rows) >= 1 and cols == int(cols) >= 1 and max(rows, cols) <= MOST_ASPECT * min(rows, cols)
    assert (height - width) * (rows - cols) >= 0
    wanted, ratio = (side / patch) ** 2, min(max(height, width) / min(height, width), MOST_ASPECT)
    short, long = sorted((rows, cols))
    assert height != width or short == long == max(1, round(side / patch))
    assert short == 1 or abs(short - math.sqrt(wanted / ratio)) <= 0.5 + 1e-9
    if short < long < MOST_ASPECT * short:
        assert abs(short * long - wanted) <= short / 2 + 1e-9


@pytest.fixture
def folder(tmp_path):
    """Seven images of four shapes."""
    for index, size in enumerate([(40, 40), (60, 30), (30, 60), (62, 31), (45, 41), (90, 10), (40, 39)]):
        Image.effect_noise(size, 90).convert("RGB").save(tmp_path / f"{index}.png")
    return ImageFiles(tmp_path)


def stream(folder, augment, **options):
    settings = {"batch_size": 5, "schedule": ResolutionSchedule([(24, 24), (37, 37)], 3), "seed": 5, **UNIT, **options}
    return TrainingStream(folder, augment=augment, own_aspect=4, **settings)


def alike(one, other):
    pairs = zip(one.images, other.images, strict=True)
    return torch.equal(one.keys, other.keys) and all(torch.equal(a, b) for a, b in pairs)


def test_batches_hold_each_image_at_its_own_shape(folder):
    batches = list(stream(folder, PLAIN).batches(0, 7))  # five epochs
    assert {batch.size for batch in batches} == {(24, 24), (37, 37)}
    shapes = set()
    for batch in batches:
        assert isinstance(batch.images, list) and len(batch.images) == len(batch.labels) == 5
        assert batch.labels.tolist() == [0] * 5
        shapes |= {(batch.size[0], *image.shape[1:]) for image in batch.images}
    expected = {(side, *whole_patch_size((side, side), shape, 4)) for side in (24, 37)
                for shape in [(40, 40), (30, 60), (60, 30), (31, 62), (41, 45), (10, 90), (39, 40)]}  # fmt: skip
    assert shapes == expected and len(shapes) > 7


def test_batches_are_a_function_of_seed_and_step(folder):
    whole = list(stream(folder, TrainAugment()).batches(0, 6))
    assert all(map(alike, whole[3:], stream(folder, TrainAugment()).batches(3, 6)))
    assert all(map(alike, whole, stream(folder, TrainAugment(), num_workers=2).batches(0, 6)))
    assert all(map(alike, whole, stream(folder, TrainAugment(), cache=True).batches(0, 6)))
    assert not alike(whole[0], stream(folder, TrainAugment(), seed=6).batch(0))


def test_images_of_one_shape_are_one_tensor(tmp_path):
    for index in range(3):
        Image.new("RGB", (40, 20)).save(tmp_path / f"{index}.png")
    assert stream(ImageFiles(tmp_path), PLAIN, schedule=ResolutionSchedule([(16, 16)], 0)).batch(0).images.shape == (
        (5, 3, 12, 20)
    )


def test_a_crop_is_that_of_training_at_the_shape_of_the_image():
    image = Image.effect_noise((60, 30), 90).convert("RGB")
    augment = TrainAugment(scale=(0.3, 0.9), ratio=(0.8, 1.25))
    size = whole_patch_size((24, 24), (30, 60), 4)
    for seed in range(5):
        with seeded(seed):
            found = OwnAspectCrop(size=(24, 24), patch_size=4, augment=augment, **UNIT)(image)
        with seeded(seed):
            expected = train_transform(size, augment, **UNIT)(image)
        assert found.shape == (3, 16, 36) and torch.equal(found, expected)


def test_measuring_keeps_the_whole_image_if_its_shape_is_whole_patches(folder):
    image = Image.effect_noise((64, 64), 90).convert("RGB")
    squared = eval_transform((24, 24), UNIT["mean"], UNIT["std"], crop_ratio=1.0)
    assert torch.equal(OwnAspect(size=(24, 24), patch_size=4, **UNIT)(image), squared(image))
    wide = image.resize((64, 16))
    flat = eval_transform((12, 48), UNIT["mean"], UNIT["std"], squash=True)
    assert torch.equal(OwnAspect(size=(24, 24), patch_size=4, **UNIT)(wide), flat(wide))
    batches = list(evaluation_batches(folder, OwnAspect(size=(24, 24), patch_size=4, **UNIT), batch_size=4))
    assert [len(batch.images) for batch in batches] == [4, 3] and batches[0].images[1].shape == (3, 16, 36)
