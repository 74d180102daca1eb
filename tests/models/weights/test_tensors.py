"""Files of other people's weights: told by their content, unwrapped, and named for what they are."""

import os

import pytest
import timm
import torch
from safetensors.torch import save_file

import anyres
from anyres.models.architectures import get_config
from anyres.models.weights.files import load, save
from anyres.models.weights.initial import initial_weights, read_initial
from anyres.models.weights.table_grid import metadata_of

SMALL = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2}
VIT = {"patch_size": 4, "img_size": 12, "embed_dim": 16, "depth": 2, "num_heads": 2}
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def state(seed=0):
    torch.manual_seed(seed)
    return timm.create_model("vit_tiny_patch16_224", num_classes=5, **VIT).state_dict()


def under(start, tensors):
    return {f"{start}{name}": value for name, value in tensors.items()}


def config():
    return get_config("deit_tiny_patch16", **SMALL)


def same(found, tensors, tmp_path):
    save_file(tensors, tmp_path / "plain.safetensors")
    plain = initial_weights(tmp_path / "plain.safetensors", config())
    return found.keys() == plain.keys() and all(torch.equal(found[name], plain[name]) for name in plain)


LOSS = {"criterion.weight": torch.ones(3)}
HEAD = {"head.mlp.0.weight": torch.ones(3)}
WRAPPED = {
    "of many GPUs": (lambda vit: under("module.", vit), "module", ["head"]),
    "compiled": (lambda vit: under("_orig_mod.module.", vit), "_orig_mod.module", ["head"]),
    "lightning": (lambda vit: {"state_dict": under("model.", vit) | LOSS}, "state_dict.model", ["criterion", "head"]),
    "an average": (lambda vit: {"model_ema": under("module.", vit), "epoch": 3}, "model_ema.module", ["head"]),
    "dino": (lambda vit: {"teacher": under("backbone.", vit) | HEAD}, "teacher.backbone", ["head"]),
    "with an optimiser": (
        lambda vit: {"model": vit, "optimizer": {"state": {0: {"step": torch.ones(1)}}, "param_groups": [{"lr": 1.0}]}},
        "model",
        ["head"],
    ),
}


@pytest.mark.parametrize("kind", WRAPPED)
def test_wrappers_are_taken_off_and_named(kind, tmp_path):
    wrap, place, left_out = WRAPPED[kind]
    torch.save(wrap(state()), tmp_path / "a.pth")
    found = read_initial(tmp_path / "a.pth", config())
    assert same(found.weights, state(), tmp_path)
    assert (found.place, list(found.left_out)) == (place, left_out)


def test_of_several_models_the_key_chooses(tmp_path):
    torch.save({"model": under("module.", state(0)), "model_ema": under("module.", state(1))}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match="holds several models: model.module, model_ema.module; give .* as --init-key"):
        read_initial(tmp_path / "a.pth", config())
    for key, seed in (("model", 0), ("model_ema", 1), ("model_ema.module", 1)):
        assert same(read_initial(tmp_path / "a.pth", config(), key=key).weights, state(seed), tmp_path)
    with pytest.raises(ValueError, match=r"unknown init_key .*'model_em'. Did you mean 'model_ema.module'"):
        read_initial(tmp_path / "a.pth", config(), key="model_em")


def test_a_key_of_a_run_has_no_effect_and_says_so(tmp_path):
    model = anyres.create_model("deit_tiny_patch16", **SMALL, num_classes=2)
    save(tmp_path / "run", model, name=None, classes=("a", "b"), training_sizes=[(12, 12)])
    with pytest.raises(ValueError, match="init_key is 'model' but has no effect, because .*run is a run"):
        read_initial(tmp_path / "run", config(), key="model")


def test_the_content_decides_and_not_the_suffix(tmp_path):
    save_file(state(), tmp_path / "a.pth")
    torch.save(state(), tmp_path / "b.safetensors")
    for name in ("a.pth", "b.safetensors"):
        assert same(initial_weights(tmp_path / name, config()), state(), tmp_path)


class Foreign:
    """What only unpickling reads."""


def test_what_cannot_be_read_is_called_what_it_is(tmp_path):
    torch.save({"model": state(), "args": Foreign()}, tmp_path / "objects.pth")
    torch.save(state(), tmp_path / "whole.pth")
    save_file(state(), tmp_path / "whole.safetensors")
    for name in ("pth", "safetensors"):
        content = (tmp_path / f"whole.{name}").read_bytes()
        (tmp_path / f"cut.{name}").write_bytes(content[: len(content) // 2])
    for name, content in {"page.pth": "<!DOCTYPE html>", "empty.pth": "", "pointer.safetensors": POINTER}.items():
        (tmp_path / name).write_text(content)
    expected = {
        "objects.pth": r"cannot be read without unpickling: it holds a [\w.]*Foreign, which is no tensor",
        "cut.pth": "cannot be read without unpickling: it is damaged, or holds more",
        "cut.safetensors": "cannot be read: a damaged .safetensors file",
        "page.pth": "cannot be read: it is no file of weights, since it begins with b'<!DOCTYPE html>'",
        "empty.pth": "cannot be read: it is empty",
        "pointer.safetensors": "is a Git LFS pointer, not the file itself; fetch it with git lfs pull",
    }
    for name, message in expected.items():
        with pytest.raises(ValueError, match=message) as caught:
            read_initial(tmp_path / name, config())
        said = str(caught.value)
        assert said.isprintable() and "weights_only" not in said and "trust" not in said


def test_a_model_whose_weights_are_a_pointer(tmp_path):
    model = anyres.create_model("deit_tiny_patch16", **SMALL, num_classes=2)
    save(tmp_path, model, name=None, classes=("a", "b"), training_sizes=[(12, 12)])
    (tmp_path / "model.safetensors").write_text(POINTER)
    with pytest.raises(ValueError, match="model.safetensors is a Git LFS pointer"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(POINTER)
    for read in (load, lambda folder: read_initial(folder, config())):
        with pytest.raises(ValueError, match="config.json is a Git LFS pointer"):
            read(tmp_path)


def test_weights_whose_name_is_no_text_are_read_with_what_they_say_of_themselves(tmp_path):
    path = tmp_path / os.fsdecode(b"caf\xe9.safetensors")
    said = {"architecture": "vit_tiny_patch16_224", "input_size": "[3, 12, 12]"}
    save_file(state(), tmp_path / "a.safetensors", metadata=said)
    (tmp_path / "a.safetensors").rename(path)
    assert same(initial_weights(path, config()), state(), tmp_path)
    assert metadata_of(path)["architecture"] == "vit_tiny_patch16_224"
