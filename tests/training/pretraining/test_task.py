"""Pre-training runs: resumed like uninterrupted, pieces like the whole, masks from keys alone, and what is refused."""

import json
import os
from pathlib import Path

import pytest
import torch
from PIL import Image

from anyres.cli import main
from anyres.data.augment import TrainAugment
from anyres.data.decode import read_image
from anyres.data.transforms import eval_transform
from anyres.models.mae import MaskedAutoencoder
from anyres.models.weights.files import load
from anyres.seeds import key
from anyres.training import PretrainConfig, TrainConfig, train
from anyres.training.checkpoint import NAME, load_checkpoint
from anyres.training.model_options import options_as_text
from anyres.training.pretraining.task import PretrainTask
from anyres.training.runlog import STEPS, VALIDATIONS, describe, read_rows
from anyres.training.trainer import Trainer

CPU = torch.device("cpu")
VITAR = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2}
SMALL = VITAR | {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}  # fmt: skip
RANDOM = {"drop_path_rate": 0.2, "extra_passes": 1}


@pytest.fixture
def make(data, tmp_path):
    """`make(**changes)`: a run of 5 steps of 4 images, with every random feature unless `model_options` are given."""

    def made(**changes):
        settings = {
            "data": data, "out": tmp_path / "run", "model": "mae_vitar_tiny_patch16",
            "model_options": SMALL | RANDOM, "sizes": ("13", "16x23"),
            "steps": 5, "batch_size": 4, "warmup_steps": 1, "ema": 0.9, "checkpoint_every": 2, "draw_images": 2,
            "threads": 1, "device": "cpu", "tensorboard": False, "progress": False,
        }  # fmt: skip
        return PretrainConfig(**(settings | changes))

    return made


@pytest.fixture
def unlabelled(data, tmp_path):
    """The training images in no order, at two depths, with nothing beside them."""
    for index, path in enumerate(sorted((data / "train").rglob("*.png"))):
        folder = tmp_path / "images" / ("deep/er" if index % 2 else "")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{index}.png").write_bytes(path.read_bytes())
    return tmp_path / "images"


def end_of(config):
    state = load_checkpoint(config.out / NAME)
    rows = [{k: row[k] for k in ("step", "size", "loss", "lr", "grad_norm")} for row in read_rows(config.out / STEPS)]
    pictures = {path.name: path.read_bytes() for path in (config.out / "reconstructions").iterdir()}
    return state, rows, read_rows(config.out / VALIDATIONS), pictures


def same_end(one, other):
    (state, *rest), (reference, *wanted) = end_of(one), end_of(other)
    for name in ("model", "ema"):
        assert all(torch.equal(value, reference[name][k]) for k, value in state[name].items())
    saved, expected = (load(config.out, MaskedAutoencoder)[0].state_dict() for config in (one, other))
    assert saved.keys() == expected.keys() and all(torch.equal(saved[k], expected[k]) for k in saved)
    assert rest == wanted


@pytest.mark.parametrize("own_aspect", [False, True])
@pytest.mark.parametrize("step", [2, 4])
def test_resumed_equals_uninterrupted(make, tmp_path, monkeypatch, own_aspect, step):
    common = {"own_aspect": own_aspect, "sizes": ("13", "20"), "validate_every": 3}
    reference = make(out=tmp_path / "uninterrupted", **common)
    result = train(reference)
    assert (result.step, result.finished) == (5, True)
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
    same_end(config, reference)
    assert sorted(end_of(config)[3]) == ["step-000003.png", "step-000005.png"]


@pytest.mark.parametrize("own_aspect", [False, True])
@pytest.mark.parametrize("accumulate", [2, 3])
def test_accumulated_gradients_equal_those_of_the_whole_batch(make, accumulate, own_aspect):
    common = {"model_options": SMALL, "batch_size": 6, "sizes": ("20",), "own_aspect": own_aspect}
    configs = make(**common), make(accumulate=accumulate, **common)
    whole, parts = (Trainer(config, PretrainTask(config), CPU) for config in configs)
    batch = whole.task.stream.batch(0)
    assert isinstance(batch.images, list) == own_aspect
    one, other = whole.update(batch), parts.update(batch)
    assert other.loss == pytest.approx(one.loss, rel=1e-5)
    for (name, a), b in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        scale = max(a.grad.abs().max().item(), 1e-3)
        assert (a.grad - b.grad).abs().max().item() <= 1e-5 * scale, name


def test_a_step_does_not_depend_on_the_generator_nor_on_recomputing(make):
    losses = []
    for seed, changes in ((1, {}), (2, {}), (3, {"grad_checkpointing": True})):
        config = make(**changes)
        trainer = Trainer(config, PretrainTask(config), CPU)
        torch.manual_seed(seed)
        losses.append([trainer.update(batch).loss for batch in trainer.task.batches(0, 3)])
    assert losses[0] == losses[1] and losses[2] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "bfloat16"},
        {"model_options": {**SMALL, "in_channels": 1}},
        {"model": "mae_vit_tiny_patch16", "own_aspect": True, "sizes": ("13-20",)},
        {"model_options": {**SMALL, "grid_shape": "aspect"}, "own_aspect": True, "sizes": ("24",)},
        {"model_options": {**SMALL, "grid_shape": "aspect"}, "aspect": (0.25, 4.0), "sizes": ("24-40",)},
        {
            "model_options": {**SMALL, "merger": "pyramid", "grid_shape": "aspect", "extra_passes": 1},
            "sizes": ("13", "30"),
            "own_aspect": True,
        },
        {
            "model_options": {**SMALL, "merger": "pyramid", "position": "rotary", "rescale": 2.0},
            "sizes": ("13", "30"),
            "own_aspect": True,
        },
        {
            "model_options": {**SMALL, "masking": "patches", "large_target": True},
            "sizes": ("13", "30"),
            "aspect": (0.7, 1.4),
            "repeats": 2,
        },
    ],
)
def test_other_kinds_of_runs_finish_with_a_picture(make, changes):
    config = make(**({"model_options": SMALL} | changes), steps=2)
    result = train(config)
    assert result.finished and all(0.1 < row["loss"] < 10 for row in result.validation)
    with Image.open(config.out / "reconstructions" / "step-000002.png") as picture:
        assert min(picture.size) > 400


def test_masks_are_the_same_whatever_the_workers_and_differ_between_steps(make):
    alone, shared = PretrainTask(make()), PretrainTask(make(num_workers=2))
    masks = []
    for one, other in zip(alone.batches(0, 3), shared.batches(0, 3), strict=True):
        found = [alone.model.reconstruct(batch.images, batch.keys).is_hidden for batch in (one, other)]
        assert torch.equal(*found) and found[0].flatten(1).sum(1).unique().tolist() == [7]  # of nine
        masks += [row.flatten().tolist() for row in found[0]]
    assert len({tuple(mask) for mask in masks}) > 6


@pytest.mark.parametrize("own_aspect", [False, True])
def test_validation_is_the_mean_of_each_image_alone_with_its_own_mask(make, own_aspect):
    task = PretrainTask(make(sizes=("13", "20"), own_aspect=own_aspect, draw_images=0, seed=8))
    task.model.train()
    rows = task.validate(task.model, CPU, 1)
    assert task.model.training and not (task.config.out / "reconstructions").exists()
    task.model.eval()
    for row, side in zip(rows, (13, 20), strict=True):
        losses = []
        for index, path in enumerate(task.validation.paths):
            transform = task._transform((side, side)) if own_aspect else eval_transform(
                (side, side), task.settings.mean, task.settings.std, crop_ratio=1.0
            )  # fmt: skip
            keys = torch.tensor([key(8, 0x484F4C45, index)])
            losses.append(task.model(transform(read_image(path))[None], keys).item())
        assert row == {
            "size": [side, side], "images": 9, "loss": pytest.approx(sum(losses) / 9, rel=1e-5), "skipped": []
        }  # fmt: skip
    other = PretrainTask(make(sizes=("13", "20"), own_aspect=own_aspect, draw_images=0, seed=8, batch_size=2))
    again = other.validate(task.model, CPU, 9)
    assert [row["loss"] for row in again] == pytest.approx([row["loss"] for row in rows], rel=1e-5)
    assert describe([{"size": [224, 224], "loss": 0.4118}, {"size": [9, 7], "loss": 1}], "loss", 3) == (
        "loss at 224x224 0.412, at 9x7 1.000"
    )


def test_a_run_learns_and_what_it_learned_is_on_disk(make, capsys):
    mild = TrainAugment(scale=(0.8, 1.0), auto_augment=None, erasing=0.0)
    options = {**SMALL, "norm_target": False}
    config = make(model_options=options, augmentation=mild, steps=60, batch_size=8, lr=5e-3, ema=None)
    result = train(config)
    losses = [row["loss"] for row in read_rows(config.out / STEPS)]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])
    model, info = load(config.out, MaskedAutoencoder)
    assert (info.name, info.training_sizes) == ("mae_vitar_tiny_patch16", ((13, 13), (16, 23)))
    assert info.extra["steps"] == 60 and info.extra["validation"] == result.validation
    (row, _), task = result.validation, PretrainTask(config)
    assert task.validate(model, CPU, 60)[0]["loss"] == pytest.approx(row["loss"], rel=1e-6)
    assert f"step 60: loss at 13x13 {row['loss']:.3f}" in capsys.readouterr().err
    tuned = train(
        TrainConfig(
            data=config.data, out=config.out.with_name("tuned"), init=config.out, model="vitar_tiny_patch16",
            model_options=VITAR,
            sizes=("13",), steps=2, warmup_steps=1, batch_size=4, tensorboard=False, progress=False,
        )
    )  # fmt: skip
    assert tuned.finished


def test_pictures_of_a_pyramid_are_of_what_it_restores(make, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "anyres.training.pretraining.task.draw_blocks",
        lambda blocks, mean, std: drawn.extend(blocks) or Image.new("RGB", (3, 3)),
    )
    task = PretrainTask(make(model_options=SMALL | {"merger": "pyramid"}, sizes=("13", "20x33"), draw_images=1))
    task.validate(task.model, CPU, 7)
    assert [block.size for block in drawn] == [(13, 13), (20, 33)]  # as they are given; seen with 2^k patches a cell
    for block, side in zip(drawn, (12, 24), strict=True):
        for picture in (block.rows[0].image, block.rows[0].masked, block.rows[0].output):
            assert picture.shape == (3, side, side)


def test_a_folder_without_validation_gives_pictures_of_training_images(make, unlabelled, capsys):
    config = make(data=unlabelled, validate_every=2, own_aspect=True, sizes=("20",), steps=4)
    result = train(config)
    assert result.finished and result.validation == [] and read_rows(config.out / VALIDATIONS) == []
    assert len(PretrainTask(config).folder) == 15
    names = sorted(path.name for path in (config.out / "reconstructions").iterdir())
    assert names == ["step-000002.png", "step-000004.png"]
    assert " at 20x20" not in capsys.readouterr().err
    train(make(data=unlabelled, out=config.out.with_name("bare"), draw_images=0))
    assert not (config.out.with_name("bare") / "reconstructions").exists()


def test_the_largest_and_smallest_and_one_between_are_drawn(make, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "anyres.training.pretraining.task.draw_blocks",
        lambda blocks, mean, std: drawn.extend(blocks) or Image.new("RGB", (3, 3)),
    )
    task = PretrainTask(make(sizes=("30", "13", "16x23", "20", "12"), draw_images=3))
    task.validate(task.model, CPU, 7)
    assert [block.size for block in drawn] == [(12, 12), (16, 23), (30, 30)]
    order = [task.validation.paths[index] for index, _ in task._readable()][:3]
    for block in drawn:
        transform, losses = task._transform(block.size), []
        for path, row in zip(order, block.rows, strict=True):
            assert torch.equal(row.image, transform(read_image(path)))
            hidden = (row.masked == 0).all(0) & (row.image != 0).any(0)
            assert torch.equal(row.masked[:, ~hidden], row.image[:, ~hidden])
            assert torch.equal(row.output[:, ~hidden], row.image[:, ~hidden]) and hidden.any()
            index = task.validation.paths.index(path)
            losses.append(task.model.eval()(row.image[None], torch.tensor([key(0, 0x484F4C45, index)])).item())
        assert block.loss == pytest.approx(sum(losses) / 3, rel=1e-5)


def test_unreadable_images_are_neither_drawn_nor_fatal(make, unlabelled):
    paths = sorted(unlabelled.rglob("*.png"))
    for path in paths[1:]:
        path.write_bytes(b"no image")
    result = train(make(data=unlabelled, steps=4))
    assert result.finished and {path for path, _ in result.skipped} == {str(path) for path in paths[1:]}
    assert len(list(PretrainTask(make(data=unlabelled))._readable())) == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "vitar_tiny_patch16"}, "no masked auto-encoder; .*nearest: 'mae_vitar_tiny_patch16'"),
        ({"model": "anyres_small_patch16"}, "no masked auto-encoder; .*nearest: 'mae_anyres_small_patch16'"),
        ({"model": "deit_small_patch16"}, "no masked auto-encoder; .*nearest: 'mae_vit_small_patch16'"),
        ({"model": "mae_vitar_tiny"}, "unknown model.*Did you mean 'mae_vitar_tiny_patch16'"),
        ({"model_options": {**SMALL, "mask_ratio": 0.95}}, "at 13x13 pixels .*mask_ratio is 0.95.*none is visible"),
        ({"model_options": {**SMALL, "mask_ratio": 0}}, "mask_ratio is 0"),
        ({"model_options": {**SMALL, "mask_ratio": 1.5}}, "mask_ratio is 1.5"),
        ({"sizes": ("40", "4x12")}, "at 4x12 pixels the grid has 1x3 cells; masking needs at least 4"),
        ({"sizes": ("4-40",)}, "at 4x4 pixels the grid has 1x1 cells"),
        ({"sizes": ("12",), "aspect": (1.0, 9.0)}, "at 4x36 pixels the grid has 1x3 cells"),
        (
            {"sizes": ("8",), "own_aspect": True, "model_options": {**SMALL, "patch_size": 5}},
            "5x15 pixels the grid has 1x3",
        ),
        (  # 2x2 for a square and 1x4 for the widest
            {"sizes": ("24",), "own_aspect": True, "model_options": {**SMALL, "grid": 2, "grid_shape": "aspect"}},
            "pixels the grid has (1x3|3x1) cells",
        ),
        (
            {"sizes": ("24",), "aspect": (0.25, 4.0), "model_options": {**SMALL, "grid": 2, "grid_shape": "aspect"}},
            "pixels the grid has (1x3|3x1) cells",
        ),
        ({"model_options": {"stem": "conv"}}, 'stem is "conv".*leak.*stem="patch"'),
        ({"model_options": {"position": "conditional"}}, 'position is "conditional".*leak'),
        ({"model_options": {"position": "global_local"}}, 'position is "global_local".*leak'),
        ({"model_options": {"masking": "rows"}}, "unknown masking 'rows'"),
        ({"model_options": {"merger": "pyramid", "masking": "patches"}}, 'allowed with a pyramid: masking="cells"'),
        ({"model_options": {"num_classes": 5}}, "num_classes.*pre-training has none"),
        ({"model_options": {"mask_raito": 0.5}}, "mask_raito.*Did you mean 'mask_ratio'"),
        ({"own_aspect": True}, "sizes names 16x23, but with own_aspect a size is an area.*nearest: 19"),
        ({"own_aspect": True, "sizes": ("13",), "aspect": (0.5, 2.0)}, "aspect is .* no effect, because images keep"),
        ({"draw_images": -1}, "draw_images is -1; allowed: whole numbers from 0"),
        ({"ema": None, "save_ema": False}, "save_ema is False but has no effect"),
        ({"betas": (0.9, 1.0)}, r"betas is 1.0; allowed: from 0 to below 1; the default is \(0.9, 0.95\)"),
        ({"accumulate": 5}, "accumulate is 5 for a batch of 4"),
        ({"augmentation": TrainAugment(auto_augment="foo")}, "rand-m9"),
    ],
)
def test_impossible_settings_are_refused_before_any_file_is_read(make, changes, message):
    with pytest.raises(ValueError, match=message):
        train(make(data=Path("does/not/exist"), **changes))
    assert not make().out.exists()


def test_impossible_data_is_refused(make, data, unlabelled, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no images below .*empty"):
        train(make(data=tmp_path / "empty"))
    with pytest.raises(ValueError, match="no such folder: .*nowhere"):
        train(make(data=tmp_path / "nowhere"))
    for name, given, more in (("validate_limit", 3, {}), ("validate_every", 2, {"draw_images": 0})):
        with pytest.raises(ValueError, match=f"{name} is {given}, but there is nothing to measure.*leave {name} at"):
            train(make(data=unlabelled, **{name: given}, **more))
    (unlabelled / "val").mkdir()
    with pytest.raises(ValueError, match="has a folder val and no folder train"):
        train(make(data=unlabelled))
    assert not make().out.exists()


@pytest.mark.parametrize(
    ("model", "nearest"),
    [
        ("mae_vitar_small_patch16", "vitar_small_patch16"),
        ("mae_anyres_tiny_patch16", "anyres_tiny_patch16"),
        ("mae_vit_base_patch16", "deit_base_patch16"),
    ],
)
def test_a_masked_auto_encoder_is_not_trained_on_labels(data, tmp_path, model, nearest):
    with pytest.raises(ValueError, match=f"`anyres pretrain` with it, .* with init; nearest: '{nearest}'"):
        train(TrainConfig(data=data, out=tmp_path / "run", model=model))


def test_other_settings_and_other_data_are_another_run(make, unlabelled, write_data, tmp_path):
    train(make())
    with pytest.raises(ValueError, match=r"\(lr: 0\.001 there, 0\.5 here\)"):
        train(make(lr=0.5))
    changed = r"model_options\.drop_path_rate: 0\.2 there, 'not set' here; .*own_aspect: False there, True here"
    with pytest.raises(ValueError, match=changed):
        train(make(own_aspect=True, sizes=("13",), model_options=SMALL))
    with pytest.raises(ValueError, match="task.training files"):
        train(make(data=unlabelled))
    with pytest.raises(ValueError, match="model: 'mae_vitar_tiny_patch16' there, 'anyres_tiny_patch16' here"):
        train(TrainConfig(data=make().data, out=make().out, steps=9, warmup_steps=1, tensorboard=False))
    assert train(make(data=write_data(tmp_path / "moved"), draw_images=1)).finished


def test_fields_that_an_older_version_did_not_know_are_at_their_defaults(make):
    config = make()
    train(config)
    settings = json.loads((config.out / "train.json").read_text())
    assert settings == config.to_json() and settings.pop("own_aspect") is False
    (config.out / "train.json").write_text(json.dumps(settings))
    assert train(config).finished


def test_the_command(data, tmp_path, capsys):
    arguments = ["pretrain", "--data", str(data), "--out", str(tmp_path / "run"), "--model-options"]
    arguments += options_as_text(SMALL)
    arguments += ["--sizes", "13", "20", "--own-aspect", "--steps", "2", "--warmup-steps", "1", "--batch-size", "3"]
    assert main([*arguments, "--no-progress"]) == 0
    assert load(tmp_path / "run", MaskedAutoencoder)[0].config.backbone.width == 16
    assert main(["pretrain", "--data", str(data), "--out", str(tmp_path / "x"), "--model", "vitar_base_patch16"]) == 2
    assert "mae_vitar_base_patch16" in capsys.readouterr().err


def test_a_run_below_its_own_images_goes_on(make, unlabelled, tmp_path, monkeypatch):
    reference = make(data=unlabelled, out=tmp_path / "outside", validate_every=2)
    train(reference)
    config, update = make(data=unlabelled, out=unlabelled / "run", validate_every=2), Trainer.update

    def dying(self, batch):
        if self.step == 3:
            raise KeyError("the process dies")
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", dying)
        with pytest.raises(KeyError):
            train(config)
    assert (config.out / "reconstructions" / "step-000002.png").exists()
    assert train(config).finished
    same_end(config, reference)


def test_links_to_nothing_and_odd_names_are_no_reason_to_stop(make, unlabelled):
    (unlabelled / "link.png").symlink_to(unlabelled / "nowhere")
    for name, content in ((b"\xff.png", sorted(unlabelled.glob("*.png"))[0].read_bytes()), (b"\xfe.png", b"no image")):
        with open(os.fsencode(unlabelled) + b"/" + name, "wb") as file:
            file.write(content)
    result = train(make(data=unlabelled, steps=9, repeats=1))  # 36 of 18 images
    assert result.finished
    assert {Path(path).name for path, _ in result.skipped} == {"link.png", os.fsdecode(b"\xfe.png")}


@pytest.mark.parametrize("split", ["train", "val"])
def test_a_folder_without_a_readable_image_leaves_nothing_behind(make, write_data, tmp_path, split):
    data = write_data(tmp_path / "broken")
    for path in (data / split).rglob("*.png"):
        path.write_bytes(b"no image")
    count = len(list((data / split).rglob("*.png")))
    with pytest.raises(ValueError, match=f"none of the {count} images in .*{split} can be read; the first: .*0.png"):
        train(make(data=data))
    assert not make().out.exists()
