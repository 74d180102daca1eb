"""Images of several sizes at once give what they give alone."""

import json

import numpy as np
import pytest
from PIL import Image

from anyres.predict.config import DetectConfig, SegmentConfig
from anyres.predict.detect import RESULTS, find_objects
from anyres.predict.segment import segment


def pixels(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width]


def labels_of(entry):
    return np.array(Image.open(entry["labels"]))


def written(config):
    entries = find_objects(config, progress=False)
    return entries, json.loads((config.out / RESULTS).read_text())


@pytest.mark.parametrize("task", ["segmentation", "detection"])
def test_files_of_several_sizes_at_once_give_what_they_give_alone(labeller, finder, tmp_path, task):
    (tmp_path / "in").mkdir()
    for index, size in enumerate([(41, 67), (90, 33), (64, 64), (40, 66), (64, 64)]):
        Image.fromarray(pixels(*size, index)).save(tmp_path / f"in/{index}.png")
    (tmp_path / "in/2a.png").write_bytes(b"torn")
    found = []
    for batch_size in (1, 4):
        options = {"inputs": (tmp_path / "in",), "out": tmp_path / str(batch_size), "batch_size": batch_size}
        options |= {"device": "cpu", "draw": True}
        if task == "segmentation":
            entries = segment(SegmentConfig(run=labeller, **options), progress=False)
            maps = [labels_of(entry) for entry in entries if "labels" in entry]
            found.append(([(entry["path"], "reason" in entry) for entry in entries], maps))
        else:
            found.append(written(DetectConfig(run=finder, **options, threshold=0.0)))
    (entries, one), (others, other) = found
    assert entries == others and sum("reason" in entry for entry in entries if task == "detection") in (0, 1)
    assert len(one) == len(other) > 4
    for first, second in zip(one, other, strict=True):
        if task == "segmentation":
            assert (first != second).mean() < 1e-3
        else:
            assert (first["image_id"], first["category_id"]) == (second["image_id"], second["category_id"])
            assert first["bbox"] == pytest.approx(second["bbox"], abs=1e-3)
            assert first["score"] == pytest.approx(second["score"], abs=1e-4)
