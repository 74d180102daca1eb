"""Batches for detection: image, boxes and masks move together, and every draw follows from seed, step and position."""

import json

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2 import functional

from anyres.data.augment import MultiScale, ScaleJitter
from anyres.data.coco import CocoImages
from anyres.data.detection import AnnotatedReader, DetectionStream
from anyres.data.detection_augment import augmented, on_canvas
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
    same, found = augmented(ScaleJitter(scale=(1.0, 1.0), hflip=0.0), image, target, (21, 34), FILL)
    assert torch.equal(same, image / 255) and all(torch.equal(found[name], target[name]) for name in target)
    mirrored, turned = augmented(ScaleJitter(scale=(1.0, 1.0), hflip=1.0), image, target, (21, 34), FILL)
    assert torch.equal(mirrored, same.flip(-1)) and torch.equal(turned["masks"], target["masks"].flip(-1))
    assert turned["boxes"].tolist() == [[0, 0, 34, 21], [24, 5, 31, 20], [0, 1, 4, 9]]


def test_a_smaller_image_is_padded_at_the_right_and_below():
    image, target = rectangles((20, 40), [(4, 2, 40, 20)])
    canvas, found = augmented(ScaleJitter(scale=(0.5, 0.5), hflip=0.0), image, target, (50, 40), FILL)
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
    canvas, found = augmented(ScaleJitter(hflip=0.5), image, target, size, FILL)
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
        _, found = augmented(jitter, image, target, (20, 20), FILL)
        for mask, box in zip(found["masks"], found["boxes"].tolist(), strict=True):
            rows, cols = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
            assert box == [cols[0], rows[0], cols[-1] + 1, rows[-1] + 1]
            seen.add(tuple(box))
    assert len(seen) > 5 and any(box[3] - box[1] < 20 for box in seen)


def test_settings_that_are_refused():
    for scale in ((0.0, 1.0), (2.0, 1.0), (1.0, float("inf"))):
        with pytest.raises(ValueError, match="allowed: 0 < low <= high"):
            ScaleJitter(scale=scale)
    with pytest.raises(ValueError, match="allowed: a probability"):
        ScaleJitter(hflip=1.5)


SMALL = MultiScale(shortest=20, spacing=7, before=(17, 23, 40), crop=(13, 29), most=31)  # for images of 20 to 50


def steps_of(augment, height, width, size):
    """Resizings and crops of the next draws as (whole, corner, crop), and whether the image is flipped."""
    draws = torch.rand(10, dtype=torch.float64).tolist()

    def fit(height, width, short):
        scale = min(short / min(height, width), max(size) / max(height, width))
        return max(1, round(height * scale)), max(1, round(width * scale))

    def place(whole, crop, draws):
        return tuple(int(draw * (side - part + 1)) for draw, side, part in zip(draws, whole, crop, strict=True))

    steps = []
    if draws[0] < augment.crop_prob:
        whole = fit(height, width, augment.before[int(draws[1] * len(augment.before))])
        low, high = augment.crop
        crop = tuple(
            min(low, side) + int(draw * (min(high, side) - min(low, side) + 1))
            for side, draw in zip(whole, draws[2:4], strict=True)
        )
        steps.append((whole, place(whole, crop, draws[4:6]), crop))
        height, width = crop
    sides = list(range(augment.shortest, min(size) + 1, augment.spacing))
    whole = fit(height, width, sides[int(draws[6] * len(sides))])
    crop = tuple(min(side, augment.most) for side in whole)
    return [*steps, (whole, place(whole, crop, draws[7:9]), crop)], draws[9] < augment.hflip


@pytest.mark.parametrize("seed", range(24))
@pytest.mark.parametrize("shape", [(32, 46), (47, 29)])
def test_multi_scale_moves_all_as_torchvision_moves_its_tensors(seed, shape):
    """Images, boxes and masks, resized, cropped and flipped as tv_tensors, with masks read as nearest exact."""
    random = np.random.default_rng(seed)
    corners = np.sort(random.integers(0, (shape[0] - 1, shape[1] - 1), (6, 2, 2)), axis=1)  # (y, x) twice
    boxes = [(x0, y0, x1 + 1, y1 + 1) for (y0, x0), (y1, x1) in corners.tolist()]
    image, target = rectangles(shape, boxes)
    image = torch.from_numpy(random.integers(0, 256, (3, *shape), dtype=np.uint8))
    torch.manual_seed(seed)
    seen, found = augmented(SMALL, image, target, (37, 51), FILL)
    torch.manual_seed(seed)
    steps, flips = steps_of(SMALL, *shape, (37, 51))
    theirs, masks = tv_tensors.Image(image), target["masks"]
    moved = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=shape)
    for whole, (top, left), crop in steps:
        theirs = functional.crop(functional.resize(theirs, list(whole), antialias=True), top, left, *crop)
        masks = functional.resize(masks, list(whole), InterpolationMode.NEAREST_EXACT)
        masks = functional.crop(masks, top, left, *crop)
        moved = functional.clamp_bounding_boxes(functional.crop(functional.resize(moved, whole), top, left, *crop))
    if flips:
        theirs, masks, moved = (functional.horizontal_flip(each) for each in (theirs, masks, moved))
    assert torch.equal(seen, functional.to_dtype(theirs, torch.float32, scale=True).as_subclass(torch.Tensor))
    assert max(seen.shape[1:]) <= 31 and found["masks"].shape[1:] == seen.shape[1:]
    kept = (found["labels"] - 1).tolist()
    assert torch.equal(found["masks"], masks[kept])
    # Nearest reading moves an edge by half a pixel at most, twice where the image is resized twice.
    pixel = 1 + (steps[1][0][0] / steps[0][2][0] if len(steps) > 1 else 0)
    if kept:
        assert (found["boxes"] - moved[kept].as_subclass(torch.Tensor)).abs().max() <= pixel
    gone = [place for place in range(6) if place not in kept]
    thin = (moved[gone][:, 2:] - moved[gone][:, :2]).amin(1) if gone else torch.zeros(0)
    assert all(side < 1 + pixel or not masks[place].any() for side, place in zip(thin, gone, strict=True))


def test_multi_scale_without_crops_has_torchvisions_boxes_exactly():
    image, target = rectangles((33, 47), [(0, 0, 47, 33), (5, 2, 17, 31), (40, 30, 47, 33)])
    augment, sizes = MultiScale(shortest=20, spacing=5, crop_prob=0.0, most=99), set()
    for seed in range(20):
        torch.manual_seed(seed)
        seen, found = augmented(augment, image, target, (35, 48), FILL)
        torch.manual_seed(seed)
        _, flips = steps_of(augment, 33, 47, (35, 48))
        theirs = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=(33, 47))
        theirs = functional.resize(theirs, list(seen.shape[1:]))
        theirs = functional.horizontal_flip(theirs) if flips else theirs
        torch.testing.assert_close(found["boxes"], theirs.as_subclass(torch.Tensor))
        factor = seen.shape[1] * seen.shape[2] / (33 * 47)
        torch.testing.assert_close(found["area"], target["area"] * factor)
        sizes.add(tuple(seen.shape[1:]))
    assert sizes == {(20, 28), (25, 36), (30, 43), (34, 48)}  # the last is held by the longer side


def test_the_recipe_of_multi_scale_training():
    """Short sides 480, 512, ... 800 with a long side up to 1333, at most 1024 of it, and half of the images cropped."""
    augment, image, target = MultiScale(), *rectangles((480, 640), [(0, 0, 640, 480)])
    assert list(augment.sides((800, 1333))) == [480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800]
    sizes = []
    for seed in range(24):
        torch.manual_seed(seed)
        sizes.append(tuple(augmented(augment, image, target, (800, 1333), FILL)[0].shape[1:]))
    assert all(max(size) <= 1024 and 384 <= min(size) <= 800 for size in sizes)
    whole = {(side, min(round(side * 4 / 3), 1024)) for side in augment.sides((800, 1333))}
    assert 5 < sum(size in whole for size in sizes) < 19


def test_settings_of_multi_scale_that_are_refused():
    for changes, message in (
        ({"crop_prob": 1.5}, "crop_prob is 1.5; allowed: a probability"),
        ({"hflip": -0.5}, "hflip is -0.5"),
        ({"shortest": 0}, "shortest is 0"),
        ({"spacing": 0}, "spacing is 0"),
        ({"most": 0}, "most is 0"),
        ({"before": ()}, r"before is \(\)"),
        ({"crop": (600, 384)}, "1 <= low <= high"),
        ({"crop_prob": 0.0, "before": (500,)}, "before is .*no effect because crop_prob is 0"),
        ({"crop_prob": 0.0, "crop": (1, 2)}, "crop is .*no effect because crop_prob is 0"),
    ):
        with pytest.raises(ValueError, match=message):
            MultiScale(**changes)
    with pytest.raises(ValueError, match="size is 224x900.*begin at 480.*shortest=224"):
        MultiScale().check((224, 900))
    with pytest.raises(ValueError, match="most is 1333, but it has no effect because no side exceeds 1333"):
        MultiScale(most=1333).check((800, 1333))
    MultiScale().check((480, 480))


def test_a_canvas_completes_image_and_masks():
    image, target = rectangles((3, 5), [(1, 0, 5, 2)])
    canvas, found = on_canvas(image / 255, target, (4, 7), FILL)
    assert torch.equal(canvas[:, :3, :5], image / 255) and (canvas[:, 3, 0] == torch.tensor(FILL)).all()
    assert (canvas[:, 0, 5:] == torch.tensor(FILL)[:, None]).all() and found["masks"].sum() == target["masks"].sum()
    assert found["masks"].shape == (1, 4, 7) and torch.equal(found["boxes"], target["boxes"])


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
    settings = {"batch_size": 3, "schedule": ResolutionSchedule([(32, 40), (48, 48)], 5), "augment": ScaleJitter()}
    return DetectionStream(data, **(settings | {"fill": FILL, "seed": 5} | changes))


def same(one, other):
    tensors = [one.images, one.keys, *(value for target in one.targets for value in target.values())]
    others = [other.images, other.keys, *(value for target in other.targets for value in target.values())]
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


def test_a_batch_of_multi_scale_has_the_smallest_canvas_for_its_images(data):
    batches = list(stream(data, augment=SMALL, schedule=ResolutionSchedule([(37, 51)], 5)).batches(0, 12))
    for batch in batches:
        assert batch.images.shape == (3, 3, *batch.size) and max(batch.size) <= 31
        assert all(target["masks"].shape[1:] == batch.size for target in batch.targets)
        is_padding = (batch.images == torch.tensor(FILL)[:, None, None]).all(1)  # (B, H, W)
        assert not is_padding[:, -1, 0].all() and not is_padding[:, 0, -1].all()
        for empty, target in zip(is_padding, batch.targets, strict=True):
            assert not (target["masks"].bool() & empty).any()
    assert len({batch.size for batch in batches}) > 3
    again = stream(data, augment=SMALL, schedule=ResolutionSchedule([(37, 51)], 5), num_workers=1)
    assert all(same(one, other) for one, other in zip(again.batches(0, 3), batches, strict=False))


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
