"""Intersection over union against sets of pixels, and windows, mirror images and scales against the slow way."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from anyres.data.segmentation import IGNORE, SegmentationFolder
from anyres.metrics.segmentation import Confusion, evaluate_segmenter, measured
from anyres.models.architectures import SEGMENTER
from anyres.models.segmenter import Segmenter
from anyres.predict.label_maps import Inference, label_map, label_maps, probabilities
from anyres.predict.sliding import finished_rows, sliding_logits, starts, usual_step, waiting_rows


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(1)
    options = {"patch_size": 4, "grid": 3, "width": 16, "depth": 4, "heads": 2, "taps": (0, 1, 2, 3)}
    options |= {"num_classes": 5, "head_channels": 8, "auxiliary_channels": 0, "cells": "2x2"}
    made = Segmenter(SEGMENTER.get_config("upernet_vitar_small_patch16", **options))
    torch.nn.init.normal_(made.head.classifier.weight, std=2.0)
    return made.eval()


def slow_iou(predicted, labels, num_classes):
    """Of each class, from sets of places over the whole data set."""
    found = []
    for each in range(num_classes):
        known = [(i, p) for i, row in enumerate(labels) for p, value in enumerate(row) if value != IGNORE]
        there = {place for place in known if labels[place[0]][place[1]] == each}
        said = {place for place in known if predicted[place[0]][place[1]] == each}
        found.append(len(there & said) / len(there | said) if there | said else math.nan)
    return found


@pytest.mark.parametrize("num_classes", [2, 5])
def test_iou_is_that_of_sets_of_pixels(num_classes):
    random = np.random.default_rng(num_classes)
    labels = [random.choice([*range(num_classes - 1), IGNORE], size) for size in (7, 31, 1)]
    predicted = [random.integers(0, max(num_classes - 2, 2), len(row)) for row in labels]
    confusion = Confusion(num_classes)
    for said, there in zip(predicted, labels, strict=True):
        confusion.add(torch.tensor(said)[None], torch.tensor(there, dtype=torch.uint8)[None])
    expected = slow_iou(predicted, labels, num_classes)
    assert confusion.iou().tolist() == pytest.approx(expected, nan_ok=True)
    assert confusion.miou() == pytest.approx(np.nanmean(expected))
    pairs = [(a, b) for one, two in zip(predicted, labels, strict=True) for a, b in zip(one, two, strict=True)]
    right = [a == b for a, b in pairs if b != IGNORE]
    assert confusion.accuracy() == pytest.approx(sum(right) / len(right))
    assert confusion.counts.sum() == len(right)


def test_what_no_pixel_tells_is_unknown():
    confusion = Confusion(3)
    assert measured(confusion) == {"miou": None, "accuracy": None, "iou": [None] * 3}
    confusion.add(torch.tensor([[0, 0, 2]]), torch.tensor([[0, 1, IGNORE]]))
    assert measured(confusion) == {"miou": 25.0, "accuracy": 50.0, "iou": [50.0, 0.0, None]}


@pytest.mark.parametrize(("length", "window", "step"), [(10, 4, 3), (10, 4, 4), (4, 4, 2), (3, 8, 5), (11, 4, 3)])
def test_windows_begin_where_mmsegmentation_has_them(length, window, step):
    expected = []
    for index in range(max(length - window + step - 1, 0) // step + 1):
        stop = min(index * step + window, length)
        expected.append(max(stop - window, 0))
    assert starts(length, window, step) == expected


@pytest.mark.parametrize("size", [(19, 26), (8, 12), (5, 30)])
@torch.no_grad()
def test_windows_are_averaged_by_how_often_a_pixel_is_seen(model, size):
    images, window, step = torch.randn(2, 3, *size), (8, 12), (5, 7)
    found = sliding_logits(model, images, window, step)
    seen = {}
    for top in starts(size[0], window[0], step[0]):
        for left in starts(size[1], window[1], step[1]):
            logits = model(images[:, :, top : top + window[0], left : left + window[1]])
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    seen.setdefault((top + y, left + x), []).append(logits[:, :, y, x])
    assert len(seen) == size[0] * size[1]
    for (y, x), values in seen.items():
        torch.testing.assert_close(found[:, :, y, x], torch.stack(values).mean(0), rtol=1e-4, atol=1e-5)
    if size == window:
        torch.testing.assert_close(found, model(images))


@pytest.mark.parametrize(
    ("size", "window", "step"),
    [
        ((19, 26), (8, 12), (5, 7)),
        ((23, 31), (12, 12), (8, 8)),
        ((9, 7), (16, 16), (10, 10)),
        ((13, 40), (13, 8), (8, 5)),
        ((17, 8), (11, 8), (2, 3)),
    ],
)
@pytest.mark.parametrize("at_once", [1, 3])
@torch.no_grad()
def test_rows_that_are_finished_early_are_those_of_the_whole_map(model, size, window, step, at_once):
    images, counts, asked = torch.randn(2, 3, *size), [], []

    def read(y, x, height, width):
        asked.append((height, width))
        return images[:, :, y : y + height, x : x + width]

    parts = list(
        finished_rows(model, read, size, window, step, lambda x: x, at_once=at_once, seen=lambda n: counts.append(n))
    )
    total, visits = torch.zeros(2, 5, *size), torch.zeros(size)
    for top in starts(size[0], window[0], step[0]):
        for left in starts(size[1], window[1], step[1]):
            part = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            total[part] += model(images[part])
            visits[part] += 1
    torch.testing.assert_close(torch.cat(parts, dim=2), total / visits, rtol=1e-4, atol=1e-5)
    assert len(asked) == sum(counts) and max(counts) <= at_once
    assert set(asked) == {(min(window[0], size[0]), min(window[1], size[1]))}
    assert max((len(part[0, 0]) for part in parts), default=0) <= window[0]
    assert waiting_rows(size, window, step) < window[0]


def test_what_waits_is_what_windows_share():
    assert waiting_rows((90, 9), (30, 9), usual_step((30, 9))) == 10
    assert waiting_rows((50, 9), (60, 9), (40, 6)) == 0
    assert waiting_rows((51, 9), (30, 9), (20, 6)) == 29  # the last begins a row after its neighbour


@torch.no_grad()
def test_images_of_several_sizes_at_once_give_what_they_give_alone(model):
    random = np.random.default_rng(2)
    sizes = [(13, 30), (17, 9), (13, 30), (26, 60)]
    images = [Image.fromarray(random.integers(0, 255, (*size, 3), dtype=np.uint8)) for size in sizes]
    for how, short_side in ((Inference(), None), (Inference(flip=True), 13), (Inference(window=(8, 8)), None)):
        for image, found in zip(images, label_maps(model, images, how, short_side), strict=True):
            assert (found == label_map(model, image, how, short_side)).float().mean() > 0.99
            assert found.shape == (image.height, image.width)


@torch.no_grad()
def test_mirror_images_and_scales_are_averaged_as_probabilities(model):
    image = torch.randn(1, 3, 18, 10)
    found = probabilities(model, image, Inference(ratios=(0.5, 1.0, 1.3), flip=True), (9, 11))
    parts = []
    for size in ((9, 5), (18, 10), (23, 13)):
        scaled = F.interpolate(image, size, mode="bilinear")
        for logits in (model(scaled), model(scaled.flip(3)).flip(3)):
            parts.append(F.interpolate(logits, (9, 11), mode="bilinear").softmax(1))
    torch.testing.assert_close(found, torch.stack(parts).mean(0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(1, 9, 11))
    mirrored = probabilities(model, image.flip(3), Inference(flip=True))
    torch.testing.assert_close(mirrored.flip(3), probabilities(model, image, Inference(flip=True)))
    windows = probabilities(model, image, Inference(window=(12, 8)))
    torch.testing.assert_close(windows, sliding_logits(model, image, (12, 8), (8, 5)).softmax(1))


@pytest.fixture
def root(tmp_path):
    random = np.random.default_rng(3)
    for kind in ("images", "annotations"):
        (tmp_path / kind / "val").mkdir(parents=True)
    for index, (height, width) in enumerate([(13, 9), (8, 21), (30, 7)]):
        labels = random.choice([0, 1, 2, 3, 4, IGNORE], (height, width)).astype(np.uint8)
        Image.fromarray(labels).save(tmp_path / f"annotations/val/{index}.png")
        pixels = random.integers(0, 255, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/val/{index}.png")
    return tmp_path


def test_a_data_set_is_measured_at_its_own_sizes(model, root):
    folder = SegmentationFolder(root, "val", num_classes=5)
    confusion, images, skipped = evaluate_segmenter(model, folder, 16)
    assert (images, skipped) == (3, []) and len(confusion.counts.unique()) > 5
    expected = Confusion(5)
    for path, mask, size in zip(folder.paths, folder.masks, ((23, 16), (16, 42), (64, 15)), strict=True):
        image = Image.open(path).resize(size[::-1], Image.Resampling.BILINEAR)
        std, mean = (torch.tensor(value)[:, None, None] for value in (model.config.backbone.std, (0.485, 0.456, 0.406)))
        given = (torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255 - mean) / std
        labels = torch.from_numpy(np.array(Image.open(mask)))
        with torch.no_grad():
            logits = F.interpolate(model(given[None]), labels.shape, mode="bilinear")
        expected.add(logits.argmax(1)[0], labels)
    assert (confusion.counts - expected.counts).abs().sum() <= 4  # ties by rounding
    assert evaluate_segmenter(model, folder, 16, limit=1)[1] == 1


def test_files_that_cannot_be_used_are_left_out(model, root):
    Image.fromarray(np.full((8, 21), 9, dtype=np.uint8)).save(root / "annotations/val/1.png")
    folder = SegmentationFolder(root, "val", num_classes=5)
    _, images, skipped = evaluate_segmenter(model, folder, 16)
    assert images == 2 and [path.name for path, _ in skipped] == ["1.png"] and "labels 9" in skipped[0][1]
    with pytest.raises(ValueError, match="labels 9"):
        evaluate_segmenter(model, folder, 16, strict=True)
    with pytest.raises(ValueError, match="tells 5 classes apart; .* has 10"):
        evaluate_segmenter(model, SegmentationFolder(root, "val", num_classes=10), 16)


def test_a_map_has_the_size_of_its_image(model):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (13, 30, 3), dtype=np.uint8))
    for short_side in (None, 9, 40):
        assert label_map(model, image, Inference(), short_side).shape == (13, 30)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ratios": ()}, "ratios are"),
        ({"ratios": (1.0, 0.0)}, "ratios are"),
        ({"step": (3, 3)}, "step is .* no effect"),
        ({"window": (0, 4)}, "window is"),
        ({"window": (4, 4), "step": (4, 5)}, "or pixels are lost"),
    ],
)
def test_impossible_inference_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        Inference(**changes)
