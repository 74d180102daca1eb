"""Detection runs on images of coloured shapes: they learn, resume bit-identically, and leave a detector."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from anyres.data.augment import MultiScale, ScaleJitter
from anyres.data.coco import CocoImages
from anyres.metrics.detection import evaluate_detector
from anyres.models.architectures import backbone_of, create_model
from anyres.models.detector import Detector
from anyres.models.weights.files import load, save
from anyres.predict.objects import detect, write_results
from anyres.training.checkpoint import NAME, load_checkpoint
from anyres.training.detection.config import DetectionConfig
from anyres.training.detection.task import DetectionTask
from anyres.training.engine import train
from anyres.training.runlog import STEPS, VALIDATIONS, read_rows
from anyres.training.trainer import Trainer

COLOURS = {3: (220, 40, 40), 17: (40, 60, 230)}  # red boxes and blue discs
SMALL = {
    "width": 32, "depth": 2, "heads": 2, "grid": (4, 4), "channels": 16, "box_features": 32,
    "anchor_sizes": (8, 16, 32, 64, 128), "train_proposals": 60, "test_proposals": 30, "rpn_samples": 64,
    "roi_samples": 32,
}  # fmt: skip
MILD = ScaleJitter(scale=(0.9, 1.1))
MANY = MultiScale(shortest=32, spacing=8, before=(40, 50), crop=(30, 60), most=70)


def write_shapes(root, split, count, seed):
    """Dark images of odd sizes with up to three shapes each, the second image empty, as a COCO set."""
    random = np.random.default_rng(seed)
    images, annotations = [], []
    for number in range(count):
        width, height = (int(side) for side in random.integers(52, 75, 2))
        image = Image.new("RGB", (width, height), (20, 25, 20))
        draw = ImageDraw.Draw(image)
        for place in range(0 if number == 1 else int(random.integers(1, 4))):
            side = int(random.integers(14, 24))
            x = min(int(random.integers(0, 6)) + place * width // 3, width - side)
            y = int(random.integers(0, height - side))
            category = int(random.choice(list(COLOURS)))
            corners = [x, y, x + side - 1, y + side - 1]
            angles = np.linspace(0, 2 * np.pi, 20, endpoint=False)
            disc = np.stack([x + side / 2 * (1 + np.cos(angles)), y + side / 2 * (1 + np.sin(angles))], axis=1)
            box = [x, y, x + side, y, x + side, y + side, x, y + side]
            (draw.rectangle if category == 3 else draw.ellipse)(corners, fill=COLOURS[category])
            annotations.append(
                {
                    "id": len(annotations) + 1, "image_id": 100 + number, "category_id": category,
                    "bbox": [x, y, side, side], "area": side * side, "iscrowd": 0,
                    "segmentation": [box if category == 3 else disc.flatten().tolist()],
                }
            )  # fmt: skip
        (root / split).mkdir(parents=True, exist_ok=True)
        image.save(root / split / f"{number}.png")
        images.append({"id": 100 + number, "file_name": f"{number}.png", "height": height, "width": width})
    categories = [{"id": 3, "name": "box"}, {"id": 17, "name": "disc"}]
    (root / "annotations").mkdir(exist_ok=True)
    record = {"images": images, "annotations": annotations, "categories": categories}
    (root / "annotations" / f"instances_{split}.json").write_text(json.dumps(record))


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    root = tmp_path_factory.mktemp("shapes")
    write_shapes(root, "train", 6, 0)
    write_shapes(root, "val", 4, 1)
    return root


@pytest.fixture
def make(shapes, tmp_path):
    """`make(**changes)`: a run of 5 steps of 2 images."""

    def made(**changes):
        settings = {
            "data": shapes, "out": tmp_path / "run", "model_options": SMALL, "sizes": ("64", "48x64"), "steps": 5,
            "batch_size": 2, "warmup_steps": 1, "lr": 1e-3, "checkpoint_every": 2, "draw_images": 2, "threads": 1,
            "device": "cpu", "tensorboard": False, "progress": False,
        }  # fmt: skip
        return DetectionConfig(**(settings | changes))

    return made


def end_of(config):
    state = load_checkpoint(config.out / NAME)
    rows = [{k: row[k] for k in ("step", "size", "loss", "lr", "grad_norm")} for row in read_rows(config.out / STEPS)]
    pictures = {path.name: path.read_bytes() for path in (config.out / "detections").iterdir()}
    return state["model"], state["ema"], rows, read_rows(config.out / VALIDATIONS), pictures


@pytest.mark.parametrize("step", [2, 4])
def test_resumed_equals_uninterrupted(make, tmp_path, monkeypatch, step):
    common = {"ema": 0.9, "validate_every": 3, "clip_grad": 1.0}
    reference = make(out=tmp_path / "uninterrupted", **common)
    assert train(reference).finished
    config, update = make(num_workers=1, checkpoint_every=1, **common), Trainer.update

    def dying(self, batch):
        if self.step + 1 == step:
            raise KeyError("the process dies")
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", dying)
        with pytest.raises(KeyError):
            train(config)
    assert load_checkpoint(config.out / NAME)["step"] == step - 1
    assert train(config) == train(config)  # a finished run is left alone
    (model, ema, *rest), (wanted, averaged, *others) = end_of(config), end_of(reference)
    assert all(torch.equal(model[name], wanted[name]) for name in wanted)
    assert all(torch.equal(ema[name], averaged[name]) for name in averaged)
    assert rest == others and len(rest[2]) == 4  # two pictures at step 3 and two at step 5


def test_a_run_learns_and_what_it_finds_is_on_disk(make, shapes, capsys):
    config = make(steps=40, sizes=("64",), batch_size=3, lr=3e-3, augmentation=MILD)
    result = train(config)
    losses = [row["loss"] for row in read_rows(config.out / STEPS)]
    assert sum(losses[-8:]) < 0.7 * sum(losses[:8])
    (row,) = result.validation
    assert row["size"] == [64, 64] and row["images"] == 4 and 0 <= row["box_ap"] <= row["box_ap50"] <= 100
    assert {"mask_ap", "mask_ap50", "box_ap_small"} <= set(row) and row["box_ap_large"] is None
    assert f"step 40: box_ap at 64x64 {row['box_ap']:.1f}" in capsys.readouterr().err
    model, info = load(config.out, Detector)
    assert info.extra["category_ids"] == [3, 17] and info.classes == ("box", "disc")
    assert (model.config.min_size, model.config.max_size) == (64, 64)
    data = CocoImages(shapes / "annotations" / "instances_val.json", shapes / "val")
    found = evaluate_detector(model, data)
    assert {name: row[name] for name in found.measures} == found.measures and found.images == 4
    write_results(config.out / "found.json", found.results)
    written = json.loads((config.out / "found.json").read_text())
    assert written == found.results and {each["image_id"] for each in written} <= {100, 101, 102, 103}
    image = Image.open(shapes / "val" / "0.png")
    (alone,) = detect(model, [image])
    assert len(alone["scores"]) == sum(each["image_id"] == 100 for each in written)
    assert "masks" not in alone or alone["masks"].shape[1:] == (image.height, image.width)


@pytest.mark.slow
def test_shapes_are_learned_by_heart(make, tmp_path):
    for split in ("train", "val"):
        write_shapes(tmp_path / "same", split, 6, 0)
    options = {**SMALL, "patch_size": 8, "grid": (8, 8)}
    config = make(
        data=tmp_path / "same", steps=300, sizes=("64",), batch_size=4, lr=3e-3, augmentation=MILD,
        model_options=options, weight_decay=0.01, clip_grad=1.0,
    )  # fmt: skip
    (row,) = train(config).validation
    assert row["box_ap50"] > 90 and row["mask_ap50"] > 90


def test_a_step_does_not_depend_on_the_generator(make):
    losses = []
    for seed in (1, 2):
        trainer = Trainer(make(), DetectionTask(make()), torch.device("cpu"))
        torch.manual_seed(seed)
        losses.append([trainer.update(batch).loss for batch in trainer.task.batches(0, 2)])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("options", [{}, {"position": "rotary", "rescale": 2.0}], ids=str)
def test_parts_of_a_batch_are_jittered_as_the_whole(make, options):
    task = DetectionTask(make(batch_size=3, model_options={**SMALL, "drop_path_rate": 0.0, **options}))
    prepared, maps = task.prepare(task.stream.batch(0), torch.device("cpu")), []
    task.model.train().backbone.register_forward_hook(lambda module, given, found: maps.append(found["0"].detach()))
    for seed, rows in enumerate((slice(0, 3), slice(0, 1), slice(1, 3))):
        torch.manual_seed(seed)
        assert task.loss(prepared, rows).isfinite()
    torch.testing.assert_close(torch.cat(maps[1:]), maps[0])
    task.loss(replace(prepared, keys=prepared.keys + 1), slice(0, 3))
    assert not torch.allclose(maps[-1], maps[0], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"model_options": {**SMALL, "masks": False}, "accumulate": 2},
        {"model_options": {**SMALL, "cells": "2x2"}, "grad_checkpointing": True},
        {"model_options": {**SMALL, "merger": "none", "min_size": 40}},
        {"augmentation": MANY, "sizes": ("56x80",), "accumulate": 2, "lr_schedule": "poly"},
    ],
)
def test_other_kinds_of_runs_finish(make, changes):
    result = train(make(steps=2, **changes))
    assert result.finished and np.isfinite(result.loss)
    assert ("mask_ap" in result.validation[0]) == changes.get("model_options", {}).get("masks", True)


def test_a_backbone_starts_from_weights(make, tmp_path, capsys):
    options = {name: SMALL[name] for name in ("width", "depth", "heads", "grid")}
    classifier = create_model("vitar_tiny_patch16", num_classes=4, **options)
    save(tmp_path / "model", classifier, name=None, classes=list("abcd"), training_sizes=[(64, 64)])
    task = DetectionTask(make(init=tmp_path / "model"))
    assert torch.equal(
        backbone_of(task.model).trunk.blocks[1].attn.qkv.weight, classifier.trunk.blocks[1].attn.qkv.weight
    )
    told = capsys.readouterr().err
    assert "Backbone starting from" in told and "init" in task.identity()
    assert "cells is halving there and 1x1 in the model." in told and "alike" not in told


def test_a_run_with_drops_and_layer_decay_at_many_scales_resumes_and_finishes(make, tmp_path):
    """The sizes are those of the batches' canvases; validation is at the recipe's size; the rate drops twice."""
    config = make(
        augmentation=MANY, sizes=("56x80",), layer_decay=0.5, lr_schedule="step", lr_drops=(2, 4), warmup_steps=0
    )
    result, rows = train(config), read_rows(config.out / STEPS)
    assert [row["lr"] for row in rows] == pytest.approx([1e-3, 1e-3, 1e-4, 1e-4, 1e-5])
    assert len({tuple(row["size"]) for row in rows}) > 1 and max(max(row["size"]) for row in rows) <= 70
    assert result.validation[0]["size"] == [56, 80]
    model, _ = load(config.out, Detector)
    assert (model.config.min_size, model.config.max_size) == (56, 80)
    assert load_checkpoint(config.out / NAME)["config"]["augmentation"]["before"] == [40, 50]
    with pytest.raises(ValueError, match="augmentation.*there, .* here"):
        train(make(sizes=("56x80",), layer_decay=0.5, lr_schedule="step", lr_drops=(2, 4), warmup_steps=0))


def test_a_run_of_before_schedules_and_layer_decay_goes_on(make):
    config = make(steps=2)
    train(config)
    state, settings = load_checkpoint(config.out / NAME), json.loads((config.out / "train.json").read_text())
    for name in ("lr_schedule", "lr_power", "lr_drops", "layer_decay"):
        del state["config"][name], settings[name]
    torch.save(state, config.out / NAME)
    (config.out / "train.json").write_text(json.dumps(settings))
    assert train(config).finished
    with pytest.raises(ValueError, match="layer_decay: None there, 0.5 here"):
        train(make(steps=2, layer_decay=0.5))


def test_a_detector_starts_from_a_run_of_detection_at_another_grid(make, tmp_path, capsys):
    before = train(make(steps=1, warmup_steps=0, out=tmp_path / "before", ema=None)).run
    trained, _ = load(before, Detector)
    options = {**SMALL, "grid": (3, 5), "cells": "2x2"}
    task = DetectionTask(make(init=before, init_resize=True, model_options=options))
    assert backbone_of(task.model).position.table.shape == (3, 5, 32)
    for name, value in backbone_of(trained).state_dict().items():
        if name != "position.table":
            assert torch.equal(backbone_of(task.model).state_dict()[name], value), name
    told = capsys.readouterr().err
    assert "blocks, merger, norm, position, stem. Fresh: heads. Left out: heads." in told
    assert "cells is 1x1 there and 2x2 in the model" in told
    with pytest.raises(ValueError, match="grid of 4x4 and the model one of 3x5"):
        DetectionTask(make(init=before, model_options=options))


def test_data_without_validation_is_learned_without(make, tmp_path):
    write_shapes(tmp_path / "only", "train", 3, 2)
    config = make(data=tmp_path / "only", draw_images=4, steps=2)
    result = train(config)
    assert result.finished and result.validation == [] and not (config.out / "detections").exists()
    for name, given in (("validate_limit", 3), ("validate_every", 2), ("draw_images", 1)):
        changes = {"data": tmp_path / "only", "out": tmp_path / name, "draw_images": 4} | {name: given}
        with pytest.raises(ValueError, match=f"{name} is {given}, but .* has no annotations/instances_val"):
            train(make(**changes))


def test_findings_are_said_and_unreadable_images_listed(make, tmp_path, capsys):
    write_shapes(tmp_path / "odd", "train", 3, 2)
    write_shapes(tmp_path / "odd", "val", 2, 3)
    path = tmp_path / "odd" / "annotations" / "instances_train.json"
    record = json.loads(path.read_text())
    record["annotations"].append(record["annotations"][0] | {"id": 99, "bbox": [500, 500, 3, 3]})
    path.write_text(json.dumps(record))
    (tmp_path / "odd" / "val" / "0.png").write_bytes(b"no image")
    result = train(make(data=tmp_path / "odd", steps=2))
    assert "1 boxes outside their image, dropped: 99 (image 100)" in capsys.readouterr().err
    assert [Path(path).name for path, _ in result.skipped] == ["0.png"]
    with pytest.raises(ValueError, match="no annotations to learn from"):
        train(make(data=tmp_path / "odd" / "val", out=tmp_path / "other"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vitar_tiny_patch16"}, "unknown detector 'vitar_tiny_patch16'"),
        ({"model_options": {"num_classes": 5}}, "num_classes"),
        ({"model_options": {"anchor_sizes": (1, 2)}}, r"anchor_sizes is \(1, 2\)"),
        ({"cache": True}, "cache is True but has no effect, because detection reads"),
        ({"repeats": 2}, "repeats is 2 but has no effect"),
        ({"init_resize": True}, "init_resize is True but has no effect, because there is no init"),
        ({"layer_decay": 0.0}, "layer_decay is 0.0; allowed: above 0 up to 1"),
        ({"lr_schedule": "step"}, "usual: 3 4"),
        ({"augmentation": MultiScale()}, "size is 64x64.*begin at 480"),
        ({"augmentation": MANY, "sizes": ("56x80", "24x80")}, "size is 24x80.*shortest=24"),
        ({"augmentation": MANY, "sizes": ("56x64",)}, "most is 70, but it has no effect because no side exceeds 64"),
        (
            {"augmentation": MANY, "sizes": ("56x80",), "aspect": (0.5, 2.0)},
            "aspect is .* in multi-scale training images keep their own",
        ),
        ({"draw_images": -1}, "draw_images is -1; allowed: whole numbers from 0"),
        ({"ema": None, "save_ema": False}, "save_ema is False but has no effect"),
    ],
)
def test_impossible_settings_are_refused_before_any_file_is_read(make, changes, message):
    with pytest.raises(ValueError, match=message):
        train(make(data=Path("does/not/exist"), **changes))
    assert not make().out.exists()


def test_other_settings_and_other_annotations_are_another_run(make, tmp_path):
    train(make(steps=2))
    with pytest.raises(ValueError, match=r"augmentation.scale: .*there, .* here"):
        train(make(steps=2, augmentation=MILD))
    write_shapes(tmp_path / "other", "train", 6, 5)
    write_shapes(tmp_path / "other", "val", 4, 1)
    with pytest.raises(ValueError, match="task.annotations"):
        train(make(steps=2, data=tmp_path / "other"))


def test_classes_without_an_object_and_photos_on_their_side_are_named(make, tmp_path, capsys):
    for split in ("train", "val"):
        write_shapes(tmp_path / "odd", split, 3, 2)
        path = tmp_path / "odd" / "annotations" / f"instances_{split}.json"
        record = json.loads(path.read_text())
        record["categories"].append({"id": 20, "name": "kite"})
        path.write_text(json.dumps(record))
    exif = Image.Exif()
    exif[0x0112] = 3
    photo = tmp_path / "odd" / "train" / "2.png"
    Image.open(photo).save(photo, exif=exif)
    result = train(make(data=tmp_path / "odd", steps=2, labels_as="stored"))
    told = capsys.readouterr().err
    assert told.count("is of class kite.") == 2 and "(1 class absent)" in told
    assert f"1 of 3 labelled photos are turned by their EXIF data, the first {photo}: annotations are taken" in told
    assert all(row["absent"] == ["kite"] for row in result.validation)
    assert load(result.run, Detector)[1].extra["labels_as"] == "stored"
