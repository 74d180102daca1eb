"""The pyramid merger in a model, against a slow reference that follows the equations cell by cell."""

import itertools

import pytest
import timm
import torch
import torch.nn.functional as F

import anyres
from anyres.layers.averaged import resize_to
from anyres.layers.merge_plan import Level, MergePlan
from anyres.layers.shares import merge_with_shares
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save
from anyres.models.weights.timm import convert_timm_vit

TINY = {"width": 24, "heads": 2, "depth": 1, "patch_size": 4, "grid": 3, "num_classes": 5, "merger": "pyramid"}
FORMS = [
    {}, {"stem": "conv"}, {"position": "conditional"}, {"position": "conditional", "placement": "trunk"},
    {"position": "sincos"}, {"cells": "2x2"}, {"cells": "1x1"}, {"last_pass": False},
    {"full_levels": 1, "deep_weight": 0.3}, {"full_levels": 0, "deep_weight": 0.0},
]  # fmt: skip
SIZES = [(12, 12), (24, 24), (53, 90), (37, 200), (1, 1), (5, 131), (96, 48), (1, 300)]


def make(seed=0, **overrides):
    torch.manual_seed(seed)
    return anyres.create_model("vitar_tiny_patch16", **(TINY | overrides)).eval().double()


def merged_slowly(model, image):
    """The equations of `layers.pyramid_merger`, one cell at a time, with attention written out; the patches, and the
    share of each."""
    block, patch, plan = model.merger.block, model.config.patch_size, model.plan(*image.shape[-2:])
    rows, cols = plan.size[0] * patch, plan.size[1] * patch
    if model.config.keeps_shape:
        image = F.pad(image, (0, cols - image.shape[-1], 0, rows - image.shape[-2]), mode="replicate")
    else:
        short = [n <= (m - 1) * patch for n, m in zip(image.shape[-2:], plan.size, strict=True)]
        size = [m * patch if s else n for n, m, s in zip(image.shape[-2:], plan.size, short, strict=True)]
        image = F.interpolate(image, size, mode="bilinear", align_corners=False)
        image = F.pad(image, (0, cols - image.shape[-1], 0, rows - image.shape[-2]), mode="replicate")
    patches = tokens = base = model.position(model.stem(image))
    shares, edges = torch.ones(patches.shape[:3], dtype=torch.double), [range(side + 1) for side in plan.size]
    for index, level in enumerate(plan.levels):
        if not level.is_identity:
            image = resize_to(image, *(side * patch for side in level.output_grid))
            base = model.position(model.stem(image))
        merged = torch.empty_like(base)
        for row in range(base.shape[1]):
            for col in range(base.shape[2]):
                rows, cols = level.rows[row : row + 2], level.cols[col : col + 2]
                cell = tokens[:, rows[0] : rows[1], cols[0] : cols[1]]
                whole, share = one_cell(block, base[:, row, col], cell.flatten(1, 2))
                seen = whole - base[:, row, col]
                merged[:, row, col] = base[:, row, col] + weight_of(model.config, plan.levels[index:]) * seen
                for i, j in itertools.product(range(*rows), range(*cols)):  # the patches of every token of the cell
                    inside = (slice(None), slice(*edges[0][i : i + 2]), slice(*edges[1][j : j + 2]))
                    shares[inside] *= share[:, (i - rows[0]) * cell.shape[2] + j - cols[0], None, None]
        edges = [[axis[edge] for edge in cells] for axis, cells in zip(edges, (level.rows, level.cols), strict=True)]
        tokens = merged
    return tokens, patches, shares


def weight_of(config, levels):
    """How much a level counts that is the first of these."""
    merging = sum(level.input_grid != level.output_grid for level in levels)
    weight = 1.0
    for _ in range(0 if config.full_levels is None else merging - config.full_levels):
        weight *= config.deep_weight
    return weight


def one_cell(block, base, tokens):
    query = block.q(block.norm1(base)).unflatten(-1, (block.heads, 1, -1))
    keys, values = (
        x.unflatten(-1, (block.heads, -1)).transpose(1, 2) for x in block.kv(block.norm1(tokens)).chunk(2, -1)
    )
    shares = (query @ keys.transpose(-1, -2) * block.head_dim**-0.5).softmax(-1)  # (B, heads, 1, n)
    x = base + block.proj((shares @ values).flatten(1))
    return x + block.mlp(block.norm2(x)), shares.mean(1)[:, 0]


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_equals_the_equations(options):
    model = make(**options)
    for size in SIZES:
        image = torch.randn(2, 3, *size, dtype=torch.double)
        with torch.no_grad():
            tokens, *of_patches = merged_slowly(model, image)
            features, *found = model.forward_patches(image)
            # the softmax is in float32
            torch.testing.assert_close(model.grid_tokens(image), tokens, rtol=1e-5, atol=1e-6)
            torch.testing.assert_close(features.tokens, model.forward_features(image).tokens, rtol=1e-5, atol=1e-6)
            for each, expected in zip(found, of_patches, strict=True):
                torch.testing.assert_close(each.double(), expected, rtol=1e-5, atol=1e-6)


def test_untrained_it_is_an_ordinary_model_on_the_resized_image():
    model = make(start="mean")
    for size in [(24, 24), (53, 90), (12, 12)]:
        image = torch.randn(1, 3, *size, dtype=torch.double)
        leaf = F.pad(image, (0, -size[1] % 4, 0, -size[0] % 4), mode="replicate")
        plan = model.plan(*size)
        for level in plan.levels[:-1]:
            leaf = resize_to(leaf, *(side * 4 for side in level.output_grid))
        expected = model.forward_merged(model.position(model.stem(leaf)), plan).tokens
        torch.testing.assert_close(model.forward_features(image).tokens, expected)


def test_small_images_are_enlarged_to_the_grid():
    model = make()
    image = torch.randn(1, 3, 7, 5, dtype=torch.double)
    larger = F.interpolate(image, (12, 12), mode="bilinear", align_corners=False)
    assert model.plan(7, 5).grid == (3, 3)
    torch.testing.assert_close(model(image), model(larger))


def test_a_list_is_each_image_alone():
    model = make()
    images = [torch.randn(3, *size, dtype=torch.double) for size in SIZES]
    torch.testing.assert_close(model(images), torch.cat([model(image[None]) for image in images]))


def test_jitter_follows_the_keys_and_differs_by_level():
    model = make().train()
    images, keys = torch.randn(2, 3, 48, 48, dtype=torch.double), torch.tensor([3, 5])
    both = model.grid_tokens(images, keys)
    torch.testing.assert_close(model.grid_tokens(images[1:], keys[1:]), both[1:])
    assert not torch.allclose(model.grid_tokens(images, keys + 1), both)


@pytest.mark.parametrize("size", [(12, 12), (24, 48), (96, 48)])
def test_where_every_level_halves_one_cells_pixels_change_one_grid_token(size):
    model = make()
    plan, image = model.plan(*size), torch.randn(1, 3, *size, dtype=torch.double)
    base = model.grid_tokens(image)
    for row, col in itertools.product(range(3), range(3)):
        changed = image.clone()
        rows, cols = (
            (4 * edge for edge in plan.cell_rows[row : row + 2]),
            (4 * edge for edge in plan.cell_cols[col : col + 2]),
        )
        changed[:, :, slice(*rows), slice(*cols)] += 1
        assert (model.grid_tokens(changed) != base).any(-1)[0].nonzero().tolist() == [[row, col]]


def test_no_pixel_is_ignored():
    for model in (make(), make(stem="conv", grid_shape="aspect")):
        image = torch.randn(1, 3, 23, 41, dtype=torch.double, requires_grad=True)
        model(image).square().sum().backward()
        assert (image.grad.abs().sum(1) > 0).all()


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_in_half_precision_averages_are_not_rounded_from_level_to_level(dtype, stem):
    """Near float32 in the model's own precision and under autocast, also where every level is a mean of the last."""
    exact = make(stem=stem).float()
    low = make(stem=stem).to(dtype)
    for size in ((5, 7), (53, 90), (200, 192)):
        image = torch.randn(1, 3, *size).to(dtype)
        expected = exact(image.float())
        with torch.autocast("cpu", dtype):
            cast = exact(image.float())
        found = low(image)
        assert found.dtype == dtype
        assert (cast - expected).abs().max() < 0.05 * expected.abs().max()
        assert (found.float() - expected).abs().max() < 0.05 * expected.abs().max()
    seen = []
    low.stem.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    low(image)
    wanted = resize_to(resize_to(image.float(), 100, 96), 52, 48)
    assert torch.equal(seen[2], wanted.to(dtype))  # rounded once, and not with every level


def test_what_is_not_finite_stays_in_its_image():
    model = make()
    images = torch.randn(3, 3, 31, 53, dtype=torch.double)
    alone = model(images)
    images[1, 0, 30, 5] = torch.nan
    found = model(images)
    assert found[1].isnan().all()
    torch.testing.assert_close(found[[0, 2]], alone[[0, 2]])


@torch.no_grad()
def test_with_the_weights_of_a_vit_it_starts_as_that_on_the_resized_image():
    torch.manual_seed(0)
    vit = {"img_size": 12, "patch_size": 4, "embed_dim": 24, "num_heads": 2, "depth": 2, "num_classes": 5}
    theirs = timm.create_model("deit_tiny_patch16_224", **vit).eval()
    for parameter in theirs.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    ours = anyres.create_model(
        "deit_tiny_patch16", **TINY | {"depth": 2, "merger": "pyramid", "start": "mean", "interpolation": "bilinear"}
    ).eval()
    missing = ours.load_state_dict(convert_timm_vit(theirs.state_dict(), ours.config), strict=False)
    assert not missing.unexpected_keys and {name.split(".")[0] for name in missing.missing_keys} == {"merger"}
    image = torch.randn(2, 3, 48, 96)
    for given, seen in (
        (image, F.avg_pool2d(image, (4, 8))),
        (image[..., :12, :12], image[..., :12, :12]),
        (image[..., :7, :5], F.interpolate(image[..., :7, :5], (12, 12), mode="bilinear")),
    ):
        torch.testing.assert_close(ours(given), theirs(seen), rtol=1e-4, atol=1e-4)


def test_saved_and_loaded_it_is_the_same(tmp_path):
    model = make(grid_shape="aspect", start="mean").float()
    save(tmp_path, model, name=None, classes="abcde", training_sizes=[(12, 24)])
    again, _ = load(tmp_path, ViTAR)
    image = torch.randn(1, 3, 17, 90)
    assert again.config == model.config and torch.equal(again(image), model(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"padding": "zeros"}, 'padding=.* merger is not "grid_attention"'),
        ({"cells": "balanced"}, "allowed: halving"),
        ({"learned_levels": 1}, "learned_levels=1"),
        ({"scale_query": True}, "scale_query=True"),
        ({"full_levels": -1}, "full_levels is -1"),
        ({"deep_weight": 0.3}, "deep_weight=0.3 has no effect because full_levels is None"),
        ({"full_levels": 1, "deep_weight": 1.5}, "allowed: 0 to 1"),
        ({"full_levels": 1, "cells": "1x1"}, "full_levels=1 has no effect"),
        ({"full_levels": 1, "cells": "2x2"}, "full_levels=1 has no effect"),
    ],
)
def test_what_it_cannot_serve_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        make(**options)


def test_bases_and_plans_that_do_not_fit_are_refused():
    model, plan = make(), MergePlan.halving((7, 5), (3, 3))
    tokens = torch.randn(1, 7, 5, 24, dtype=torch.double)
    bases = [torch.randn(1, *level.output_grid, 24, dtype=torch.double) for level in plan.levels]
    assert model.merger(tokens, plan, bases).shape == (1, 3, 3, 24)
    for given in ([], bases[:1]):
        for merge in (model.merger, lambda *arguments: merge_with_shares(model.merger, *arguments)):
            with pytest.raises(ValueError, match=rf"there are {len(given)} bases for 3 levels \(7x5 > .* needs one"):
                merge(tokens, plan, given)
    with pytest.raises(ValueError, match=r"the base has shape \(1, 3, 3, 24\); needed .* \(1, 4, 3, 24\)"):
        model.merger(tokens, plan, [bases[1], *bases[1:]])
    with pytest.raises(ValueError, match=r"tokens have a grid of \(7, 4\); the level is for \(7, 5\)"):
        model.merger(tokens[:, :, :4], plan, bases)
    large = MergePlan((7, 5), (Level((0, 3, 7), (0, 2, 5)),))
    with pytest.raises(ValueError, match="a cell holds 4 positions of an axis; one level merges 1 or 2"):
        model.merger(tokens, large, [torch.randn(1, 2, 2, 24, dtype=torch.double)])
