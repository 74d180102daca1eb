"""Average precision against pycocotools, results as COCO's JSON, and pictures."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from torchvision.models.detection.mask_rcnn import MaskRCNN
from torchvision.models.detection.roi_heads import paste_masks_in_image

from anyres.data.coco_masks import decode_mask, encode_mask
from anyres.metrics.average_precision import AveragePrecision
from anyres.models.architectures import DETECTOR
from anyres.models.detector import Detector
from anyres.predict.objects import coco_results, detect, draw_detections, write_results
from anyres.predict.pictures import class_colour
from anyres.predict.placed_masks import PlacedMask, place_mask

IDS = (4, 9, 30)
NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large")


def rectangle(size, box):
    mask = torch.zeros(size, dtype=torch.bool)
    x0, y0, x1, y1 = (round(each) for each in box)
    mask[y0:y1, x0:x1] = True
    return mask


def instances(random, size, count):
    corners = random.uniform(0, 1, (count, 2, 2)) * [size[1] - 3, size[0] - 3]
    boxes = np.concatenate([corners.min(1), corners.max(1) + 2], axis=1)
    boxes = torch.tensor(boxes, dtype=torch.float32)
    masks = torch.stack([rectangle(size, box) for box in boxes.tolist()]) if count else torch.zeros(0, *size).bool()
    return {"boxes": boxes, "masks": masks, "labels": torch.tensor(random.integers(1, 4, count))}


def scenes(seed):
    """Images with objects, crowds among them, and noisy copies, doubles and inventions of them as what was found."""
    random, targets, found = np.random.default_rng(seed), [], []
    for number in range(8):
        size = (int(random.integers(40, 300)), int(random.integers(40, 300)))
        target = instances(random, size, int(random.integers(0, 6)) if number else 0)
        count = len(target["labels"])
        target["iscrowd"] = torch.tensor(random.random(count) < 0.2).long()
        target["area"] = target["masks"].flatten(1).sum(1).float()
        other = instances(random, size, 3)
        noisy = target["boxes"] + torch.tensor(random.normal(0, 3, (count, 4)), dtype=torch.float32)
        noisy = torch.cat([noisy[:, :2], torch.maximum(noisy[:, 2:], noisy[:, :2] + 1)], dim=1).clamp(min=0)
        boxes = torch.cat([noisy, other["boxes"], target["boxes"]])
        each = {
            "boxes": boxes,
            "masks": torch.stack([rectangle(size, box) for box in boxes.tolist()]),
            "labels": torch.cat([target["labels"], other["labels"], target["labels"]]),
            "scores": torch.tensor(random.random(len(boxes)), dtype=torch.float32),
        }
        order = each["scores"].argsort(descending=True)
        targets.append(target)
        found.append({name: value[order] for name, value in each.items()})
    return found, targets


def by_pycocotools(found, targets, kind, tmp_path):
    annotations, results = [], []
    for number, (each, target) in enumerate(zip(found, targets, strict=True)):
        for result in coco_results(number, each, IDS):
            if kind == "segm":
                del result["bbox"]  # else pycocotools sorts masks by the area of their boxes
            results.append(result)
        for place, (x0, y0, x1, y1) in enumerate(target["boxes"].tolist()):
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": number, "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "category_id": IDS[int(target["labels"][place]) - 1], "area": target["area"][place].item(),
                    "iscrowd": int(target["iscrowd"][place]),
                    "segmentation": encode_mask(target["masks"][place].numpy()),
                }
            )  # fmt: skip
    sizes = [target["masks"].shape[1:] for target in targets]
    record = {
        "images": [{"id": n, "height": size[0], "width": size[1]} for n, size in enumerate(sizes)],
        "annotations": annotations, "categories": [{"id": each, "name": str(each)} for each in IDS], "info": {},
    }  # fmt: skip
    (tmp_path / "truth.json").write_text(json.dumps(record))
    write_results(tmp_path / "found.json", results)
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(str(tmp_path / "truth.json"))
        measure = COCOeval(truth, truth.loadRes(str(tmp_path / "found.json")), kind)
        measure.evaluate()
        measure.accumulate()
        measure.summarize()
    return measure.stats[:6]


@pytest.mark.parametrize("seed", [0, 1])
def test_it_is_what_pycocotools_says_of_the_written_results(seed, tmp_path):
    found, targets = scenes(seed)
    measure = AveragePrecision()
    for one, other in zip(found, targets, strict=True):
        measure.update([one], [other])
    measured = measure.compute()
    for name, kind in (("box", "bbox"), ("mask", "segm")):
        wanted = by_pycocotools(found, targets, kind, tmp_path)
        assert 5 < 100 * wanted[0] < 95
        for short, value in zip(NAMES, wanted, strict=True):
            expected = None if value < 0 else pytest.approx(100 * value, abs=1e-4)
            assert measured[f"{name}_{short}"] == expected, (name, short)


def test_perfect_and_empty_results_and_boxes_alone():
    _, targets = scenes(3)
    targets = [{**target, "iscrowd": 0 * target["iscrowd"]} for target in targets]
    perfect = [{**target, "scores": torch.ones(len(target["labels"]))} for target in targets]
    measure = AveragePrecision(masks=False)
    measure.update([{name: each[name] for name in ("boxes", "labels", "scores")} for each in perfect], targets)
    measured = measure.compute()
    assert set(measured) == {f"box_{name}" for name in NAMES}
    assert measured["box_ap"] == measured["box_ap50"] == pytest.approx(100)
    measure = AveragePrecision()
    measure.update([{name: value[:0] for name, value in each.items()} for each in perfect], targets)
    measured = measure.compute()
    assert measured["box_ap"] == measured["mask_ap"] == 0


def test_results_are_plain_json_with_original_ids():
    found, _ = scenes(0)
    results = coco_results(12, found[1], IDS)
    assert json.loads(json.dumps(results)) == results and {each["image_id"] for each in results} == {12}
    assert {each["category_id"] for each in results} <= set(IDS)
    x, y, width, height = results[0]["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(found[1]["boxes"][0].tolist(), abs=1e-4)
    boxes_alone = {name: value for name, value in found[1].items() if name != "masks"}
    assert all("segmentation" not in each for each in coco_results(12, boxes_alone, IDS))


def test_pictures_show_what_is_above_the_threshold_and_nothing_else():
    image = Image.new("L", (600, 400), 100)
    found = {
        "boxes": torch.tensor([[50.0, 150.0, 250.0, 350.0], [400.0, 200.0, 580.0, 380.0]]),
        "labels": torch.tensor([2, 1]), "scores": torch.tensor([0.9, 0.3]),
    }  # fmt: skip
    found["masks"] = torch.stack([rectangle((400, 600), box) for box in found["boxes"].tolist()])
    picture = np.asarray(draw_detections(image, found, ("a", "b"), threshold=0.5))
    assert picture.shape == (400, 600, 3) and (picture[:, 330:] == 100).all()
    assert (picture[300, 150] == np.rint(0.55 * 100 + 0.45 * np.array(class_colour(2)))).all()
    assert (picture[250, 50] == class_colour(2)).all()
    assert (np.asarray(draw_detections(image, found, ("a", "b"), threshold=0.95)) == 100).all()
    assert (np.asarray(draw_detections(image, found, ("a", "b"), threshold=0.2))[:, 330:] != 100).any()


@pytest.mark.parametrize("size", [(40, 60), (17, 5), (3000, 2000)])
def test_names_can_be_read_at_every_size(size):
    found = {
        "boxes": torch.tensor([[0.0, 0.0, size[1], size[0]]]),
        "labels": torch.tensor([1]),
        "scores": torch.ones(1),
    }
    picture = np.asarray(draw_detections(Image.new("RGB", size[::-1]), found, ("name",)))
    factor = len(picture) / size[0]
    assert factor == int(factor) and max(picture.shape) >= 480 and (factor == 1) == (max(size) >= 480)
    name = (picture == class_colour(1)).all(2)[: 40 * max(1, int(factor))]
    assert name.all(1).sum() + name.any(1).sum() > 12 and (picture == 0).any() and not (picture == 0).all()


def test_classes_have_colours_of_their_own():
    colours = np.array([class_colour(label) for label in range(256)])
    apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 1e9 * np.eye(256)
    assert apart.min() > 0 and apart[:16, :16].min() > 50 and (np.diag(apart, 1) > 100).all()
    assert class_colour(0) == (0, 0, 0) and colours[1:].max(1).min() > 150


@pytest.mark.parametrize("size", [(37, 53), (64, 64), (5, 3)])
def test_masks_are_placed_as_torchvision_pastes_them(size):
    random = np.random.default_rng(size[0])
    corners = random.uniform(-0.3, 1.3, (40, 2, 2)) * size[::-1]
    boxes = torch.tensor(np.concatenate([corners.min(1), corners.max(1)], axis=1), dtype=torch.float32)
    boxes = torch.minimum(boxes.clamp(min=0), torch.tensor([size[1], size[0]] * 2))
    small = torch.tensor(random.random((40, 1, 28, 28)), dtype=torch.float32)
    wanted = (paste_masks_in_image(small, boxes, size)[:, 0] > 0.5).numpy()
    around, offset = (size[0] + 11, size[1] + 7), (4, 7)
    assert wanted.any()
    for mask, box, expected in zip(small[:, 0], boxes, wanted, strict=True):
        placed = place_mask(mask, box, size)
        assert (placed.whole(size) == expected).all()
        assert placed.encode(size) == encode_mask(expected)
        wide = np.zeros(around, dtype=bool)
        wide[offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]] = expected
        assert placed.encode(around, offset) == encode_mask(wide)
        thin = placed.every(3, offset)
        assert (thin.whole((-(-around[0] // 3), -(-around[1] // 3))) == wide[::3, ::3]).all()


def test_runs_that_meet_at_the_end_of_a_column_are_one():
    part = np.array([[1, 1, 0], [1, 1, 1], [1, 1, 1]], dtype=bool)
    for size, offset in (((3, 3), (0, 0)), ((3, 5), (0, 2)), ((4, 3), (1, 0)), ((9, 9), (3, 3))):
        whole = PlacedMask(part, 0, 0).whole((3, 3))
        wide = np.zeros(size, dtype=bool)
        wide[offset[0] : offset[0] + 3, offset[1] : offset[1] + 3] = whole
        assert PlacedMask(part, 0, 0).encode(size, offset) == encode_mask(wide)
        assert (decode_mask(PlacedMask(part, 0, 0).encode(size, offset), size) == wide).all()
    assert PlacedMask(np.zeros((0, 0), dtype=bool), 0, 0).encode((2, 3)) == encode_mask(np.zeros((2, 3)))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    options = {"patch_size": 8, "grid": 4, "width": 16, "depth": 2, "heads": 2, "num_classes": 3, "channels": 8}
    options |= {"box_features": 16, "anchor_sizes": (8, 16, 32, 64, 128), "train_proposals": 50, "test_proposals": 30}
    options |= {"min_size": 64, "max_size": 96, "score_threshold": 0.0, "detections": 20}
    made = Detector(DETECTOR.get_config("mask_rcnn_vitar_small_patch16", **options)).eval()
    torch.nn.init.normal_(made.roi_heads.box_predictor.cls_score.weight, std=0.5)
    torch.nn.init.normal_(made.roi_heads.mask_predictor.mask_fcn_logits.weight, std=1.0)
    return made


def test_images_of_several_sizes_at_once_give_what_they_give_alone(model):
    images = [torch.rand(3, height, width) for height, width in ((41, 67), (90, 33), (64, 64), (40, 66), (61, 64))]
    together = detect(model, images)
    assert sum(len(found["scores"]) for found in together) > 20
    for image, found in zip(images, together, strict=True):
        with torch.no_grad():
            (alone,) = MaskRCNN.forward(model, [image])  # torchvision's own way, with whole masks
            (ours,) = model([image])
        assert all(torch.equal(ours[name], value) for name, value in alone.items()) and ours.keys() == alone.keys()
        assert len(found["scores"]) == len(alone["scores"])
        for name in ("boxes", "scores", "labels"):
            torch.testing.assert_close(found[name], alone[name], rtol=1e-4, atol=1e-4)
        assert (found["masks"] != (alone["masks"][:, 0] > 0.5)).float().mean() < 1e-4
