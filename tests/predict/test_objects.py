"""What a detector finds: equal to torchvision, as plain JSON, drawn."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.mask_rcnn import MaskRCNN

from anyres.models.architectures import DETECTOR
from anyres.models.detector import Detector
from anyres.predict.objects import coco_results, detect, draw_detections
from anyres.predict.pictures import class_colour

IDS = (4, 9, 30)


def rectangle(size, box):
    mask = torch.zeros(size, dtype=torch.bool)
    x0, y0, x1, y1 = (round(each) for each in box)
    mask[y0:y1, x0:x1] = True
    return mask


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


def test_results_are_plain_json_with_original_ids(model):
    (found,) = detect(model, [torch.rand(3, 41, 67)])
    results = coco_results(12, found, IDS)
    assert len(results) == len(found["scores"]) > 3
    assert json.loads(json.dumps(results)) == results and {each["image_id"] for each in results} == {12}
    assert {each["category_id"] for each in results} <= set(IDS)
    x, y, width, height = results[0]["bbox"]
    assert [x, y, x + width, y + height] == pytest.approx(found["boxes"][0].tolist(), abs=1e-4)
    boxes_alone = {name: value for name, value in found.items() if name != "masks"}
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
