"""Average precision against pycocotools."""

import contextlib
import io
import json

import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anyres.data.coco_masks import encode_mask
from anyres.metrics.average_precision import AveragePrecision
from anyres.predict.objects import coco_results, write_results

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
