"""Every positional encoding in whole models: with and without a merger, at any size, in any list."""

import pytest
import torch
from timm.models import group_parameters
from timm.models.vision_transformer import Block

import anyres
from anyres.layers.position import NoPosition

TINY = {"width": 24, "heads": 2, "depth": 2, "patch_size": 4, "grid": 3, "num_classes": 5}
PLAIN = TINY | {"position": "none", "merger": "none"}
POSITIONS = {
    "sincos": {"position": "sincos"},
    "conditional": {"position": "conditional"},
    "conditional trunk": {"position": "conditional", "placement": "trunk"},
    "conditional before": {"position": "conditional", "placement": "before"},
    "global_local": {"position": "global_local"},
    "global_local before": {"position": "global_local", "placement": "before"},
    "relative_bias": {"position": "relative_bias"},
    "rotary": {"position": "rotary", "rescale": 2.0},
}
SIZES = [(17, 31), (1, 1), (5, 9), (40, 40), (17, 31), (3, 100)]
each_position = pytest.mark.parametrize("position", POSITIONS)
each_merger = pytest.mark.parametrize("merger", ["none", "grid_attention", "average"])


def make(position, **overrides):
    """A model whose positions and head are random and large, so that no zero hides a path."""
    torch.manual_seed(0)
    model = anyres.create_model("vitar_tiny_patch16", **(TINY | POSITIONS[position] | overrides))
    for name, parameter in model.named_parameters():
        if "position" in name or name == "head.weight":
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def images(sizes=SIZES):
    torch.manual_seed(1)
    return [torch.randn(3, *size) for size in sizes]


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@each_position
@each_merger
@pytest.mark.parametrize("prefix", [{}, {"prefix_tokens": 2, "pool": "token"}], ids=["mean", "token"])
def test_a_mixed_list_equals_one_by_one(position, merger, prefix):
    model = make(position, merger=merger, **prefix)
    alone = torch.cat([model(image[None]) for image in images()])
    torch.testing.assert_close(model(images()), alone, rtol=1e-5, atol=1e-5)
    keys = torch.arange(len(SIZES))
    model.train()
    alone = torch.cat([model(image[None], keys[i : i + 1]) for i, image in enumerate(images())])
    torch.testing.assert_close(model(images(), keys), alone, rtol=1e-5, atol=1e-5)


@each_position
@each_merger
def test_gradients_reach_every_parameter_and_checkpointing_changes_none(position, merger):
    model, keys = make(position, merger=merger, drop_path_rate=0.2).train(), torch.arange(len(SIZES))
    found = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        torch.manual_seed(3)
        found.append(gradients(model, model(images(), keys).square().sum()))
    assert [name for name, gradient in found[0].items() if gradient is None or not gradient.abs().sum() > 0] == []
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], msg=name)


@each_position
def test_a_plain_trunk_knows_the_order_of_its_patches_by_its_position_alone(position):
    model, without = make(position, merger="none"), anyres.create_model("vitar_tiny_patch16", **PLAIN).eval()
    image = torch.randn(1, 3, 24, 12)
    torch.testing.assert_close(without(image), without(image.roll(8, dims=2)), rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(image), model(image.roll(8, dims=2)), rtol=1e-2, atol=1e-2)
    assert not torch.allclose(model(image), model(image.roll(4, dims=3)), rtol=1e-2, atol=1e-2)


@each_position
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_intermediates_end_as_the_features(position, stem):
    model = make(position, prefix_tokens=1, stem=stem)
    image = torch.randn(2, 3, 50, 7)
    final, maps = model.forward_intermediates(image, norm=True)
    features = model.forward_features(image)
    torch.testing.assert_close(final.tokens, features.tokens)
    torch.testing.assert_close(maps[-1].permute(0, 2, 3, 1), features.tokens)


@pytest.mark.parametrize("options", [{"position": "fuzzy"}, {"position": "rotary", "rescale": 2.0}], ids=str)
def test_intermediates_in_training_follow_the_keys(options):
    model = anyres.create_model("vitar_tiny_patch16", **(TINY | options)).train()
    images, keys = torch.randn(2, 3, 50, 7), torch.tensor([3, 8])
    final, _ = model.forward_intermediates(images, jitter_keys=keys)
    torch.testing.assert_close(final.tokens, model.forward_features(images, keys).tokens)
    other, _ = model.forward_intermediates(images, jitter_keys=keys + 1)
    assert not torch.allclose(other.tokens, final.tokens, rtol=1e-3, atol=1e-3)


@each_position
@pytest.mark.parametrize("cells", ["halving", "2x2"])
def test_before_the_trunk_a_patch_is_felt_within_the_halo_only(position, cells):
    model = make(position, cells=cells).double()
    image = torch.randn(1, 3, 28, 40, dtype=torch.double)
    base, plan, halo = model.grid_tokens(image), model.plan(28, 40), model.position.halo
    for row, col in [(0, 0), (3, 4), (6, 9)]:
        other = image.clone()
        other[:, :, 4 * row : 4 * row + 4, 4 * col : 4 * col + 4] += 1
        seen = {
            (cell_row, cell_col)
            for cell_row in range(plan.grid[0])
            for cell_col in range(plan.grid[1])
            if plan.cell_rows[cell_row] - halo <= row < plan.cell_rows[cell_row + 1] + halo
            and plan.cell_cols[cell_col] - halo <= col < plan.cell_cols[cell_col + 1] + halo
        }
        changed = (model.grid_tokens(other) != base).any(-1)[0].nonzero().tolist()
        assert {tuple(place) for place in changed} == seen


@pytest.mark.parametrize("position", ["conditional trunk", "relative_bias", "rotary"])
def test_what_lives_in_the_trunk_leaves_the_merged_tokens_alone(position):
    model = make(position)
    assert isinstance(model.position, NoPosition)
    plain = anyres.create_model("vitar_tiny_patch16", **(TINY | {"position": "none"})).eval()
    shared = plain.state_dict().keys()
    plain.load_state_dict({name: value for name, value in model.state_dict().items() if name in shared})
    image = torch.randn(1, 3, 50, 30)
    assert torch.equal(model.grid_tokens(image), plain.grid_tokens(image))
    assert not torch.allclose(model(image), plain(image), rtol=1e-3, atol=1e-3)


@each_position
def test_blocks_keep_timms_names(position):
    theirs = set(Block(24, 2, qkv_bias=True).state_dict())
    for block in make(position).trunk.blocks:
        added = set(block.state_dict()) - theirs
        assert theirs <= set(block.state_dict()) and all("position" in name.split(".") for name in added)
    assert set(make("sincos").trunk.blocks[0].state_dict()) == theirs


@each_position
@each_merger
def test_initialisation_after_the_meta_device(position, merger):
    options = TINY | POSITIONS[position] | {"merger": merger}
    with torch.device("meta"):
        model = anyres.create_model("vitar_tiny_patch16", **options)
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    found = []
    for one in (model, anyres.create_model("vitar_tiny_patch16", **options)):
        torch.manual_seed(0)
        one.init_weights()
        found.append(one.state_dict())
    for name, value in found[0].items():
        assert value.isfinite().all() and torch.equal(value, found[1][name]), name
    local = {name: value for name, value in found[0].items() if "attn.position" in name or "position.local" in name}
    if position.startswith("global_local"):
        assert local and not any(value.any() for value in local.values())
        assert found[0]["position.conv.weight"].std() > 0.1


@each_position
def test_what_encodes_positions_has_no_weight_decay_and_a_layer(position):
    model = make(position, prefix_tokens=1)
    encoding = {name for name, _ in model.named_parameters() if "position" in name}
    assert model.no_weight_decay() == encoding | {"trunk.prefix"}
    layers = group_parameters(model, model.group_matcher(), reverse=True)
    assert set(layers) == {name for name, _ in model.named_parameters()}
    for name in encoding:
        block = int(name.split(".")[2]) if name.startswith("trunk.blocks.") else None
        assert layers[name] == (0 if block is None else 2 + block)


def test_rotary_factors_follow_the_keys():
    model, keys = make("rotary", merger="none").train(), torch.tensor([1, 2, 3])
    batch = torch.randn(3, 3, 20, 28)
    together = model(batch, keys)
    torch.testing.assert_close(model(list(batch), keys), together, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(model(batch.flip(0), keys.flip(0)).flip(0), together, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(model(batch, keys + 1), together)
    assert not torch.allclose(model(batch), model(batch))
    torch.testing.assert_close(model.eval()(batch), model(batch, keys))


def test_defaults_of_placement():
    """The authors' place on a plain trunk; before the merger for conditional positions that would see one grid only."""
    cases = [("conditional", "none", "trunk"), ("conditional", "average", "before"), ("global_local", "none", "trunk"),
             ("global_local", "grid_attention", "trunk"), ("rotary", "none", None)]  # fmt: skip
    for position, merger, expected in cases:
        config = anyres.ViTARConfig(position=position, merger=merger)
        assert config.local_placement == expected
    for placement in ("before", "trunk"):
        assert anyres.ViTARConfig(position="conditional", placement=placement).local_placement == placement
