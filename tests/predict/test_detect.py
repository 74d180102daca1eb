"""Objects in files: every one found once however windows cut it, and what is written of them."""

import json

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from anyres.data.coco_masks import decode_mask, encode_mask
from anyres.predict import finder as finder_module
from anyres.predict.config import DetectConfig
from anyres.predict.detect import IMAGES, RESULTS, find_objects
from anyres.predict.objects import Objects, objects_in


def pixels(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width]


def written(config):
    entries = find_objects(config, progress=False)
    return entries, json.loads((config.out / RESULTS).read_text())


def test_objects_name_their_images_and_stay_when_interrupted(finder, tmp_path, monkeypatch):
    paths = [tmp_path / f"{side}.png" for side in (40, 50, 60)]
    for path in paths:
        Image.fromarray(pixels(int(path.stem), 30)).save(path)
    config = DetectConfig(run=finder, inputs=tuple(paths), out=tmp_path / "out", threshold=0.0, device="cpu")
    find_objects(config, progress=False)
    images, results = (json.loads((config.out / name).read_text()) for name in (IMAGES, RESULTS))
    told = [(each["id"], each["file_name"], each["height"], each["width"]) for each in images]
    assert told == [(i, str(path), 40 + 10 * i, 30) for i, path in enumerate(paths)]
    assert {each["image_id"] for each in results} <= {0, 1, 2}
    done = []

    def objects(model, images, device):
        if done:
            raise KeyboardInterrupt
        done.append(images)
        return objects_in(model, images, device)

    monkeypatch.setattr(finder_module, "objects_in", objects)
    with pytest.raises(KeyboardInterrupt):
        find_objects(config, progress=False)
    assert [each["id"] for each in json.loads((config.out / IMAGES).read_text())] == [0]
    left = json.loads((config.out / RESULTS).read_text())
    assert left == [each for each in results if each["image_id"] == 0]


def rectangles_in(model, images, device):
    """Finds every patch of one of three colours, as a perfect detector would: what of it is in the window."""
    found = []
    for image in images:
        boxes, labels, masks = [], [], []
        for label, level in enumerate((80, 160, 240), start=1):
            for number in range(1, 256):  # the second channel tells objects apart, the third is that of objects
                is_it = ((image * 255).round() == torch.tensor([level, number, 200.0])[:, None, None]).all(0)
                if is_it.any():
                    rows, cols = is_it.any(1).nonzero()[:, 0], is_it.any(0).nonzero()[:, 0]
                    boxes.append([float(cols[0]), float(rows[0]), float(cols[-1]) + 1, float(rows[-1]) + 1])
                    labels.append(label)
                    masks.append(torch.ones(28, 28))
        scores = 1 - 0.001 * torch.arange(len(boxes))
        found.append(
            Objects(
                tuple(image.shape[-2:]), torch.tensor(boxes).view(-1, 4), scores, torch.tensor(labels).long(),
                torch.stack(masks) if masks else torch.zeros(0, 28, 28),
            )
        )  # fmt: skip
    return found


def scene(size, objects):
    """An image of rectangles (label, y, x, height, width)."""
    image = np.full((*size, 3), 20, np.uint8)
    for number, (label, y, x, height, width) in enumerate(objects, start=1):
        image[y : y + height, x : x + width] = (80 * label, number, 200)
    return image


def boxes_found(finder, tmp_path, monkeypatch, size, objects, **options):
    monkeypatch.setattr(finder_module, "objects_in", rectangles_in)
    tifffile.imwrite(tmp_path / "x.tif", scene(size, objects), photometric="rgb", tile=(32, 32))
    settings = {"window": "48x60", "max_pixels": 99, "device": "cpu", "threshold": 0.0} | options
    config = DetectConfig(run=finder, inputs=(tmp_path / "x.tif",), out=tmp_path / "out", **settings)
    (entry,), results = written(config)
    assert entry["objects"] == len(results)
    return results


@pytest.mark.parametrize("seed", range(4))
def test_every_object_no_larger_than_the_overlap_is_found_once(finder, tmp_path, monkeypatch, seed):
    random = np.random.default_rng(seed)
    size = (int(random.integers(60, 180)), int(random.integers(60, 230)))
    objects, taken = [], np.zeros(size, bool)
    for _ in range(60):
        height, width = int(random.integers(3, 13)), int(random.integers(3, 17))
        y, x = int(random.integers(0, size[0] - height)), int(random.integers(0, size[1] - width))
        if not taken[y : y + height, x : x + width].any():
            taken[y : y + height, x : x + width] = True
            objects.append((int(random.integers(1, 4)), y, x, height, width))
    results = boxes_found(finder, tmp_path, monkeypatch, size, objects, draw=True, batch_size=1 + seed)
    ids = {5: 1, 6: 2, 9: 3}
    found = [(ids[each["category_id"]], *np.rint(each["bbox"]).astype(int).tolist()) for each in results]
    assert sorted(found) == sorted((label, x, y, width, height) for label, y, x, height, width in objects)
    for (_, x, y, width, height), each in zip(found, results, strict=True):
        mask = decode_mask(each["segmentation"], size)
        rows, cols = np.nonzero(mask)
        assert abs(rows.min() - y) <= 1 and abs(cols.max() + 1 - x - width) <= 1
        assert width * height <= mask.sum() <= (width + 2) * (height + 2)
        assert each["segmentation"] == encode_mask(mask)
    picture = Image.open(tmp_path / "out/000000-x.png")
    assert picture.width % size[1] == 0


def test_neighbours_stay_two_and_what_no_window_sees_whole_is_kept(finder, tmp_path, monkeypatch):
    side_by_side = [(1, 30, 50, 10, 10), (1, 30, 60, 10, 10), (1, 40, 50, 10, 10)]
    results = boxes_found(finder, tmp_path, monkeypatch, (100, 150), side_by_side)
    assert len(results) == 3
    results = boxes_found(finder, tmp_path, monkeypatch, (100, 150), [(2, 20, 5, 10, 140)])
    pieces = [(each["bbox"][0], each["bbox"][0] + each["bbox"][2]) for each in results]
    assert len(pieces) > 1 and min(pieces)[0] == 5 and max(end for _, end in pieces) >= 140
    results = boxes_found(finder, tmp_path, monkeypatch, (100, 150), [(2, 20, 5, 10, 140)], window="99x150")
    assert [each["bbox"] for each in results] == [[5.0, 20.0, 140.0, 10.0]]


def test_windows_of_a_detector_see_pixels_as_they_are(finder, tmp_path, monkeypatch):
    seen = []

    def looked(model, images, device):
        seen.extend((tuple(image.shape[-2:]), model.transform.limits) for image in images)
        return rectangles_in(model, images, device)

    monkeypatch.setattr(finder_module, "objects_in", looked)
    tifffile.imwrite(tmp_path / "x.tif", pixels(150, 200), photometric="rgb", tile=(32, 32))
    config = DetectConfig(
        run=finder, inputs=(tmp_path / "x.tif",), out=tmp_path / "a", device="cpu", max_pixels=99, threshold=0.0
    )
    (entry,) = find_objects(config, progress=False)
    assert entry["window"] == [64, 96] and set(seen) == {((64, 96), (64, 96))}
