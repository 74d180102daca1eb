"""Batches for detection: image, boxes and masks move together, and every draw follows from seed, step and position."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from anyres.data.coco import CocoImages
from anyres.data.detection import AnnotatedReader, DetectionStream, ScaleJitter, spread
from anyres.data.schedule import ResolutionSchedule
from anyres.errors import UnreadableImageError

FILL = (0.5, 0.25, 0.0)


def rectangles(size, boxes):
    """A white image, and the target of filled rectangles with whole coordinates."""
    masks = torch.zeros((len(boxes), *size), dtype=torch.uint8)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = 1
    boxes = torch.tensor(boxes, dtype=torch.float32)
    area = masks.flatten(1).sum(1).float()
    labels = torch.arange(1, len(boxes) + 1)
    image = 255 * (1 - masks.amax(0, keepdim=True)).repeat(3, 1, 1)
    return image, {"boxes": boxes, "labels": labels, "area": area, "iscrowd": 0 * labels, "masks": masks}


def test_at_scale_one_nothing_changes_and_a_flip_mirrors():
    image, target = rectangles((21, 34), [(0, 0, 34, 21), (3, 5, 10, 20), (30, 1, 34, 9)])
    same, found = ScaleJitter(scale=(1.0, 1.0), hflip=0.0)(image, target, (21, 34), FILL)
    assert torch.equal(same, image / 255) and all(torch.equal(found[name], target[name]) for name in target)
    mirrored, turned = ScaleJitter(scale=(1.0, 1.0), hflip=1.0)(image, target, (21, 34), FILL)
    assert torch.equal(mirrored, same.flip(-1)) and torch.equal(turned["masks"], target["masks"].flip(-1))
    assert turned["boxes"].tolist() == [[0, 0, 34, 21], [24, 5, 31, 20], [0, 1, 4, 9]]


def test_a_smaller_image_is_padded_at_the_right_and_below():
    image, target = rectangles((20, 40), [(4, 2, 40, 20)])
    canvas, found = ScaleJitter(scale=(0.5, 0.5), hflip=0.0)(image, target, (50, 40), FILL)
    assert canvas.shape == (3, 50, 40) and found["boxes"].tolist() == [[2, 1, 20, 10]]
    assert torch.equal(canvas[:, 10:], torch.tensor(FILL)[:, None, None].expand(3, 40, 40))
    assert torch.equal(canvas[:, :10, 20:], torch.tensor(FILL)[:, None, None].expand(3, 10, 20))
    assert found["masks"].shape == (1, 50, 40) and found["masks"][0, 1:10, 2:20].all()
    assert found["masks"].sum() == 9 * 18 == found["area"].item() / 1.0 == target["area"].item() / 4


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("size", [(17, 40), (64, 23)])
def test_boxes_and_masks_stay_together_and_masks_are_those_of_resizing_and_cropping(seed, size):
    random = np.random.default_rng(seed)
    corners = np.sort(random.integers(0, (31, 45), (6, 2, 2)), axis=1)  # (y, x) twice
    boxes = [(x0, y0, x1 + 1, y1 + 1) for (y0, x0), (y1, x1) in corners.tolist()]
    image, target = rectangles((32, 46), boxes)
    torch.manual_seed(seed)
    canvas, found = ScaleJitter(hflip=0.5)(image, target, size, FILL)
    torch.manual_seed(seed)
    scale, down, across, flip = torch.rand(4, dtype=torch.float64).tolist()
    factor = (0.1 + 1.9 * scale) * min(size[0] / 32, size[1] / 46)
    whole = max(1, round(32 * factor)), max(1, round(46 * factor))
    crop = min(whole[0], size[0]), min(whole[1], size[1])
    top, left = int(down * (whole[0] - crop[0] + 1)), int(across * (whole[1] - crop[1] + 1))
    masks = F.interpolate(target["masks"][None].float(), whole, mode="nearest-exact")[0]
    masks = masks[:, top : top + crop[0], left : left + crop[1]]
    masks = masks.flip(-1) if flip < 0.5 else masks
    masks = F.pad(masks, (0, size[1] - crop[1], 0, size[0] - crop[0]))
    resized = F.interpolate(image[None] / 255, whole, mode="bilinear", antialias=True)[0]
    resized = resized[:, top : top + crop[0], left : left + crop[1]]
    seen = canvas[:, : crop[0], : crop[1]]
    assert torch.allclose(seen, resized.flip(-1) if flip < 0.5 else resized, atol=1.1 / 255)
    assert canvas.shape == (3, *size) and found["masks"].shape[1:] == size
    for label, mask, box in zip(found["labels"].tolist(), found["masks"], found["boxes"].tolist(), strict=True):
        assert torch.equal(mask.float(), masks[label - 1])
        rows, cols = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        around = [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]
        assert all(abs(one - other) < 1 for one, other in zip(box, around, strict=True))
        assert box[0] >= 0 and box[1] >= 0 and box[2] <= crop[1] and box[3] <= crop[0]
    gone = set(range(1, 7)) - set(found["labels"].tolist())
    assert all(masks[label - 1].any(0).sum() <= 2 or masks[label - 1].any(1).sum() <= 2 for label in gone)


def test_a_cut_box_becomes_that_of_what_is_left_of_its_mask():
    image, target = rectangles((20, 20), [(0, 0, 20, 20)])
    target["masks"][0] = 0
    target["masks"][0, 14:18, :] = 1
    target["masks"][0, :, 2:5] = 1  # a cross, whose box is that of both bars
    jitter, seen = ScaleJitter(scale=(2.0, 2.0), hflip=0.0), set()
    for seed in range(30):
        torch.manual_seed(seed)
        _, found = jitter(image, target, (20, 20), FILL)
        for mask, box in zip(found["masks"], found["boxes"].tolist(), strict=True):
            rows, cols = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            assert box == [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]
            seen.add(tuple(box))
    assert len(seen) > 5 and any(box[3] - box[1] < 20 for box in seen)


def test_settings_that_are_refused():
    for scale in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="allowed is 0 < low <= high"):
            ScaleJitter(scale=scale)
    with pytest.raises(ValueError, match="allowed is a probability"):
        ScaleJitter(hflip=1.5)


@pytest.fixture
def data(tmp_path):
    """Five images of several sizes with a rectangle each, the third without."""
    images, annotations = [], []
    for number in range(5):
        height, width = 20 + 7 * number, 33 - 3 * number
        Image.new("RGB", (width, height), (40 * number, 90, 0)).save(tmp_path / f"{number}.png")
        images.append({"id": number, "file_name": f"{number}.png", "height": height, "width": width})
        if number != 2:
            mask = {"size": [height, width], "counts": [0, 4 * height, (width - 4) * height]}
            annotations.append(
                {"id": number, "image_id": number, "category_id": 1, "bbox": [0, 0, 4, height], "segmentation": mask}
            )
    record = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "bar"}]}
    (tmp_path / "a.json").write_text(json.dumps(record))
    return CocoImages(tmp_path / "a.json", tmp_path)


def stream(data, **changes):
    settings = {"batch_size": 3, "schedule": ResolutionSchedule([(32, 40), (48, 48)], 5), "jitter": ScaleJitter()}
    return DetectionStream(data, **(settings | {"fill": FILL, "seed": 5} | changes))


def same(one, other):
    tensors = [one.images, *(value for target in one.targets for value in target.values())]
    others = [other.images, *(value for target in other.targets for value in target.values())]
    return one.size == other.size and all(torch.equal(a, b) for a, b in zip(tensors, others, strict=True))


def test_a_batch_is_a_function_of_the_step_alone(data):
    whole = list(stream(data).batches(0, 5))
    torch.rand(3)
    later = list(stream(data, num_workers=1).batches(2, 5))
    assert len(later) == 3 and all(same(one, other) for one, other in zip(later, whole[2:], strict=True))
    assert not same(whole[0], stream(data, seed=6).batch(0))
    assert {batch.size for batch in whole} == {(32, 40), (48, 48)}
    assert all(batch.images.shape == (3, 3, *batch.size) and len(batch.labels) == 3 for batch in whole)
    colours = [round(255 * image[0, 0, 0].item()) for batch in whole for image in batch.images]
    assert sorted(colours[:5]) == [0, 40, 80, 120, 160] == sorted(colours[5:10])  # each once in an epoch


def test_unreadable_images_and_those_of_another_size_are_replaced_or_refused(data):
    data.paths[1].write_bytes(b"no image")
    Image.new("RGB", (5, 5)).save(data.paths[3])
    found = [batch.skipped for batch in stream(data).batches(0, 4)]
    reasons = {path.name: reason for skipped in found for path, reason in skipped}
    assert sorted(reasons) == ["1.png", "3.png"] and "5x5 pixels, annotated as 41x24" in reasons["3.png"]
    with pytest.raises(UnreadableImageError):
        list(stream(data, strict=True).batches(0, 4))
    for path in data.paths:
        path.write_bytes(b"no image")
    with pytest.raises(ValueError, match="none of the 5 images"):
        stream(data).batch(0)
    with pytest.raises(UnreadableImageError):
        AnnotatedReader(data)(0)


def test_places_are_spread():
    assert spread(5, None) == spread(5, 9) == [0, 1, 2, 3, 4] and spread(10, 2) == [2, 7] and spread(9, 1) == [4]
