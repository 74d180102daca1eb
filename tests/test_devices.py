"""The names of devices, on machines with and without accelerators."""

import pytest
import torch

from anyres.devices import resolve_device


@pytest.fixture
def machine(monkeypatch):
    def make(gpus=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return make


def test_auto_is_the_gpu_where_there_is_one(machine):
    machine()
    assert resolve_device("auto") == torch.device("cpu")
    machine(mps=True)
    assert resolve_device("auto") == torch.device("cpu")
    machine(gpus=2)
    assert resolve_device("auto") == torch.device("cuda")


@pytest.mark.parametrize(
    ("present", "allowed"),
    [
        ({}, ["auto", "cpu"]),
        ({"gpus": 2}, ["auto", "cpu", "cuda", "cuda:0", "cuda:1"]),
        ({"mps": True}, ["auto", "cpu", "mps"]),
    ],
)
def test_what_this_machine_has_is_allowed_and_nothing_else(machine, present, allowed):
    machine(**present)
    for name in ("auto", "cpu", "cuda", "cuda:0", "cuda:1", "cuda:2", "mps", "CPU", "cpu:0", "gpu", "xla", ""):
        if name in allowed:
            assert str(resolve_device(name)) == (name if name != "auto" else str(resolve_device("auto")))
        else:
            with pytest.raises(ValueError, match=rf"unknown device '{name}'.*Allowed: {', '.join(allowed)}\.$"):
                resolve_device(name)
