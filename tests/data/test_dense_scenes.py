"""The synthetic dense set: both formats say the same, and both loaders read it."""

import json

import numpy as np
import pytest
from PIL import Image

from anyres.data.coco import CocoImages, find_coco_split
from anyres.data.dense_scenes import DenseSceneConfig, draw_dense, write_dense
from anyres.data.segmentation import SegmentationFolder


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_dense(tmp_path_factory.mktemp("dense") / "set", train=5, val=3, size=61, progress=False)


def test_masks_of_objects_and_labels_of_pixels_agree(root):
    config = DenseSceneConfig(train=5, val=3, size=61)
    data = CocoImages(*find_coco_split(root, "train"))
    folder = SegmentationFolder(root, "train", num_classes=5)
    assert len(data) == len(folder) == 5 and data.classes == tuple("237A")
    sizes = set()
    for index in range(5):
        _, shown, labels = draw_dense(config, "train", index)
        target = data.target(index)
        kept = [number for number in range(1, len(labels) + 1) if (shown == number).sum() >= 12]
        assert target["labels"].tolist() == [labels[number - 1] for number in kept]
        for mask, box, number in zip(target["masks"], target["boxes"].tolist(), kept, strict=True):
            assert np.array_equal(mask.numpy().astype(bool), shown == number)
            rows, cols = np.nonzero(shown == number)
            assert box == [cols.min(), rows.min(), cols.max() + 1, rows.max() + 1]
        assert np.array_equal(np.array(Image.open(folder.masks[index])), np.array([0, *labels])[shown])
        sizes.add(shown.shape)
    assert len(sizes) > 1 and all(min(size) == 61 for size in sizes)


def test_the_same_set_is_left_alone_and_another_refused(root):
    before = (root / "data.json").stat().st_mtime_ns
    assert write_dense(root, train=5, val=3, size=61, progress=False) == root
    assert (root / "data.json").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="not empty"):
        write_dense(root, train=6, val=3, size=61, progress=False)


def test_images_without_objects_are_in_the_list_too(tmp_path):
    root = write_dense(tmp_path / "set", train=30, val=0, size=32, objects=(0, 1), progress=False)
    record = json.loads((root / "annotations" / "instances_train.json").read_text())
    assert len(record["images"]) == 30 > len({entry["image_id"] for entry in record["annotations"]})
    assert not (root / "annotations" / "instances_val.json").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [({"classes": "11"}, "each once"), ({"heights": (0.5, 0.1)}, "low <= high"), ({"objects": (3, 2)}, "fewest"),
     ({"train": 0}, "train is 0"), ({"aspect": (0, 1)}, "aspect")],
)  # fmt: skip
def test_impossible_sets_are_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_dense(tmp_path / "set", **options)
    assert not (tmp_path / "set").exists()
