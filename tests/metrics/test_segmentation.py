"""Intersection over union against sets of pixels, of maps and of data sets."""

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


def test_a_class_that_no_pixel_has_is_absent_whether_or_not_it_is_predicted():
    confusion = Confusion(4)
    confusion.add(torch.tensor([[0, 0, 2]]), torch.tensor([[0, 1, 1]]))
    assert confusion.absent() == [2, 3]
    assert measured(confusion)["iou"] == [50.0, 0.0, 0.0, None]  # what is said in vain counts against it
