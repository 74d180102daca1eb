"""Folders that earlier versions wrote load as if they had been written today."""

import json
import re

import pytest
import torch
from safetensors.torch import load_file, save_file

from anyres.models.architectures import create_model
from anyres.models.weights.earlier import weights_as_now
from anyres.models.weights.files import load, save
from anyres.models.weights.record import CONFIG, WEIGHTS

TINY = {"width": 16, "heads": 2, "depth": 2, "patch_size": 4, "grid": (3, 2)}
DENSE = TINY | {"patch_size": 8, "num_classes": 2}
MODELS = {
    "vitar_tiny_patch16": TINY | {"num_classes": 3, "prefix_tokens": 1},
    "mae_vitar_tiny_patch16": TINY | {"decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2, "prefix_tokens": 1},
    "upernet_vitar_small_patch16": DENSE | {"taps": (0, 1), "scales": (2, 1), "head_channels": 8, "auxiliary_tap": 1},
    "mask_rcnn_vitar_small_patch16": DENSE | {"channels": 8, "box_features": 8},
}


def written_before(folder, architecture):
    """Gives the files of a folder the names that they had."""
    weights = load_file(folder / WEIGHTS)
    own = {
        "MaskedAutoencoder": (r"^backbone\.", "encoder."),
        "Detector": (r"^backbone\.backbone\.", "backbone.encoder."),
    }
    pattern, replacement = own.get(architecture, ("", ""))
    weights = {re.sub(pattern, replacement, name).replace("trunk.", ""): value for name, value in weights.items()}
    save_file(weights, folder / WEIGHTS)
    record = json.loads((folder / CONFIG).read_text())
    if architecture == "MaskedAutoencoder":
        record["config"]["encoder"] = record["config"].pop("backbone")
    for settings in (record["config"], record["config"].get("encoder"), record["config"].get("backbone")):
        if settings and "deep_weight" in settings:
            settings["deep_weight"] = 0.5  # a default of then, without effect where there are no deep levels
    (folder / CONFIG).write_text(json.dumps(record))
    return weights


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_of_an_earlier_version_is_the_same_model(tmp_path, name):
    torch.manual_seed(0)
    model = create_model(name, **MODELS[name])
    save(tmp_path, model, name=name, training_sizes=[(8, 8)])
    architecture = type(model).__name__
    before = written_before(tmp_path, architecture)
    assert set(before) != set(model.state_dict())
    again, _ = load(tmp_path, type(model))
    assert again.config == model.config
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value), key
    assert weights_as_now(architecture, model.state_dict()).keys() == model.state_dict().keys()  # once is enough
