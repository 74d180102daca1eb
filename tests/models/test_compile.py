"""Compiled parts give the same, and a bounded number of graphs serves all sizes."""

import copy
import pickle

import pytest
import torch
from torch._dynamo.testing import CompileCounter

import anyres


def make_model(**options):
    small = {"num_classes": 5, "patch_size": 4, "width": 16, "heads": 4, "depth": 2, "grid": (3, 4)}
    return anyres.create_model("vitar_tiny_patch16", **small | options).eval()


PYRAMID = {"merger": "pyramid", "grid_shape": "aspect", "position": "rotary"}


@pytest.mark.parametrize(("options", "count"), [({}, 50), (PYRAMID | {"depth": 1}, 16)])
def test_few_graphs_for_many_sizes_and_the_same_results(options, count):
    plain = make_model(**options)
    counter = CompileCounter()
    compiled = copy.deepcopy(plain)
    compiled.compile_parts(backend=counter)
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 160, (count, 2), generator=generator).tolist()
    halfway = 0
    with torch.no_grad():
        for number, (height, width) in enumerate(sizes):
            images = torch.randn(1 + number % 3, 3, height, width)
            torch.testing.assert_close(compiled(images), plain(images), rtol=1e-4, atol=1e-5)
            halfway = counter.frame_count if number == count // 2 - 1 else halfway
    assert 0 < counter.frame_count <= 14
    assert counter.frame_count - halfway <= 2  # a new size is not a new graph


@pytest.mark.parametrize("options", [{}, PYRAMID | {"depth": 1}], ids=str)
def test_training_compiled(options):
    plain = make_model(**options).train()
    compiled = copy.deepcopy(plain)
    compiled.compile_parts(backend="eager")
    images, keys = torch.randn(2, 3, 61, 90), torch.tensor([1, 2])
    for model in (plain, compiled):
        model(images, keys).square().sum().backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-6, msg=name)


def test_a_copy_computes_with_its_own_weights():
    model = make_model()
    model.compile_parts(backend="eager")
    copied = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(0.5)
        fresh = make_model()
        fresh.load_state_dict(copied.state_dict())
        images = torch.randn(1, 3, 61, 90)
        torch.testing.assert_close(copied(images), fresh(images))
    pickle.loads(pickle.dumps(model))  # what processes do with it
