"""ViTs of timm from files, without a network, and the command that upgrades them."""

import json

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models import save_for_hf

import anyres
from anyres.cli import main
from anyres.models.weights import timm_model as module
from anyres.models.weights.timm_model import class_names, timm_model

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def vit():
    torch.manual_seed(0)
    model = timm.create_model(NAME, num_classes=3)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return model.eval()


def test_a_file_becomes_a_model_for_any_size(vit, tmp_path, capsys):
    save_file(vit.state_dict(), tmp_path / "any.safetensors")
    torch.save({"model": vit.state_dict()}, tmp_path / "any.pth")
    image = torch.randn(1, 3, 224, 224)
    with torch.inference_mode():
        expected = vit(image)
        for file in ("any.safetensors", "any.pth"):
            assert main(["upgrade", str(tmp_path / file), "-o", str(tmp_path / "up"), "--architecture", NAME]) == 0
            assert "vit_tiny_patch16_224 for any size; its own is 224x224 pixels" in capsys.readouterr().out
            model, info = anyres.load(tmp_path / "up", anyres.ViTAR)
            assert info.training_sizes == ((224, 224),)
            torch.testing.assert_close(model(image), expected, atol=1e-4, rtol=1e-4)
            larger = image.repeat_interleave(2, 2).repeat_interleave(2, 3)
            torch.testing.assert_close(model(larger), expected, atol=1e-4, rtol=1e-4)
    (result,) = anyres.Predictor(tmp_path / "up", top_k=2)([np.zeros((300, 77, 3), np.uint8)])
    assert len(result.classes) == 2 and {*result.classes} < {"0", "1", "2"}
    names = class_names(timm.create_model(NAME, depth=1))
    assert len(names) == 1000 and "goldfish" in names[1] and not class_names(timm.create_model(NAME, num_classes=0))


def test_a_folder_as_timm_writes_it(vit, tmp_path):
    save_file(vit.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": NAME, "num_classes": 3, "pretrained_cfg": {"mean": [0.1, 0.2, 0.3], "crop_pct": 0.77}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    model = anyres.upgrade(timm_model(tmp_path))
    assert model.config.mean == (0.1, 0.2, 0.3) and model.config.source["crop_pct"] == 0.77


@pytest.mark.parametrize(("size", "pool"), [(96, "token"), (224, "avg")])
def test_a_folder_that_timm_wrote(size, pool, tmp_path):
    torch.manual_seed(0)
    vit = timm.create_model("test_vit", img_size=size, num_classes=3).eval()
    vit.reset_classifier(3, pool)
    save_for_hf(vit, tmp_path, model_args={"img_size": size}, safe_serialization=True)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "label_names": ["cat", "dog", "owl"]}))
    found = timm_model(tmp_path)
    model = anyres.upgrade(found)
    image = torch.randn(1, 3, size, size)
    with torch.inference_mode():
        torch.testing.assert_close(model(image), vit(image), atol=1e-4, rtol=1e-4)
    assert model.config.own_size == (size, size) and class_names(found) == ["cat", "dog", "owl"]


def test_what_is_no_such_model_is_refused(vit, tmp_path, monkeypatch, capsys):
    file = tmp_path / "any.safetensors"
    save_file(vit.state_dict(), file)
    with pytest.raises(ValueError, match="does not say what model it is of, .* --architecture"):
        timm_model(file)
    with pytest.raises(ValueError, match="unknown model of timm 'vit_tiny_patch16'.*vit_tiny_patch16_224"):
        timm_model(file, "vit_tiny_patch16")
    with pytest.raises(ValueError, match=r"not of vit_small_.*: cls_token is \(1, 1, 192\) there and \(1, 1, 384\)"):
        timm_model(file, "vit_small_patch16_224")
    other = timm.create_model(NAME, img_size=96, num_classes=3)
    save_file(other.state_dict(), tmp_path / "small.safetensors")
    with pytest.raises(ValueError, match=r"pos_embed is \(1, 37, 192\) there and \(1, 197, 192\) in the model; give a"):
        timm_model(tmp_path / "small.safetensors", NAME)
    with pytest.raises(ValueError, match="there is no file vit_tiny_patch16_224; architecture is for files only"):
        timm_model(NAME, NAME)
    with pytest.raises(ValueError, match="holds no model.safetensors"):
        timm_model(tmp_path)
    with pytest.raises(ValueError, match="unknown file or model of timm 'no.safetensors'"):
        timm_model("no.safetensors")

    def offline(*_args, **_options):
        raise ConnectionError("no route to host\nmore")

    def silent(*_args, **_options):
        raise TimeoutError

    monkeypatch.setattr(module.timm, "create_model", silent)
    with pytest.raises(ValueError, match="TimeoutError: no reason given"):
        timm_model(NAME)
    monkeypatch.setattr(module.timm, "create_model", offline)
    assert main(["upgrade", NAME, "-o", str(tmp_path / "up")]) == 2
    text = capsys.readouterr().err
    assert f"timm found no weights of {NAME} (ConnectionError: no route to host). Without a network" in text
