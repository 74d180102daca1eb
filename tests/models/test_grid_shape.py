"""Final grids that follow the image's shape: every equality that holds for a grid that is always the same."""

import copy
from typing import get_args

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounter

import anyres
from anyres.layers.pieces import merge_in_pieces, pixels_of
from anyres.models.config import Merger
from anyres.streaming.stream import stream

MERGERS = [merger for merger in get_args(Merger) if merger != "none"]
POSITIONS = {
    "fuzzy": {},
    "conditional": {"position": "conditional", "placement": "trunk"},
    "relative_bias": {"position": "relative_bias"},
    "rotary": {"position": "rotary", "rescale": 2.0},
    "global_local": {"position": "global_local"},
    "sincos": {"position": "sincos"},
}
SIZES = [(1, 1), (17, 31), (61, 37), (16, 32), (5, 97), (64, 64), (1, 300), (300, 4), (131, 203), (17, 31)]
each_merger = pytest.mark.parametrize("merger", MERGERS)


def make(merger="grid_attention", **options):
    """A 4x4 grid by area, and nothing is zero, so that no path is hidden."""
    torch.manual_seed(0)
    settings = {"width": 16, "heads": 2, "depth": 2, "patch_size": 4, "grid": 4, "num_classes": 5}
    model = anyres.create_model(
        "vitar_tiny_patch16", merger=merger, grid_shape="aspect", **(settings | options)
    ).double()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def images(sizes=SIZES):
    torch.manual_seed(1)
    return [torch.randn(3, *size, dtype=torch.double) for size in sizes]


def grids(model, sizes=SIZES):
    return [model.plan(*size).grid for size in sizes]


@each_merger
@pytest.mark.parametrize("position", POSITIONS)
def test_a_mixed_list_equals_one_by_one(merger, position):
    model = make(merger, **POSITIONS[position])
    assert len(set(grids(model))) > 6
    alone = [model.forward_features(image[None]) for image in images()]
    together = model.forward_features(images())
    for found, expected, grid in zip(together.tokens, alone, grids(model), strict=True):
        assert found.shape[:2] == grid
        torch.testing.assert_close(found, expected.tokens[0], rtol=1e-9, atol=1e-9)
    keys = torch.arange(len(SIZES))
    model.train()
    alone = torch.cat([model(image[None], keys[i : i + 1]) for i, image in enumerate(images())])
    torch.testing.assert_close(model(images(), keys), alone, rtol=1e-9, atol=1e-9)


@each_merger
def test_shapes_of_one_area_are_one_batch_of_the_trunk(merger, monkeypatch):
    model, calls = make(merger), []
    block = model.trunk.blocks[0]
    monkeypatch.setattr(block, "forward", lambda x, *a, old=block.forward: (calls.append(x.shape[:2]), old(x, *a))[1])
    sizes = [(64, 64), (96, 192), (192, 96), (48, 64), (64, 256)]
    assert grids(model, sizes) == [(4, 4), (3, 6), (6, 3), (3, 5), (2, 8)]
    model(images(sizes))
    assert calls == [(5, 18)]


@each_merger
@pytest.mark.parametrize("stem", ["patch", "conv"])
@torch.no_grad()
def test_pieces_and_streams_equal_the_whole(merger, stem):
    model = make(merger, stem=stem)
    for image in images([(17, 31), (61, 37), (1, 300), (131, 203)]):
        expected = model.grid_tokens(image[None])
        for positions in (3, 40):
            merging = model.pieces(*image.shape[1:], positions=positions)
            found = merge_in_pieces(
                merging, lambda regions, x=image[None]: (pixels_of(x, region) for region in regions)
            )
            assert found.shape == expected.shape and (found - expected).norm() < 1e-6 * expected.norm()
        streamed = stream(model.float(), image.permute(1, 2, 0).float().numpy(), positions=20, progress=False)
        torch.testing.assert_close(streamed.tokens, model.forward_features(image[None].float()).tokens)
        model.double()


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_skipped_patches_are_counted_on_the_images_own_grid(merger):
    model, skip = make(merger).float(), np.ones((25, 50), bool)
    skip[:10, 30:] = False
    found = stream(model, np.zeros((97, 200, 3), np.uint8), skip=skip, positions=40, progress=False)
    assert found.counts.shape == (3, 6) and found.counts.sum() == 200 and (found.counts == 0).sum() == 12


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_gradients_by_pieces_are_those_of_the_whole(merger):
    found = []
    for enable in (False, True):
        model = make(merger, extra_passes=1).train()
        model.set_grad_pieces(enable)
        torch.manual_seed(3)
        loss = sum(model(torch.randn(2, 3, *size).double(), torch.tensor([1, 2])).square().sum() for size in SIZES[1:7])
        loss.backward()
        found.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(found[1], found[0], rtol=1e-8, atol=1e-8)


@torch.no_grad()
def test_few_graphs_for_many_shapes_and_the_same_results():
    plain = make(depth=1, grid=7)
    counter, compiled = CompileCounter(), copy.deepcopy(plain)
    compiled.compile_parts(backend=counter)
    sizes = torch.randint(40, 160, (16, 2), generator=torch.Generator().manual_seed(0)).tolist()
    assert len(set(grids(plain, sizes))) >= 7
    frames = []
    for size in sizes:
        batch = torch.randn(2, 3, *size).double()
        torch.testing.assert_close(compiled(batch), plain(batch), rtol=1e-8, atol=1e-8)
        frames.append(counter.frame_count)
    assert 0 < frames[7] == frames[-1] <= 5  # a new shape is not a new graph


@each_merger
def test_a_transposed_image_has_the_transposed_grid(merger):
    model = make(merger)
    for height, width in SIZES:
        assert model.plan(height, width).grid == model.plan(width, height).grid[::-1]


@each_merger
def test_saved_and_loaded_it_is_the_same(merger, tmp_path):
    from anyres.models.vitar import ViTAR
    from anyres.models.weights.files import load, save

    model = make(merger).float()
    save(tmp_path, model, name="vitar_tiny_patch16", training_sizes=[(32, 64)])
    again, _ = load(tmp_path, ViTAR)
    batch = torch.randn(1, 3, 40, 83)
    assert again.config == model.config and torch.equal(again(batch), model(batch))
