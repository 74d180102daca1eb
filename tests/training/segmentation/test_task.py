"""Segmentation runs: a few images learned by heart, resumed like uninterrupted, and what is refused."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from anyres.data.augment import SegmentAugment
from anyres.data.segmentation import IGNORE
from anyres.evaluation.evaluate import evaluate
from anyres.evaluation.evaluate_config import EvaluateConfig
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load, save
from anyres.predict.config import SegmentConfig
from anyres.predict.segment import segment
from anyres.training.checkpoint import NAME, load_checkpoint
from anyres.training.engine import train
from anyres.training.runlog import STEPS, VALIDATIONS, read_rows
from anyres.training.segmentation.config import SegmentationConfig
from anyres.training.segmentation.task import SegmentationTask
from anyres.training.trainer import Trainer

CPU = torch.device("cpu")
VITAR = {"patch_size": 4, "grid": (6, 6), "width": 32, "depth": 4, "heads": 2}
SMALL = VITAR | {"taps": (0, 1, 2, 3), "head_channels": 16, "auxiliary_channels": 16, "drop_path_rate": 0.0}
STILL = SegmentAugment(scale=(1.0, 1.0), cat_max_ratio=1.0, hflip=0.0, photometric=False)
COLOURS = ((90, 90, 90), (220, 60, 50), (60, 80, 220))


def write_shapes(root, split, count, seed, *, offset=0):
    """A disc in one half of a grey image and a box in the other: classes are background, disc and box."""
    random = np.random.default_rng(seed)
    for kind in ("images", "annotations"):
        (root / kind / split).mkdir(parents=True)
    for index in range(count):
        height, width = int(random.integers(32, 40)), int(random.integers(50, 60))
        image, mask = Image.new("RGB", (width, height), COLOURS[0]), Image.new("L", (width, height), offset)
        for label, left in ((1, index % 2), (2, 1 - index % 2)):
            x, y = left * width // 2 + int(random.integers(0, 6)), int(random.integers(0, height - 26))
            box = (x, y, x + int(random.integers(14, 20)), y + int(random.integers(16, 26)))
            for canvas, fill in ((image, COLOURS[label]), (mask, label + offset)):
                pen = ImageDraw.Draw(canvas)
                (pen.ellipse if label == 1 else pen.rectangle)(box, fill=fill)
        image.save(root / f"images/{split}/{index}.png")
        mask.save(root / f"annotations/{split}/{index}.png")
    return root


@pytest.fixture(scope="session")
def shapes(tmp_path_factory):
    root = write_shapes(tmp_path_factory.mktemp("shapes"), "training", 6, 1)
    return write_shapes(root, "validation", 3, 2)


@pytest.fixture
def make(shapes, tmp_path):
    """`make(**changes)`: a run of 5 steps of 4 images."""

    def made(**changes):
        settings = {
            "data": shapes, "out": tmp_path / "run", "num_classes": 3, "model_options": SMALL, "sizes": ("24", "17x32"),
            "steps": 5, "batch_size": 4, "warmup_steps": 1, "lr": 1e-3, "checkpoint_every": 2, "threads": 1,
            "device": "cpu", "tensorboard": False, "progress": False,
        }  # fmt: skip
        return SegmentationConfig(**(settings | changes))

    return made


def test_six_images_are_learned_by_heart_and_labelled(make, shapes, tmp_path, capsys):
    root = tmp_path / "data"
    for kind in ("images", "annotations"):
        for split in ("training", "validation"):  # measured on what it learns
            (root / kind).mkdir(parents=True, exist_ok=True)
            (root / kind / split).symlink_to(shapes / kind / "training")
    (root / "classes.txt").write_text("ground\ndisc\nbox\n")
    light = SegmentAugment(scale=(0.8, 1.25))
    result = train(
        make(data=root, sizes=("32",), steps=150, batch_size=6, lr=3e-3, warmup_steps=10, augmentation=light)
    )
    (row,) = result.validation
    assert row["images"] == 6 and row["miou"] > 90 and min(row["iou"]) > 85
    assert f"step 150: miou at 32x32 {row['miou']:.1f}" in capsys.readouterr().err
    images, maps = (shapes / "images/training",), tmp_path / "maps"
    found = segment(SegmentConfig(run=result.run, inputs=images, out=maps, short_side=32, draw=True))
    right = total = 0
    for entry in found:
        name = Path(entry["path"]).name
        labels, mask = (
            np.array(Image.open(entry["labels"])),
            np.array(Image.open(shapes / "annotations/training" / name)),
        )
        assert labels.shape == mask.shape == (entry["height"], entry["width"])
        assert entry["share"]["box"] == pytest.approx((labels == 2).mean(), abs=1e-5)
        right, total = right + (labels == mask).sum(), total + mask.size
        drawn = Image.open(tmp_path / "maps" / name.replace(".png", ".drawn.png"))
        assert drawn.height >= mask.shape[0] and drawn.width >= mask.shape[1]  # enlarged, with a legend
    assert 100 * right / total == pytest.approx(row["accuracy"], abs=0.01)


def end_of(config):
    rows = [{k: row[k] for k in ("step", "size", "loss", "lr", "grad_norm")} for row in read_rows(config.out / STEPS)]
    return load_checkpoint(config.out / NAME), rows, read_rows(config.out / VALIDATIONS)


@pytest.mark.parametrize("step", [2, 4])
def test_resumed_equals_uninterrupted(make, tmp_path, monkeypatch, step):
    common = {"model_options": {**SMALL, "drop_path_rate": 0.3}, "ema": 0.9, "validate_every": 3}
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
    (state, *rest), (expected, *wanted) = end_of(config), end_of(reference)
    for name in ("model", "ema"):  # running statistics too
        assert all(torch.equal(value, expected[name][k]) for k, value in state[name].items())
    saved, other = (load(each.out, Segmenter)[0].state_dict() for each in (config, reference))
    assert all(torch.equal(saved[k], other[k]) for k in other) and rest == wanted


def test_the_loss_is_the_mean_over_known_pixels_of_both_heads(make):
    task = SegmentationTask(make(auxiliary_weight=0.7))
    batch = task.stream.batch(0)
    assert (batch.labels == IGNORE).any()
    prepared = task.prepare(batch, CPU)
    task.model.eval()
    expected = torch.zeros(())
    for logits, weight in zip(task.model.forward_training(batch.images), (1, 0.7), strict=True):
        per_pixel = -logits.log_softmax(1).gather(1, batch.labels.clamp(max=2).long()[:, None])[:, 0]
        expected = expected + weight * per_pixel[batch.labels != IGNORE].mean()
    assert task.loss(prepared, slice(0, 4)).item() == pytest.approx(expected.item(), rel=1e-5)
    parts = [task.loss(prepared, rows) * (rows.stop - rows.start) / 4 for rows in (slice(0, 1), slice(1, 4))]
    assert sum(parts).item() == pytest.approx(expected.item(), rel=1e-5)
    nothing = task.prepare(batch.__class__(**(vars(batch) | {"labels": torch.full_like(batch.labels, IGNORE)})), CPU)
    assert task.loss(nothing, slice(0, 4)).item() == 0


def test_a_step_does_not_depend_on_the_generator_nor_on_recomputing(make):
    losses = []
    for seed, changes in ((1, {}), (2, {}), (3, {"grad_checkpointing": True})):
        config = make(**changes)
        trainer = Trainer(config, SegmentationTask(config), CPU)
        torch.manual_seed(seed)
        losses.append([trainer.update(batch).loss for batch in trainer.task.batches(0, 3)])
    assert losses[0] == losses[1] and losses[2] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize("options", [{"jitter": 0.0}, {}, {"position": "rotary", "rescale": 2.0}], ids=str)
def test_accumulated_gradients_are_those_of_the_whole_batch_but_for_its_statistics(make, monkeypatch, options):
    monkeypatch.setattr(torch.nn.BatchNorm2d, "forward", lambda self, x: F.batch_norm(  # fixed ones for all pieces
        x, self.running_mean, self.running_var, self.weight, self.bias, False, 0.1, self.eps
    ))  # fmt: skip
    options = {**SMALL, **options}
    configs = make(model_options=options), make(model_options=options, accumulate=2)
    whole, parts = (Trainer(config, SegmentationTask(config), CPU) for config in configs)
    batch = whole.task.stream.batch(0)
    assert parts.update(batch).loss == pytest.approx(whole.update(batch).loss, rel=1e-5)
    for (name, one), other in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        if one.grad is not None:
            scale = max(one.grad.abs().max().item(), 1e-3)
            assert (one.grad - other.grad).abs().max().item() <= 1e-4 * scale, name


def test_accumulated_gradients_of_a_light_head_are_those_of_the_whole_batch_with_its_jitter(make):
    options = {**VITAR, "grid": (3, 2), "head_channels": 16, "drop_path_rate": 0.0, "jitter": 0.5}
    made = {"model": "unmerge_vitar_small_patch16", "model_options": options, "precision": "float32"}
    whole, parts = (
        Trainer(config, SegmentationTask(config), CPU) for config in (make(**made), make(**made, accumulate=3))
    )
    batch = whole.task.stream.batch(0)
    assert parts.update(batch).loss == pytest.approx(whole.update(batch).loss, rel=1e-5)
    for (name, one), other in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        scale = max(one.grad.abs().max().item(), 1e-3)
        assert (one.grad - other.grad).abs().max().item() <= 1e-4 * scale, name


def test_a_run_starts_from_a_backbone(make, tmp_path, capsys):
    task = SegmentationTask(make())
    for parameter in task.model.parameters():
        torch.nn.init.normal_(parameter)
    save(tmp_path / "start", task.model.backbone, name=None, classes=(), training_sizes=[(24, 24)])
    started = SegmentationTask(make(init=tmp_path / "start"))
    for name, value in task.model.backbone.state_dict().items():
        assert torch.equal(started.model.backbone.state_dict()[name], value), name
    head = SegmentationTask(make()).model.head.state_dict()
    assert all(torch.equal(value, head[name]) for name, value in started.model.head.state_dict().items())
    assert "Fresh: heads. Left out: head." in capsys.readouterr().err
    assert "init" in started.identity() and "init" not in task.identity()
    with pytest.raises(ValueError, match="width is 32 there and 16 in the model"):
        SegmentationTask(make(init=tmp_path / "start", model_options={**SMALL, "width": 16}))


def test_a_segmenter_starts_from_a_run_of_segmentation_and_decays_by_layers(make, tmp_path, capsys):
    changes = {"steps": 2, "lr_schedule": "poly", "lr_power": 0.9, "weight_decay": 0.0, "warmup_steps": 0}
    before = train(make(out=tmp_path / "before", **changes)).run
    rates = [row["lr"] for row in read_rows(before / STEPS)]
    assert rates == pytest.approx([1e-3, 1e-3 * 0.5**0.9])
    trained, _ = load(before, Segmenter)
    config = make(init=before, layer_decay=0.5, **changes)
    task = SegmentationTask(config)
    for name, value in trained.backbone.state_dict().items():
        assert torch.equal(task.model.backbone.state_dict()[name], value), name
    assert "blocks, merger, norm, position, stem. Fresh: heads. Left out: heads." in capsys.readouterr().err
    start = {name: value.clone() for name, value in task.model.named_parameters()}
    Trainer(config, task, CPU).update(next(task.batches(0, 1)))
    moved = {name: (value - start[name]).abs().max().item() for name, value in task.model.named_parameters()}
    for part, layers in {"head": 0, "pyramid": 0, "backbone.trunk.blocks.3": 1, "backbone.trunk.blocks.0": 4}.items():
        largest = max(step for name, step in moved.items() if name.startswith(part))
        assert largest == pytest.approx(1e-3 * 0.5**layers, rel=0.05), part  # AdamW's first step


def test_masks_that_begin_at_one_are_written_as_such(make, tmp_path):
    root = write_shapes(tmp_path / "data", "train", 3, 1, offset=1)
    run = train(make(data=root, reduce_zero_label=True, steps=2, precision="bfloat16")).run
    assert load(run, Segmenter)[1].classes == ("1", "2", "3")
    found = segment(
        SegmentConfig(run=run, inputs=(root / "images/train",), out=tmp_path / "maps", window="24", flip=True),
        progress=False,
    )
    for entry in found:
        labels = np.array(Image.open(entry["labels"]))
        assert labels.min() >= 1 and labels.max() <= 3
        shares = {str(label): (labels == label).mean() for label in np.unique(labels)}
        assert entry["share"] == pytest.approx(shares, abs=1e-5)


def test_masks_that_cannot_be_used_are_named_and_the_run_goes_on(make, tmp_path, capsys):
    root = write_shapes(tmp_path / "data", "training", 4, 1)
    (root / "annotations/training/0.png").unlink()
    Image.new("L", (50, 50), 9).resize(Image.open(root / "images/training/1.png").size).save(
        root / "annotations/training/1.png"
    )
    result = train(make(data=root))
    assert result.finished and [Path(path).name for path, _ in result.skipped] == ["1.png"]
    text = capsys.readouterr().err
    assert "1 of 4 images cannot be used:" in text and "0.png: no mask" in text and "have labels 9" in text
    with pytest.raises(ValueError, match="no mask"):
        train(make(data=root, strict=True, out=tmp_path / "strict"))
    with pytest.raises(ValueError, match="validate_every is 2, but .*validation does not exist"):
        train(make(data=root, validate_every=2, out=tmp_path / "other"))


@pytest.mark.parametrize("decoder", ["unmerge", "bilinear"])
def test_light_heads_learn_from_single_images(make, decoder):
    options = {
        "patch_size": 4,
        "grid": (4, 4),
        "width": 32,
        "depth": 2,
        "heads": 2,
        "head_channels": 16,
        "decoder": decoder,
    }
    model = "unmerge_vitar_small_patch16"
    assert train(make(model=model, model_options=options, accumulate=4)).finished


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": 256}, "num_classes is 256; allowed: 2 to 255"),
        ({"num_classes": 255, "reduce_zero_label": True}, "allowed: 2 to 254"),
        ({"accumulate": 3}, "needs two images: nearest: batch_size=6, or accumulate=2"),
        ({"batch_size": 1}, "needs two images: nearest: batch_size=2$"),
        ({"auxiliary_weight": 0.0}, "auxiliary_channels=0"),
        (
            {"model_options": {**SMALL, "auxiliary_channels": 0}, "auxiliary_weight": 0.1},
            "auxiliary_weight .*effect",
        ),
        ({"cache": True}, "cache is True but has no effect, because segmentation reads"),
        ({"repeats": 2}, "repeats is 2 but has no effect"),
        ({"init_resize": True}, "init_resize is True but has no effect, because there is no init"),
        ({"model": "vitar_small_patch16"}, "unknown model to segment with .*upernet_vitar_small_patch16"),
        ({"model_options": {"num_classes": 4}}, "num_classes.*not allowed"),
        (
            {"model_options": VITAR},
            r"taps are .*usual: \(0, 1, 2, 3\)",
        ),
        ({"lr": -1.0}, "lr is -1.0"),
        ({"layer_decay": 1.5}, "layer_decay is 1.5; allowed: above 0 up to 1"),
        ({"lr_power": 0.9}, "lr_power is 0.9 but has no effect, because lr_schedule is 'cosine'"),
    ],
)
def test_impossible_settings_are_refused_before_any_file_is_read(make, changes, message):
    with pytest.raises(ValueError, match=message):
        train(make(data=Path("does/not/exist"), **changes))
    assert not make().out.exists()


def test_settings_are_on_disk_and_other_ones_are_another_run(make):
    config = make(steps=2, precision="bfloat16")
    row, other = train(config).validation
    assert row["size"] == [24, 24] and other["size"] == [17, 32] and row["images"] == 3
    assert json.loads((config.out / "train.json").read_text()) == config.to_json()
    with pytest.raises(ValueError, match="augmentation.hflip: 0.5 there, 0.0 here"):
        train(make(steps=2, precision="bfloat16", augmentation=STILL))


def test_impossible_predictions_are_refused(make, shapes, tmp_path):
    with pytest.raises(ValueError, match="short_side is 0"):
        SegmentConfig(run=tmp_path, inputs=(shapes,), out=tmp_path / "maps", short_side=0)
    with pytest.raises(ValueError, match="0.png would both be written to 0.png"):
        segment(SegmentConfig(run=tmp_path, inputs=(shapes / "images",), out=tmp_path / "maps"))
    config = make(steps=2)
    train(config)
    (tmp_path / "torn.png").write_bytes(b"no image")
    settings = {"run": config.out, "inputs": (tmp_path / "torn.png",), "out": tmp_path / "maps"}
    assert segment(SegmentConfig(**settings), progress=False)[0].keys() == {"path", "reason"}
    with pytest.raises(ValueError, match="torn.png"):
        segment(SegmentConfig(**settings, strict=True), progress=False)


def test_classes_that_are_absent_are_named_before_the_first_step_and_in_every_result(make, tmp_path, shapes, capsys):
    config = make(num_classes=5, steps=2, validate_every=1)
    SegmentationTask(config)
    told = capsys.readouterr().err
    for split in ("training", "validation"):
        assert f"No pixel in {6 if split == 'training' else 3} masks in {shapes / 'images' / split} is of" in told
    assert told.count("of classes 3, 4.") == 2
    result = train(config)
    rows = read_rows(config.out / VALIDATIONS)
    assert len(rows) == 4 and all(row["absent"] == ["3", "4"] for row in rows)
    assert "(2 classes absent)" in capsys.readouterr().err
    found = evaluate(EvaluateConfig(run=result.run, data=shapes, device="cpu"))
    assert found["absent"] == ["3", "4"] and len(found["iou"]) == 5
    assert [row["absent"] for row in load(result.run, Segmenter)[1].extra["validation"]] == [["3", "4"]] * 2


def test_black_and_white_masks_are_learned_as_two_classes_once_that_is_said(make, tmp_path, capsys):
    root = write_shapes(tmp_path / "data", "training", 4, 1)
    write_shapes(root, "validation", 2, 2)
    for path in sorted((root / "annotations").rglob("*.png")):
        labels = np.array(Image.open(path))
        Image.fromarray(np.where(labels > 0, 255, 0).astype(np.uint8)).save(path)
    with pytest.raises(ValueError, match="class 1 has no pixel; for two classes: .*--mask-values 0 255"):
        train(make(data=root, num_classes=2))
    assert not make().out.exists()
    result = train(make(data=root, num_classes=2, steps=2, mask_values=(0, 255)))
    assert "absent" not in capsys.readouterr().err
    row = result.validation[0]
    assert row["absent"] == [] and None not in row["iou"]
    found = evaluate(EvaluateConfig(run=result.run, data=root, device="cpu"))  # which the model's file tells
    assert found["absent"] == [] and set(found["iou"]) == {"0", "255"}
    with pytest.raises(ValueError, match="mask_values: .*there, .* here"):
        train(make(data=root, num_classes=2, steps=2, mask_values=(255, 0)))


def test_photos_on_their_side_are_counted_and_learned_either_way(make, tmp_path, capsys):
    root = write_shapes(tmp_path / "data", "training", 4, 1)
    exif = Image.Exif()
    exif[0x0112] = 3
    for index in (0, 2):
        path = root / f"images/training/{index}.png"
        Image.open(path).save(path, exif=exif)
    run = train(make(data=root, steps=2, labels_as="stored")).run
    assert "2 of 4 labelled photos are turned by their EXIF data, the first " in capsys.readouterr().err
    assert load(run, Segmenter)[1].extra["labels_as"] == "stored"
    shown, stored = (SegmentationTask(make(data=root, labels_as=each)).stream for each in ("shown", "stored"))
    plain = SegmentationTask(make(data=write_shapes(tmp_path / "plain", "training", 4, 1))).stream
    assert torch.equal(stored.batch(0).images, plain.batch(0).images)
    assert not torch.equal(shown.batch(0).images, plain.batch(0).images)
