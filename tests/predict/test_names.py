"""Label maps, objects and masks of files whose names are no text."""

import json
import os

import numpy as np
from PIL import Image

from anyres.data.segmentation import SegmentationFolder
from anyres.predict.config import DetectConfig, SegmentConfig
from anyres.predict.detect import IMAGES, find_objects
from anyres.predict.segment import segment

STEM = os.fsdecode(b"caf\xe9")


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(path)
    return path


def test_label_maps_are_named_after_them(labeller, tmp_path):
    image = picture(tmp_path / f"{STEM}.png")
    config = SegmentConfig(run=labeller, inputs=(image,), out=tmp_path / "out", draw=True, device="cpu")
    (entry,) = segment(config, progress=False)
    assert entry["path"] == str(image) and entry["labels"] == str(tmp_path / "out" / f"{STEM}.png")
    assert sorted(os.listdir(os.fsencode(tmp_path / "out"))) == [b"caf\xe9.drawn.png", b"caf\xe9.png"]


def test_objects_say_which_file_they_are_of(finder, tmp_path):
    image = picture(tmp_path / f"{STEM}.png")
    find_objects(
        DetectConfig(run=finder, inputs=(image,), out=tmp_path / "out", draw=True, device="cpu"), progress=False
    )
    (found,) = json.loads((tmp_path / "out" / IMAGES).read_text())
    assert found["file_name"] == str(image)
    assert b"000000-caf\xe9.png" in os.listdir(os.fsencode(tmp_path / "out"))


def test_masks_have_a_digest(tmp_path):
    picture(tmp_path / "images" / "train" / f"{STEM}.png")
    mask = tmp_path / "annotations" / "train" / f"{STEM}.png"
    mask.parent.mkdir(parents=True)
    Image.new("L", (30, 20), 1).save(mask)
    folder = SegmentationFolder(tmp_path, "train", num_classes=2)
    before = folder.digest()
    assert before == SegmentationFolder(tmp_path, "train", num_classes=2).digest()
    mask.rename(mask.with_name("other.png"))
    (tmp_path / "images" / "train" / f"{STEM}.png").rename(tmp_path / "images" / "train" / "other.png")
    assert before != SegmentationFolder(tmp_path, "train", num_classes=2).digest()
