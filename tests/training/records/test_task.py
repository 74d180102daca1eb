"""A head on records: the way from images to a model folder that predicts, and what it refuses."""

import io
import shutil

import pytest
import torch
from PIL import Image

from anyres.data.decode import read_image
from anyres.data.transforms import to_tensor
from anyres.models.architectures import create_model
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save
from anyres.predict.classify import classify
from anyres.predict.config import ClassifyConfig
from anyres.predict.encode import encode
from anyres.predict.encode_config import EncodeConfig
from anyres.streaming.records import Records, shard_path
from anyres.training import train
from anyres.training.checkpoint import NAME, load_checkpoint
from anyres.training.records.config import RecordsConfig
from anyres.training.records.task import RecordsTask
from anyres.training.trainer import Trainer

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A model that was trained for other classes, with a class token that records do not hold."""
    torch.manual_seed(0)
    model = create_model(
        "vitar_tiny_patch16", patch_size=4, grid=(3, 3), width=16, depth=2, heads=2, num_classes=5,
        prefix_tokens=1, pool="token",
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("encoder")
    save(folder, model, name=None, classes=list("abcde"), training_sizes=[(12, 12)])
    return folder


def write_records(encoder, out, folder, **options):
    config = EncodeConfig(run=encoder, out=out, inputs=(folder,), shard_records=4, device="cpu", **options)
    return encode(config, file=io.StringIO(), progress=False)


@pytest.fixture(scope="module")
def records(encoder, data, tmp_path_factory):
    root = tmp_path_factory.mktemp("records")
    for split in ("train", "val"):
        write_records(encoder, root / split, data / split)
    return root


@pytest.fixture
def config(records, tmp_path):
    def make(**changes):
        settings = {
            "from_records": records, "out": tmp_path / "run", "steps": 200, "batch_size": 7, "lr": 0.05,
            "warmup_steps": 5, "weight_decay": 0.0, "smoothing": 0.0, "checkpoint_every": 40, "threads": 1,
            "device": "cpu", "tensorboard": False, "progress": False,
        }  # fmt: skip
        return RecordsConfig(**(settings | changes))

    return make


def test_the_features_are_means_over_the_real_grid(encoder, records, config):
    task = RecordsTask(config())
    batch = next(task.batches(3, 4))
    source = Records(records / "train").sources
    model, _ = load(encoder, ViTAR)
    assert batch.features.shape == (7, 16) and batch.size == (3, 3)
    with torch.no_grad():
        images = [to_tensor(read_image(path), model.config.mean, model.config.std) for path in source]
        means = torch.stack([model.forward_features(image[None]).tokens.mean((1, 2))[0] for image in images])
    assert torch.allclose(task._features, means, rtol=2e-3, atol=2e-3)


def test_every_epoch_shows_every_record_once(config):
    task = RecordsTask(config(batch_size=5))
    seen = torch.cat([batch.features for batch in task.batches(0, 3)])
    assert sorted(seen.tolist()) == sorted(task._features.tolist()) and not torch.equal(seen, task._features)
    again = torch.cat([batch.features for batch in task.batches(2, 6)])
    assert torch.equal(again[:5], seen[10:]) and sorted(again[5:].tolist()) == sorted(seen.tolist())


def logistic_regression(features, labels, classes):
    """The obvious way: all the data at once, to convergence."""
    weight = torch.zeros(classes, features.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=500, line_search_fn="strong_wolfe")

    def closure():
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(features @ weight.T + bias, labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    return lambda x: (x @ weight.T + bias).argmax(1)


def test_as_good_as_logistic_regression_and_predict_takes_it(encoder, records, data, config):
    task = RecordsTask(config())
    truth = [Records(records / split).labels for split in ("train", "val")]
    train_labels, val_labels = (torch.tensor([task.classes.index(label) for label in split]) for split in truth)
    features = [Records(records / split).pooled() for split in ("train", "val")]
    oracle = logistic_regression(features[0], train_labels, 3)
    assert (oracle(features[0]) == train_labels).all()  # the set is separable
    result = train(config())
    (row,) = result.validation
    assert (row["images"], row["size"]) == (9, [3, 3])
    assert row["correct"] >= (oracle(features[1]) == val_labels).sum() and row["top1"] == 100 * row["correct"] / 9

    model, info = load(result.run, ViTAR)
    source, _ = load(encoder, ViTAR)
    assert (
        info.classes == ("blue", "green", "red") and model.config.pool == "mean" and info.training_sizes == ((12, 12),)
    )
    for name, value in source.state_dict().items():
        assert name.startswith("head.") or torch.equal(model.state_dict()[name], value)
    assert (model.head(features[0]).argmax(1) == train_labels).all()
    answers = classify(
        ClassifyConfig(run=result.run, inputs=(data / "val",), device="cpu", top_k=3),
        file=io.StringIO(),
        progress=False,
    )
    for answer in answers:
        image = to_tensor(read_image(answer["path"]), source.config.mean, source.config.std)
        with torch.no_grad():
            pooled = source.forward_features(image[None]).tokens.mean((1, 2))
            by_hand = torch.softmax(pooled @ model.head.weight.T + model.head.bias, dim=1)[0]
        for entry in answer["top"]:
            assert entry["probability"] == pytest.approx(by_hand[info.classes.index(entry["class"])].item(), rel=1e-4)


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resumed_equals_uninterrupted(config, tmp_path, monkeypatch, ema):
    settings = {"steps": 12, "checkpoint_every": 5, "ema": ema, "smoothing": 0.1, "accumulate": 2, "validate_every": 4}
    whole = train(config(out=tmp_path / "whole", **settings))
    update = Trainer.update

    def dying(self, batch):
        if self.step == 7:
            raise KeyboardInterrupt
        return update(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "update", dying)
        with pytest.raises(KeyboardInterrupt):
            train(config(**settings))
    assert load_checkpoint(tmp_path / "run" / NAME)["step"] == 5
    result = train(config(**settings))
    assert result.loss == whole.loss and result.validation == whole.validation
    one, other = (load(tmp_path / name, ViTAR)[0].state_dict() for name in ("run", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    monkeypatch.setattr(Records, "pooled", None)
    assert train(config(**settings)).finished  # and reads no tokens for that


def test_other_records_are_another_run(encoder, data, config, tmp_path):
    write_records(encoder, tmp_path / "one", data / "train")
    train(config(from_records=tmp_path / "one", steps=6))
    shutil.move(tmp_path / "one", tmp_path / "moved")
    assert train(config(from_records=tmp_path / "moved", steps=6)).finished
    write_records(encoder, tmp_path / "one", data / "train", dtype="bfloat16")
    with pytest.raises(ValueError, match="records: '[0-9a-f]{16}' there, '[0-9a-f]{16}' here"):
        train(config(from_records=tmp_path / "one", steps=6))


def test_the_encoder_must_be_the_one_that_made_the_records(encoder, data, config, tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    shutil.copytree(encoder, here)
    write_records(here, tmp_path / "records", data / "train")
    shutil.move(here, there)
    few = {"from_records": tmp_path / "records", "steps": 6}
    with pytest.raises(ValueError, match="need their model [0-9a-f]{12}; give it as init"):
        train(config(**few))
    model, _ = load(there, ViTAR)
    save(here, model, name="changed", classes=list("abcde"), training_sizes=[(12, 12)])
    with pytest.raises(ValueError, match="were made by [0-9a-f]{12}; give the folder of that one as init"):
        train(config(**few))
    assert train(config(init=there, **few)).finished


def test_records_without_labels_or_classes_are_refused(encoder, data, config, tmp_path):
    write_records(encoder, tmp_path / "flat", data / "train" / "red")
    with pytest.raises(ValueError, match="5 of 5 records in .*flat have no label, the first that of .*0.png"):
        train(config(from_records=tmp_path / "flat"))
    shutil.copytree(data / "train" / "red", tmp_path / "images" / "red")
    write_records(encoder, tmp_path / "one", tmp_path / "images")
    with pytest.raises(ValueError, match="the one label 'red'; at least 2"):
        train(config(from_records=tmp_path / "one"))


def test_validation_records_must_fit(encoder, data, config, tmp_path):
    few = {"from_records": tmp_path, "steps": 6}
    write_records(encoder, tmp_path / "train", data / "train")
    with pytest.raises(ValueError, match="validate_every is 3, but there are no records in .*val"):
        train(config(validate_every=3, **few))
    assert train(config(**few)).validation == []
    images = tmp_path / "images" / "purple"
    images.mkdir(parents=True)
    Image.new("RGB", (20, 20)).save(images / "0.png")
    write_records(encoder, tmp_path / "val", tmp_path / "images")
    with pytest.raises(ValueError, match="labels that training lacks: purple"):
        train(config(out=tmp_path / "other", **few))


def test_damaged_records_stop_the_run_before_its_first_step(encoder, data, config, tmp_path):
    write_records(encoder, tmp_path / "records", data / "train")
    path = shard_path(tmp_path / "records", 2)
    content = bytearray(path.read_bytes())
    content[-200] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match="records-00002.safetensors is damaged"):
        train(config(from_records=tmp_path / "records"))
    assert not (tmp_path / "run" / NAME).exists()
