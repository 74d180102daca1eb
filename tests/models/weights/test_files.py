"""Saving and loading: equal outputs, clear errors, nothing unpickled."""

import json

import pytest
import torch

import anyres
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, model_digest, save

TINY = {"width": 24, "heads": 2, "depth": 2, "patch_size": 4, "grid": (3, 2), "num_classes": 2}


@pytest.fixture
def saved(tmp_path):
    model = anyres.create_model("vitar_tiny_patch16", **TINY, prefix_tokens=1, stem="conv").eval()
    save(tmp_path, model, name="vitar_tiny_patch16", classes=["a", "b"], training_sizes=[(8, 8), (9, 5)])
    return model, tmp_path


def test_round_trip(saved):
    model, folder = saved
    loaded, info = load(folder, ViTAR)
    images = torch.randn(2, 3, 33, 19)
    assert torch.equal(loaded(images), model(images))
    assert loaded.config == model.config and not loaded.training
    assert info.classes == ("a", "b") and info.training_sizes == ((8, 8), (9, 5)) and info.name == "vitar_tiny_patch16"
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]


def test_the_digest_tells_models_apart_and_copies_not(saved, tmp_path):
    model, folder = saved
    known = {"name": "vitar_tiny_patch16", "classes": ["a", "b"], "training_sizes": [(8, 8), (9, 5)]}
    save(tmp_path / "copy", model, **known)
    assert model_digest(tmp_path / "copy") == model_digest(folder)
    save(tmp_path / "copy", model, **known | {"classes": ["b", "a"]})
    relabelled = model_digest(tmp_path / "copy")
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    save(tmp_path / "copy", model, **known)
    assert len({model_digest(folder), relabelled, model_digest(tmp_path / "copy")}) == 3


def test_missing_folder(tmp_path):
    with pytest.raises(ValueError, match="model.safetensors is missing"):
        load(tmp_path / "nowhere", ViTAR)


def test_weights_of_another_model(saved, tmp_path):
    _, folder = saved
    other = anyres.create_model("vitar_tiny_patch16", **(TINY | {"depth": 3}))
    save(tmp_path / "other", other, name=None, classes=["a", "b"], training_sizes=[(8, 8)])
    (tmp_path / "other" / "model.safetensors").replace(folder / "model.safetensors")
    with pytest.raises(ValueError, match=r"missing trunk\.prefix"):
        load(folder, ViTAR)


def test_unknown_field_and_damaged_files(saved):
    _, folder = saved
    record = json.loads((folder / "config.json").read_text())
    record["config"]["widht"] = 3
    (folder / "config.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="Did you mean 'width'"):
        load(folder, ViTAR)
    (folder / "config.json").write_text("{")
    with pytest.raises(ValueError, match="not a model configuration"):
        load(folder, ViTAR)


def test_a_pickle_under_our_name_is_refused_not_run(saved):
    _, folder = saved
    torch.save({"x": torch.zeros(1)}, folder / "model.safetensors")
    with pytest.raises(ValueError, match="not a readable safetensors file"):
        load(folder, ViTAR)
