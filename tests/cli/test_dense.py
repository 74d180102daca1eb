"""Broken dense data through the command line: counted and named, or refused in one line, never a traceback."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.cli import main
from anyres.data.dense_scenes import write_dense

TINY = ["width=24", "heads=2", "depth=2", "grid=4", "patch_size=16"]
TASKS = {
    "detection": [
        "--draw-images", "1", "--sizes", "48", "--model-options", *TINY, "channels=8", "box_features=16",
        "train_proposals=10", "test_proposals=10", "rpn_samples=16", "roi_samples=8", "anchor_sizes=(8,16,32,64,128)",
    ],
    "segmentation": [
        "--num-classes", "5", "--sizes", "32", "--model-options", *TINY, "taps=(0,1)", "scales=(2,1)",
        "head_channels=8", "auxiliary_channels=8", "auxiliary_tap=0",
    ],
}  # fmt: skip


def train(task, data, run, *more):
    common = ["--steps", "3", "--warmup-steps", "1", "--batch-size", "2", "--device", "cpu", "--threads", "1"]
    paths = ["--data", str(data), "--out", str(run)]
    return main(["train", "--task", task, *paths, *common, "--no-progress", "--no-tensorboard", *TASKS[task], *more])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good set, and a run of each task on it."""
    root = tmp_path_factory.mktemp("whole")
    data = write_dense(root / "data", train=3, val=2, size=40, objects=(2, 4), heights=(0.3, 0.6), progress=False)
    for task in TASKS:
        assert train(task, data, root / task) == 0
    return root


@pytest.fixture
def broken(whole, tmp_path, capsys):
    """A copy of the set that may be broken, and what the command line then says: status, stdout and stderr."""
    data = shutil.copytree(whole / "data", tmp_path / "data")

    def edited(change, *splits):
        for split in splits or ("train", "val"):
            path = data / "annotations" / f"instances_{split}.json"
            record = json.loads(path.read_text())
            change(record)
            path.write_text(json.dumps(record))

    def said(status):
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return SimpleNamespace(status=status, out=out, err=err)

    def trained(task, *more):
        return said(train(task, data, tmp_path / "run", *more))

    def evaluated(task):
        return said(main(["evaluate", "--run", str(whole / task), "--data", str(data), "--device", "cpu"]))

    capsys.readouterr()
    return SimpleNamespace(data=data, edited=edited, trained=trained, evaluated=evaluated, said=said)


def change_of(place, **values):
    """Changes one annotation of a record."""
    return lambda record: record["annotations"][place].update(values)


COUNTED = {
    "boxes outside their image, dropped": change_of(0, bbox=[500, 500, 5, 5]),
    "boxes without area, dropped": change_of(0, bbox=[3, 3, 0, 5]),
    "boxes that are not four finite numbers, dropped": change_of(0, bbox=["a", None]),
    "boxes that reach over the edge of their image, clipped": change_of(0, bbox=[2, 2, 400, 400]),
    "masks that cover nothing, dropped": change_of(0, segmentation=[[60, 0, 70, 0, 70, 9]]),
    "areas that are no numbers above 0": change_of(0, area=float("nan")),
}


@pytest.mark.parametrize("message", COUNTED)
def test_annotations_that_cannot_be_used_are_counted_and_named(broken, message):
    broken.edited(COUNTED[message], "train")
    found = broken.trained("detection")
    assert found.status == 0 and f"instances_train.json: 1 {message}" in found.err and ": 1 (image 0)" in found.err


def test_ids_with_holes_and_images_without_annotations_are_learned_and_measured(broken):
    def holes(record):
        for category in record["categories"]:
            category["id"] = 10 * category["id"] ** 2
        for each in record["annotations"]:
            each["category_id"] = 10 * each["category_id"] ** 2
        record["annotations"] = [each for each in record["annotations"] if each["image_id"] != 1]

    broken.edited(holes)
    assert broken.trained("detection").status == 0
    run, results = broken.data.parent / "run", broken.data / "results.json"
    assert json.loads((run / "config.json").read_text())["extra"]["category_ids"] == [10, 40, 90, 160]
    common = ["--run", str(run), "--device", "cpu"]
    found = broken.said(main(["evaluate", *common, "--data", str(broken.data), "--results", str(results)]))
    assert found.status == 0 and json.loads(found.out)["images"] == 2
    assert {each["category_id"] for each in json.loads(results.read_text())} <= {10, 40, 90, 160}
    assert broken.evaluated("detection").status == 2  # the other run knows other ids


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda record: record["annotations"][0]["segmentation"].update(size=[3, 3]), "a mask of another size"),
        (change_of(0, segmentation=[]), "have no mask, which the model option masks=False does without"),
        (change_of(0, segmentation=[[[0, 0], [1, 1], [2, 3]] * 2]), "a polygon that is not three or more pairs"),
        (change_of(0, segmentation=[[-1e12, 0, 1e12, 0, 1e12, 1e12]]), "corners are far from their image"),
        (change_of(0, category_id=77), "unknown category ids 77; known are 1, 2, 3, 4"),
        (change_of(0, image_id=77), "images that are not listed"),
        (lambda record: record.update(annotations=[]), "has no annotation of a single object"),
        (lambda record: record["images"][0].update(width="wide"), "'wide' is no whole number from 1 up"),
        (lambda record: record["images"][0].update(file_name="nowhere.png"), "nowhere.png"),
    ],
)
@pytest.mark.parametrize("split", ["train", "val"])
def test_annotations_that_spoil_the_set_are_refused_before_any_step(broken, change, message, split):
    broken.edited(change, split)
    found = broken.trained("detection")
    *notes, error = found.err.strip().splitlines()
    assert found.status == 2 and all(note.startswith("No single object in ") for note in notes)  # of the other split
    assert message in error and f"instances_{split}.json" in error
    assert not (broken.data.parent / "run" / "log.jsonl").exists()
    if split == "val":
        assert broken.evaluated("detection").status == 2


def test_an_image_of_another_size_than_annotated_is_skipped_and_named(broken):
    for split in ("train", "val"):
        Image.new("RGB", (11, 13)).save(broken.data / "images" / split / "00000.png")
    found = broken.trained("detection")
    assert found.status == 0 and "2 files could not be read and were skipped" in found.err
    assert "13x11 pixels, annotated as" in found.err
    found = broken.evaluated("detection")
    assert found.status == 1 and json.loads(found.out)["images"] == 1


def relabelled(path, label):
    Image.fromarray(np.full_like(np.asarray(Image.open(path)), label)).save(path)


def test_masks_that_cannot_be_used_are_counted_and_named(broken):
    masks = broken.data / "annotations"
    relabelled(masks / "train/00000.png", 77)
    Image.new("L", (3, 3)).save(masks / "train/00001.png")
    relabelled(masks / "val/00000.png", 5)
    found = broken.trained("segmentation")
    assert found.status == 0 and "pixels have labels 77; allowed: 0 to 4; 255 is ignored" in found.err
    assert "1 of 3 images cannot be used" in found.err and "a mask of 3x3 pixels for an image of" in found.err
    found = broken.evaluated("segmentation")
    measured = json.loads(found.out)
    assert found.status == 1 and measured["images"] == 1 and "labels 5; allowed" in measured["skipped"][0]["reason"]
    (masks / "val/00000.png").unlink()
    assert "no mask" in json.loads(broken.evaluated("segmentation").out)["skipped"][0]["reason"]
    found = broken.trained("segmentation", "--strict")
    assert found.status == 2 and "cannot be used" in found.err


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize(("label", "message"), [(9, "have labels 9; allowed: 0 to 4"), (255, "no pixel has a known")])
def test_masks_none_of_which_can_be_used_are_refused_before_any_step(broken, split, label, message):
    for path in (broken.data / "annotations" / split).glob("*.png"):
        relabelled(path, label)
    found = broken.trained("segmentation")
    assert found.status == 2 and "images cannot be used" in found.err and message in found.err
    assert not (broken.data.parent / "run" / "log.jsonl").exists()
    assert broken.evaluated("segmentation").status == (2 if split == "val" else 0)


def test_more_classes_or_other_names_than_the_set_has_are_refused(broken):
    found = broken.trained("segmentation", "--num-classes", "3")
    assert found.status == 2 and "classes.txt names 5 classes; num_classes is 3" in found.err
    (broken.data / "classes.txt").unlink()
    relabelled(broken.data / "annotations/val/00000.png", 4)
    relabelled(broken.data / "annotations/val/00001.png", 4)
    found = broken.trained("segmentation", "--num-classes", "3")
    assert found.status == 2 and "labels 4; allowed: 0 to 2" in found.err


@pytest.mark.parametrize("task", TASKS)
def test_pictures_that_cannot_be_read_are_listed_by_predict(whole, tmp_path, capsys, task):
    Image.new("RGB", (45, 40)).save(tmp_path / "good.png")
    (tmp_path / "torn.png").write_bytes((tmp_path / "good.png").read_bytes()[:40])
    run, out = str(whole / task), tmp_path / "out"
    torch.manual_seed(0)
    assert main(["predict", "--run", run, "--inputs", str(tmp_path), "--out", str(out)]) == 1
    entries = json.loads(capsys.readouterr().out)
    assert ["reason" in entry for entry in entries] == [False, True] and entries[1]["path"].endswith("torn.png")


def test_the_run_says_its_task(whole, tmp_path, capsys):
    run, data = str(whole / "segmentation"), str(whole / "data")
    inputs = [f"--run={run}", "--inputs", str(whole / "data" / "images" / "val"), "--out", str(tmp_path)]
    assert main(["predict", *inputs, "--device=cpu"]) == 0
    assert len(list(tmp_path.glob("*.png"))) == 2
    capsys.readouterr()
    for command in (["predict", *inputs], ["evaluate", "--run", run, "--data", data]):
        assert main([*command, "--task=detection"]) == 2
        assert f"--task is no option of {command[0]}: the run says" in capsys.readouterr().err


@pytest.mark.parametrize(("task", "option"), [("segmentation", "--ratios"), ("detection", "--threshold")])
def test_the_help_of_predict_is_that_of_the_run(whole, capsys, task, option):
    with pytest.raises(SystemExit) as stopped:
        main(["predict", "--run", str(whole / task), "--help"])
    assert stopped.value.code == 0 and option in capsys.readouterr().out


def test_a_joined_task_trains(whole, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["train", "--task=detection", "--help"])
    assert stopped.value.code == 0 and "augmentation:multi-scale" in capsys.readouterr().out
    assert main(["train", "--task", "detectoin", "--out", str(tmp_path / "run")]) == 2
    assert "unknown task 'detectoin'. Did you mean 'detection'" in capsys.readouterr().err
