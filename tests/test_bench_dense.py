"""The comparison of dense backbones, two variants of each task at a tiny scale from images to table and picture."""

import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import dense
import dense_measure
import dense_setup
from dense_variants import VARIANTS

from anyres.data.coco import CocoImages
from anyres.data.segmentation import IGNORE
from anyres.metrics.average_precision import AveragePrecision
from anyres.predict.objects import coco_results

TWO = {"detection": 2, "segmentation": 2, "unmerge": 2}
TINY = dense_setup.Scale(train=4, val=3, size=32, width=12, depth=4, channels=8, batch=TWO, steps=TWO)
NAMES = {
    "detection": ("vitar-2x2", "vitdet"),
    "segmentation": ("vitar-2x2", "resformer"),
    "unmerge": ("unmerge-8", "plain-8"),
}
SOME = [variant for variant in VARIANTS if variant.name in NAMES[variant.task]]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    threads = torch.get_num_threads()
    paths = (folder / "study", folder / "out" / "dense.json", folder / "out" / "dense.png")
    found = dense.study(TINY, *paths, SOME, seeds=1, processes=1)
    torch.set_num_threads(threads)
    return paths, found


def test_every_run_is_in_results_tables_and_picture(finished):
    (_, results, image), found = finished
    assert json.loads(results.read_text()) == json.loads(json.dumps(found))
    assert [(row["task"], row["name"]) for row in found["rows"]] == [(each.task, each.name) for each in SOME]
    text = results.with_suffix(".md").read_text()
    for row in found["rows"]:
        assert f"| {row['name']} |" in text and row["text"] in text
        assert row["steps"] == 2 and row["step_bytes"] > 0 and row["seconds_per_step"] > 0
        for size in row["sizes"].values():
            assert 0 < size["backbone_macs"] < size["macs"] and size["forward_bytes"] > 0
    with Image.open(image) as picture:
        assert picture.width > picture.height > 400


def test_what_is_finished_is_left_alone_and_another_study_refused(finished):
    (folder, results, image), found = finished
    files = sorted((folder / "runs").glob("*.json"))
    times = [file.stat().st_mtime_ns for file in files]
    again = dense.study(TINY, folder, results, image, SOME[:1], seeds=1, processes=2)
    assert again["rows"] == found["rows"] and [file.stat().st_mtime_ns for file in files] == times
    other = dense.replace(TINY, steps={**TINY.steps, "detection": 3})
    with pytest.raises(ValueError, match="steps: 2 there, 3 here"):
        dense.study(other, folder, results, image, SOME[:1], seeds=1, processes=1)


@pytest.mark.slow
def test_processes_give_what_one_gives(finished, tmp_path):
    (folder, _, _), found = finished
    scale_folder = tmp_path / "study"
    dense.write_images(TINY, scale_folder / "data")
    job = dense.Job(SOME[2], 0, TINY, scale_folder)
    dense.run_all([job], 2)
    row, before = job.row(), found["rows"][2]
    assert row is not None and row["sizes"] == before["sizes"] and row["step_bytes"] == before["step_bytes"]


def test_names_that_no_variant_has():
    with pytest.raises(ValueError, match="vitar-1x1"):
        dense.chosen(["detection"], ["vitar-1x2"])
    assert [each.name for each in dense.chosen(["detection"], ["vit"])] == ["vit"]


def test_ap_of_all_heights_is_torchmetrics(finished):
    """With boxes and masks of which some are right, some shifted and some of a wrong class."""
    (folder, _, _), _ = finished
    data = folder / "data"
    found_split = dense_measure.find_coco_split(data, "val")
    images = CocoImages(*found_split)
    metric, results = AveragePrecision(), []
    for index, image in enumerate(images.images):
        target = images.target(index)
        boxes = target["boxes"].clone()
        boxes[::2, 0] = (boxes[::2, 0] + boxes[::2, 2]) / 2
        found = {
            "boxes": boxes, "labels": target["labels"], "masks": target["masks"].bool(),
            "scores": torch.linspace(0.9, 0.3, len(boxes)),
        }  # fmt: skip
        metric.update([found], [target])
        results += coco_results(image.id, found, images.category_ids)
    measures, limits = metric.compute(), dense_measure.thirds(data)
    for kind, name in (("bbox", "box_ap"), ("segm", "mask_ap")):
        assert dense_measure.ap_by_height(found_split[0], results, kind, limits)["all"] == pytest.approx(measures[name])
    none = dense_measure.ap_by_height(found_split[0], results[:0], "bbox", limits)
    assert set(none.values()) == {0.0}


def test_ap_of_a_third_sees_its_objects_alone(tmp_path):
    """Two objects of 10 px found rightly, one of 40 px missed, one of 100 px found of another class."""
    heights, labels = (10, 10, 40, 100), (1, 1, 1, 1)
    annotations = [
        {"id": i + 1, "image_id": 0, "category_id": label, "iscrowd": 0, "bbox": [150 * i, 0, 20, height], "area": 1}
        for i, (height, label) in enumerate(zip(heights, labels, strict=True))
    ]
    record = {
        "images": [{"id": 0, "height": 100, "width": 600, "file_name": "0.png"}], "annotations": annotations,
        "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}],
    }  # fmt: skip
    file = tmp_path / "truth.json"
    file.write_text(json.dumps(record))
    results = [
        {"image_id": 0, "category_id": 2 if i == 3 else 1, "bbox": annotations[i]["bbox"], "score": 0.9}
        for i in (0, 1, 3)
    ]
    found = dense_measure.ap_by_height(file, results, "bbox", (10.0, 50.0))
    assert found["small"] == pytest.approx(100) and found["middle"] == 0 and found["large"] == 0
    assert 0 < found["all"] < 100


def test_around_a_third_larger_objects_and_the_rest_of_the_background_are_left_out():
    labels = torch.zeros(20, 30, dtype=torch.uint8)
    labels[4:8, 4:8], labels[0:20, 9:19] = 1, 2
    masks = torch.stack([labels == 1, labels == 2]).to(torch.uint8)
    target = {"boxes": torch.tensor([[4.0, 4, 8, 8], [9, 0, 19, 20]]), "masks": masks}
    small = dense_measure.around_third(labels, target, 0, (5.0, 15.0))
    expected = torch.full_like(labels, IGNORE)
    expected[3:9, 3:9] = 0
    expected[4:8, 4:8] = 1
    assert torch.equal(small, expected)
    assert (dense_measure.around_third(labels, target, 1, (5.0, 15.0)) == IGNORE).all()
    large = dense_measure.around_third(labels, target, 2, (5.0, 15.0))
    assert (large[:, 9:19] == 2).all() and (large[labels == 1] == IGNORE).all()


@pytest.mark.parametrize("side", (8, 16))
def test_plain_models_cost_what_unmerge_does(side):
    pair = {each.name: each for each in VARIANTS if each.task == "unmerge"}
    scale = dense_setup.Scale()
    costs = [
        dense_setup.macs(dense_setup.model_options(pair[f"{name}-{side}"], scale), "unmerge", scale.size)
        for name in ("unmerge", "plain")
    ]
    assert costs[1] == pytest.approx(costs[0], rel=0.05)
