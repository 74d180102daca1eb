import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.data.augment import TrainAugment
from anyres.data.folder import ImageFolder
from anyres.data.loader import TrainingStream, evaluation_batches
from anyres.data.schedule import EverySize, ResolutionSchedule
from anyres.data.transforms import eval_transform
from anyres.errors import UnreadableImageError
from anyres.sizes import SideRange

UNIT = ((0.0,) * 3, (1.0,) * 3)
PLAIN = TrainAugment(scale=(1, 1), ratio=(1, 1), hflip=0, auto_augment=None, erasing=0)
SIZES = [(12, 12), (16, 20)]


@pytest.fixture
def folder(tmp_path):
    """Eleven images of as many grey values, 0, 20, ... 200, in two classes."""
    for index in range(11):
        path = tmp_path / "data" / ("a" if index < 6 else "b") / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (30 + index, 25), (index * 20,) * 3).save(path)
    return ImageFolder(tmp_path / "data")


def stream(folder, augment=PLAIN, **options):
    settings = {"batch_size": 4, "schedule": ResolutionSchedule(SIZES, 7), "seed": 5, **options}
    return TrainingStream(folder, augment=augment, mean=UNIT[0], std=UNIT[1], **settings)


def indices(batch):
    return [round(float(image.mean()) * 255 / 20) for image in batch.images]


def same(first, second):
    views = zip((first, *first.replicas), (second, *second.replicas), strict=True)
    return (
        (first.step, first.size, first.skipped) == (second.step, second.size, second.skipped)
        and torch.equal(first.labels, second.labels)
        and all(torch.equal(one.images, two.images) and torch.equal(one.keys, two.keys) for one, two in views)
    )


def test_batches(folder):
    batches = list(stream(folder).batches(0, 11))
    assert [batch.step for batch in batches] == list(range(11))
    for batch in batches:
        assert batch.size == ResolutionSchedule(SIZES, 7).size_at(batch.step)
        assert batch.images.shape == (4, 3, *batch.size) and batch.images.dtype == torch.float32
        assert batch.labels.tolist() == [folder.labels[index] for index in indices(batch)]
        assert batch.keys.dtype == torch.int64 and batch.keys.shape == (4,) and not batch.skipped
    keys = torch.cat([batch.keys for batch in batches])
    assert len(set(keys.tolist())) == 44
    assert {batch.size for batch in batches} == set(SIZES)


def test_every_epoch_is_another_permutation(folder):
    order = [index for batch in stream(folder).batches(0, 11) for index in indices(batch)]
    epochs = [tuple(order[first : first + 11]) for first in range(0, 44, 11)]
    assert all(sorted(epoch) == list(range(11)) for epoch in epochs)
    assert len(set(epochs)) == 4


def test_a_stream_that_starts_later_goes_on_alike(folder):
    whole = list(stream(folder, TrainAugment()).batches(0, 8))
    later = list(stream(folder, TrainAugment()).batches(5, 8))
    assert all(same(first, second) for first, second in zip(whole[5:], later, strict=True))
    assert not torch.equal(whole[0].keys, list(stream(folder, TrainAugment(), seed=6).batches(0, 1))[0].keys)


@pytest.mark.parametrize("cache", [False, True])
def test_worker_processes_change_nothing(folder, cache):
    alone = list(stream(folder, TrainAugment(), cache=cache).batches(2, 7))
    shared = list(stream(folder, TrainAugment(), cache=cache, num_workers=2).batches(2, 7))
    assert all(same(first, second) for first, second in zip(alone, shared, strict=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_the_generators_of_the_process_are_left_alone(folder, workers):
    def drawn():
        return random.random(), np.random.rand(), float(torch.rand(()))

    def start():
        random.seed(1), np.random.seed(1), torch.manual_seed(1)

    start()
    expected = drawn()
    start()
    first = list(stream(folder, TrainAugment(), num_workers=workers).batches(0, 2))
    assert drawn() == expected
    second = list(stream(folder, TrainAugment()).batches(0, 2))  # from other states of the generators
    assert all(same(one, two) for one, two in zip(first, second, strict=True))


def test_augmentation_differs_between_positions_and_steps(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "a" / "0.png")
    augment = TrainAugment(scale=(0.3, 0.6))
    batches = list(stream(ImageFolder(tmp_path), augment, schedule=ResolutionSchedule([(12, 12)], 0)).batches(0, 3))
    images = torch.cat([batch.images for batch in batches])
    assert len(torch.unique(images.flatten(1), dim=0)) == 12


def test_unreadable_files_are_replaced_and_reported(folder):
    folder.paths[3].write_bytes(b"broken")
    folder.paths[4].write_bytes(b"")
    batches = list(stream(folder).batches(0, 11))
    order = [index for batch in batches for index in indices(batch)]
    assert Counter(order) == {index: (12 if index == 5 else 4) for index in range(11) if index not in (3, 4)}
    skipped = [path for batch in batches for path, _ in batch.skipped]
    assert Counter(skipped) == {folder.paths[3]: 4, folder.paths[4]: 8}  # 4 once for itself, once on the way from 3
    assert all(reason and str(path) not in reason for batch in batches for path, reason in batch.skipped)
    assert all(same(one, two) for one, two in zip(batches, stream(folder, num_workers=1).batches(0, 11), strict=True))
    assert [b.skipped for b in stream(folder, cache=True).batches(0, 11)] == [b.skipped for b in batches]


@pytest.mark.parametrize("options", [{}, {"num_workers": 1}, {"cache": True}])
def test_strict_stops_at_the_first(folder, options):
    folder.paths[3].write_bytes(b"broken")
    with pytest.raises(UnreadableImageError, match=r"^\S*03\.png: not a JPEG"):
        list(stream(folder, strict=True, **options).batches(0, 3))


def test_the_last_file_is_replaced_by_the_first_and_none_is_an_error(folder):
    folder.paths[10].write_bytes(b"broken")
    assert Counter(i for b in stream(folder).batches(0, 11) for i in indices(b))[0] == 8
    for path in folder.paths:
        path.write_bytes(b"broken")
    for options in ({}, {"num_workers": 1}):
        with pytest.raises(ValueError, match="none of the 11 images"):
            list(stream(folder, **options).batches(0, 1))
    with pytest.raises(ValueError, match="none of the images"):
        list(evaluation_batches(folder, eval_transform((8, 8), *UNIT), batch_size=4))


def test_max_pixels_reaches_the_decoder(folder):
    batches = list(stream(folder, max_pixels=25 * 35).batches(0, 11))  # widths 30 ... 35 pass
    assert {index for batch in batches for index in indices(batch)} == set(range(6))
    found = list(evaluation_batches(folder, eval_transform((8, 8), *UNIT), batch_size=4, max_pixels=25 * 35))
    assert torch.cat([batch.indices for batch in found]).tolist() == list(range(6))
    assert sum(len(batch.skipped) for batch in found) == 5


def test_cache_keeps_small_images_and_reduces_large_ones(tmp_path):
    x, y = np.meshgrid(np.arange(200), np.arange(100))
    smooth = Image.fromarray(np.stack([x, y * 2, 255 - x], -1).astype(np.uint8))
    for name, image in (("large", smooth), ("small", smooth.crop((0, 0, 10, 14)))):
        (tmp_path / name).mkdir()
        image.save(tmp_path / name / "0.png")
    folder = ImageFolder(tmp_path)
    cached = stream(folder, cache=True)
    for plain, reduced in zip(stream(folder).batches(0, 4), cached.batches(0, 4), strict=True):
        assert torch.equal(plain.labels, reduced.labels) and torch.equal(plain.keys, reduced.keys)
        small = plain.labels == 1
        assert torch.equal(plain.images[small], reduced.images[small])
        assert (plain.images - reduced.images).abs().mean() < 0.01
    assert cached._cache.bytes_needed == (20 * 40 + 14 * 10) * 3  # 20 is the longest side of SIZES
    for path in folder.paths:
        path.unlink()  # decoded once: the files are not needed any more
    assert len(list(cached.batches(4, 8))) == 4


def test_cache_that_would_not_fit_is_refused_before_work(folder, monkeypatch):
    monkeypatch.setattr("anyres.data.cache.read_image", lambda *_, **__: pytest.fail("decoded"))
    need = sum(20 * round((30 + index) * 20 / 25) * 3 for index in range(11))
    assert stream(folder, cache=True, cache_bytes=need)._cache.bytes_needed == need
    with pytest.raises(ValueError, match="allow more, or train without cache"):
        stream(folder, cache=True, cache_bytes=need - 1)


def test_greyscale_models(folder):
    made = TrainingStream(
        folder, batch_size=2, schedule=ResolutionSchedule([(8, 8)], 0), augment=TrainAugment(), mean=(0.5,),
        std=(0.5,), seed=0, cache=True,
    )  # fmt: skip
    assert next(made.batches(0, 1)).images.shape == (2, 1, 8, 8)
    found = next(evaluation_batches(folder, eval_transform((8, 8), (0.5,), (0.5,)), batch_size=2))
    assert found.images.shape == (2, 1, 8, 8)


def replicas(folder, augment=None, **options):
    schedule = EverySize([(12, 12), (9, 7), (16, 20)])
    return stream(folder, augment or TrainAugment(), schedule=schedule, **options)


def test_replicas_are_the_same_images_at_every_size_each_with_its_own_draws(folder):
    for batch in replicas(folder, PLAIN).batches(0, 6):
        assert batch.size == (16, 20)
        views = [batch, *batch.replicas]
        assert [tuple(view.images.shape) for view in views] == [(4, 3, 16, 20), (4, 3, 12, 12), (4, 3, 9, 7)]
        assert all(indices(view) == indices(batch) for view in views)
        assert [folder.labels[index] for index in indices(batch)] == batch.labels.tolist()
        assert len(set(torch.cat([view.keys for view in views]).tolist())) == 12


def test_every_replica_has_a_crop_and_augmentation_of_its_own(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)).save(tmp_path / "a" / "0.png")
    augment = TrainAugment(scale=(0.3, 0.6), auto_augment=None)
    schedule = EverySize([(12, 12), (12, 13)])
    (batch,) = stream(ImageFolder(tmp_path), augment, schedule=schedule, batch_size=6).batches(0, 1)
    larger, smaller = batch.images[..., :12], batch.replicas[0].images
    assert len(torch.unique(torch.cat([larger, smaller]).flatten(1), dim=0)) == 12
    assert (larger - smaller).abs().mean(dim=(1, 2, 3)).min() > 0.1


def test_the_first_replica_is_what_it_would_be_alone(folder):
    alone = stream(folder, TrainAugment(), schedule=ResolutionSchedule([(16, 20)], 3)).batches(0, 3)
    for one, batch in zip(alone, replicas(folder).batches(0, 3), strict=True):
        assert torch.equal(one.images, batch.images) and torch.equal(one.keys, batch.keys)


def test_replicas_resume_and_survive_workers_and_unreadable_files(folder):
    folder.paths[3].write_bytes(b"broken")
    whole = list(replicas(folder).batches(0, 6))
    assert any(batch.skipped for batch in whole)
    for options in ({}, {"num_workers": 2}):
        later = list(replicas(folder, **options).batches(2, 6))
        assert all(same(one, two) for one, two in zip(whole[2:], later, strict=True))
    cached = list(replicas(folder, cache=True).batches(0, 6))  # images of 25 px, kept at 20 / sqrt(0.08): as they are
    assert all(same(one, two) for one, two in zip(whole, cached, strict=True))
    with pytest.raises(UnreadableImageError, match="03.png"):
        list(replicas(folder, strict=True).batches(0, 6))


def test_repeated_images_follow_one_another_and_differ_in_augmentation(folder):
    once = [index for batch in stream(folder).batches(0, 11) for index in indices(batch)]
    thrice = [index for batch in stream(folder, repeats=3).batches(0, 11) for index in indices(batch)]
    expected = []
    for first in range(0, 44, 11):  # an epoch shows each of the first images of its permutation three times
        expected += [once[first + place // 3] for place in range(11)]
    assert thrice == expected
    (batch,) = stream(folder, TrainAugment(scale=(0.3, 1)), repeats=3, batch_size=3).batches(0, 1)
    assert len(set(batch.labels.tolist())) == 1 and len(set(batch.keys.tolist())) == 3
    assert len(torch.unique(batch.images.flatten(1), dim=0)) == 3
    with pytest.raises(ValueError, match="repeats is 0; allowed"):
        stream(folder, repeats=0)


def test_ranges_and_aspects_reach_batches_and_cache(folder):
    schedule = ResolutionSchedule([SideRange(8, 16)], 1, aspect=(0.5, 2))
    found = list(stream(folder, schedule=schedule, cache=True).batches(0, 8))
    assert [batch.images.shape[2:] for batch in found] == [schedule.size_at(step) for step in range(8)]
    assert len({batch.size for batch in found}) > 4
    assert stream(folder, schedule=schedule, cache=True)._cache.short_side == round(16 * 2**0.5)


@pytest.mark.parametrize("options", [{"batch_size": 0}, {"num_workers": -1}, {"max_pixels": 0}])
def test_bad_settings(folder, options):
    with pytest.raises(ValueError, match="; allowed"):
        stream(folder, **options)
    with pytest.raises(ValueError, match="; allowed"):
        evaluation_batches(folder, eval_transform((8, 8), *UNIT), **{"batch_size": 2, **options})
    with pytest.raises(ValueError, match="limit"):
        evaluation_batches(folder, eval_transform((8, 8), *UNIT), batch_size=2, limit=0)
    with pytest.raises(ValueError, match="steps"):
        stream(folder).batches(3, 2)


@pytest.mark.parametrize("workers", [0, 2])
def test_evaluation_sees_every_image_once_in_order(folder, workers):
    transform = eval_transform((8, 8), *UNIT)
    batches = list(evaluation_batches(folder, transform, batch_size=4, num_workers=workers))
    assert [len(batch.labels) for batch in batches] == [4, 4, 3]
    assert torch.cat([batch.indices for batch in batches]).tolist() == list(range(11))
    assert torch.cat([batch.labels for batch in batches]).tolist() == folder.labels
    assert [index for batch in batches for index in indices(batch)] == list(range(11))


def test_evaluation_of_mixed_sizes_gives_lists(folder):
    transform = eval_transform((8, 8), *UNIT, keep_aspect=True)
    first, *_, last = evaluation_batches(folder, transform, batch_size=5)
    assert isinstance(first.images, list) and len({image.shape for image in first.images}) > 1
    assert isinstance(last.images, torch.Tensor) and last.images.shape[0] == 1


def test_evaluation_lists_what_it_left_out_and_yields_no_empty_batch(folder):
    for index in (0, 1, 4, 5, 8, 10):
        folder.paths[index].write_bytes(b"broken")
    transform = eval_transform((8, 8), *UNIT)
    batches = list(evaluation_batches(folder, transform, batch_size=2))
    assert all(len(batch.labels) == len(batch.images) == len(batch.indices) > 0 for batch in batches)
    assert torch.cat([batch.indices for batch in batches]).tolist() == [2, 3, 6, 7, 9]
    skipped = [folder.paths.index(path) for batch in batches for path, _ in batch.skipped]
    assert skipped == [0, 1, 4, 5, 8, 10]
    with pytest.raises(UnreadableImageError, match="00.png"):
        list(evaluation_batches(folder, transform, batch_size=2, strict=True))


@pytest.mark.parametrize("limit", [1, 2, 5, 10, 11, 50])
def test_limit_is_spread_over_the_folder(folder, limit):
    batches = evaluation_batches(folder, eval_transform((8, 8), *UNIT), batch_size=3, limit=limit)
    chosen = torch.cat([batch.indices for batch in batches]).tolist()
    assert len(set(chosen)) == len(chosen) == min(limit, 11)
    gaps = np.diff([-1 - chosen[0], *chosen]) if limit == 1 else np.diff(chosen)
    assert gaps.max() - gaps.min() <= 1
    assert abs(chosen[0] - (10 - chosen[-1])) <= 1
