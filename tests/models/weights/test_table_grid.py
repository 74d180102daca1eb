"""Which grid a position table of somebody else has: what files say, what an option says, what is refused."""

import json

import pytest
import timm
import torch
from safetensors.torch import save_file

import anyres
from anyres.models.architectures import get_config
from anyres.models.weights.initial import initial_weights, read_initial
from anyres.models.weights.table_grid import TableNotes, grid_of_table
from anyres.training import TrainConfig
from anyres.training.finetune import start_from

SMALL = {"patch_size": 4, "width": 16, "depth": 2, "heads": 2}
VIT = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 0}


def config(grid, name="deit_tiny_patch16"):
    return get_config(name, **SMALL, grid=grid)


def write(folder, grid, record=None, *, metadata=None, **options):
    """A timm ViT of that grid with random weights as a folder, with a config.json if there is a record."""
    folder.mkdir(parents=True, exist_ok=True)
    model = timm.create_model("vit_tiny_patch16_224", img_size=tuple(4 * side for side in grid), **VIT, **options)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    save_file(model.state_dict(), folder / "model.safetensors", metadata)
    if record is not None:
        (folder / "config.json").write_text(json.dumps(record))
    return model.eval()


@torch.no_grad()
def assert_same(source, theirs, grid, **options):
    """Ours started from there gives what theirs gives."""
    settings = config(grid)
    ours = anyres.create_model("deit_tiny_patch16", **SMALL, grid=grid, num_classes=0).eval()
    ours.load_state_dict(read_initial(source, settings, **options).weights, strict=False)
    images = torch.randn(2, 3, 4 * grid[0], 4 * grid[1])
    features = ours.forward_features(images)
    found = torch.cat([features.prefix, features.tokens.flatten(1, 2)], dim=1)
    torch.testing.assert_close(found, theirs.forward_features(images))


OBLONG = [(6, 8), (8, 6), (14, 16), (2, 4)]


@pytest.mark.parametrize("grid", OBLONG)
def test_an_oblong_grid_that_could_be_a_square_one_is_read_right_or_refused(tmp_path, grid):
    """n x (n + 2) positions and the class token's are (n + 1)^2."""
    theirs = write(tmp_path, grid)
    assert_same(tmp_path, theirs, grid)  # the model's grid is said to be that
    square = min(grid) + 1
    message = (
        rf"table of {square**2} positions beside a class token: {square}x{square} if that has none, else "
        rf"{square - 1}x{square + 1}, {square + 1}x{square - 1} .*--model-options grid=ROWSxCOLS .*config.json"
    )
    for other in ((14, 14), (5, 5)):
        with pytest.raises(ValueError, match=message):
            initial_weights(tmp_path, config(other))
        with pytest.raises(ValueError, match=message):
            initial_weights(tmp_path / "model.safetensors", config(other), resize_positions=True)


@pytest.mark.parametrize("side", [7, 15, 3])
def test_a_square_whose_class_token_has_no_position_is_read_right_or_refused(tmp_path, side):
    theirs = write(tmp_path, (side, side), no_embed_class=True)
    assert_same(tmp_path, theirs, (side, side))
    for options in ({"grid_is_given": False}, {"resize_positions": True}):
        with pytest.raises(ValueError, match=f"table of {side**2} positions beside a class token"):
            read_initial(tmp_path, config((side, side)), **options)


@pytest.mark.parametrize("grid", [(14, 14), (7, 7), (1, 1)])
def test_a_square_with_a_position_for_the_class_token_needs_no_word(tmp_path, grid):
    theirs = write(tmp_path, grid)
    assert_same(tmp_path, theirs, grid, grid_is_given=False)


def test_the_grid_of_fourteen_that_nobody_gave_decides_nothing(tmp_path):
    """196 positions: 14x14, or 13x15 and the class token's; the first is what models have unless told otherwise."""
    theirs = write(tmp_path, (14, 14), no_embed_class=True)
    with pytest.raises(ValueError, match="14x14 if that has none, else 13x15, 15x13 or another of 195"):
        read_initial(tmp_path, config((14, 14)))
    assert_same(tmp_path, theirs, (14, 14), grid_is_given=True)
    run = TrainConfig(data=tmp_path, out=tmp_path / "run", init=tmp_path, model_options=SMALL, sizes=("56",))
    model = anyres.create_model("deit_tiny_patch16", **SMALL, num_classes=0)
    with pytest.raises(ValueError, match="14x14 if that has none"):
        start_from(run, model)
    given = {**SMALL, "grid": (14, 14)}
    start_from(TrainConfig(**{**vars(run), "model_options": given}), model)
    torch.testing.assert_close(model.position.table.flatten(0, 1), theirs.pos_embed[0])


RECORDS = {
    "timm": lambda height, width: {"architecture": "vit", "pretrained_cfg": {"input_size": [3, height, width]}},
    "timm made at another size": lambda height, width: {
        "model_args": {"img_size": [height, width]}, "pretrained_cfg": {"input_size": [3, 224, 224]}
    },
    "transformers": lambda height, width: {"model_type": "vit", "image_size": [height, width], "patch_size": 4},
}  # fmt: skip


@pytest.mark.parametrize("resize", [False, True])
@pytest.mark.parametrize("kind", RECORDS)
@pytest.mark.parametrize(
    ("grid", "options"),
    [
        *((grid, {}) for grid in OBLONG),
        ((7, 7), {"no_embed_class": True}),
        ((9, 16), {}),
        ((4, 9), {"class_token": False, "global_pool": "avg"}),
    ],
)
def test_what_the_folder_says_decides(tmp_path, grid, options, kind, resize):
    theirs = write(tmp_path, grid, RECORDS[kind](4 * grid[0], 4 * grid[1]), **options)
    for source in (tmp_path, tmp_path / "model.safetensors"):
        if not resize:
            table = read_initial(source, config(grid), grid_is_given=False).weights["position.table"]
            assert torch.equal(table.flatten(0, 1), theirs.pos_embed[0, -grid[0] * grid[1] :])
            with pytest.raises(ValueError, match=f"grid of {grid[0]}x{grid[1]} and the model one of 5x5"):
                read_initial(source, config((5, 5)))
            continue
        found = read_initial(source, config((5, 5)), resize_positions=True).weights["position.table"]
        image = theirs.pos_embed[0, -grid[0] * grid[1] :].unflatten(0, grid).permute(2, 0, 1)[None]
        expected = torch.nn.functional.interpolate(image, (5, 5), mode="bilinear", align_corners=False)[0]
        torch.testing.assert_close(found, expected.permute(1, 2, 0))


@torch.no_grad()
@pytest.mark.parametrize("grid", [(6, 8), (7, 7)])
def test_what_transformers_writes_decides(tmp_path, grid):
    transformers = pytest.importorskip("transformers")
    size = [4 * side for side in grid]
    settings = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    known = transformers.ViTConfig(**settings, image_size=size, patch_size=4, layer_norm_eps=1e-6)
    theirs = transformers.ViTModel(known, add_pooling_layer=False).eval()
    torch.nn.init.normal_(theirs.embeddings.position_embeddings)
    theirs.save_pretrained(tmp_path)
    ours = anyres.create_model("deit_tiny_patch16", **SMALL, grid=grid, num_classes=0).eval()
    ours.load_state_dict(read_initial(tmp_path, ours.config, grid_is_given=False).weights, strict=False)
    images = torch.randn(2, 3, *size)
    features = ours.forward_features(images)
    found = torch.cat([features.prefix, features.tokens.flatten(1, 2)], dim=1)
    torch.testing.assert_close(found, theirs(images).last_hidden_state)


def test_what_the_file_says_of_itself_decides(tmp_path):
    theirs = write(tmp_path, (6, 8), metadata={"format": "pt", "img_size": "[24, 32]"})
    assert_same(tmp_path / "model.safetensors", theirs, (6, 8), grid_is_given=False)


def test_what_timm_writes_decides(tmp_path):
    pytest.importorskip("huggingface_hub")
    from timm.models import save_for_hf

    for options, grid in (({}, (6, 8)), ({"no_embed_class": True}, (7, 7))):
        model = timm.create_model("vit_tiny_patch16_224", img_size=tuple(4 * side for side in grid), **VIT, **options)
        torch.nn.init.normal_(model.pos_embed)
        save_for_hf(model.eval(), tmp_path, safe_serialization=True)
        assert_same(tmp_path, model, grid, grid_is_given=False)


def test_a_class_token_that_is_said_to_have_a_position_or_none(tmp_path):
    write(tmp_path, (7, 7), {"model_args": {"no_embed_class": True}}, no_embed_class=True)
    assert read_initial(tmp_path, config((7, 7)), grid_is_given=False).weights["position.table"].shape == (7, 7, 16)
    write(tmp_path, (6, 8), {"model_args": {"no_embed_class": False}})
    with pytest.raises(ValueError, match="48 positions, which is neither a square nor the model's grid of 7x7"):
        read_initial(tmp_path, config((7, 7)))


def test_words_that_do_not_fit_the_table_decide_nothing(tmp_path):
    theirs = write(tmp_path, (5, 5), {"pretrained_cfg": {"input_size": [3, 224, 224]}, "image_size": "large"})
    assert_same(tmp_path, theirs, (5, 5))
    write(tmp_path, (6, 8), {"pretrained_cfg": {"input_size": [3, 224, 224]}, "model_args": None})
    with pytest.raises(ValueError, match="7x7 if that has none"):
        read_initial(tmp_path, config((14, 14)))


def test_a_square_by_convention_is_refused_for_an_oblong_of_as_many(tmp_path):
    write(tmp_path, (6, 6))
    with pytest.raises(
        ValueError, match=r"grid of 6x6 and the model one of 4x9: .*grid=6x6 \(if its table is one of 4x9, a config"
    ):
        read_initial(tmp_path, config((4, 9)))


@pytest.mark.parametrize(
    ("count", "prefix", "notes", "expected"),
    [
        (197, 1, TableNotes(), ((14, 14), True)),
        (196, 0, TableNotes(), ((14, 14), True)),
        (577, 1, TableNotes(), ((24, 24), True)),
        (2, 1, TableNotes(), ((1, 1), True)),
        (1, 1, TableNotes(), ((1, 1), False)),
        (49, 1, TableNotes(like=(4, 12), is_chosen=True), ((4, 12), True)),
        (49, 1, TableNotes(like=(7, 7), is_chosen=True), ((7, 7), False)),
        (225, 1, TableNotes(sizes=((224, 256),)), ((14, 16), True)),
        (225, 1, TableNotes(sizes=((256, 224),)), ((16, 14), True)),
        (225, 1, TableNotes(sizes=((240, 240),)), ((15, 15), False)),
        (225, 0, TableNotes(), ((15, 15), True)),
        (225, 1, TableNotes(has_class_position=False), ((15, 15), False)),
        (225, 1, TableNotes(has_class_position=True, like=(14, 16)), ((14, 16), True)),
        (15, 1, TableNotes(like=(3, 5)), ((3, 5), False)),
    ],
)
def test_counts(count, prefix, notes, expected, tmp_path):
    assert grid_of_table(count, prefix, 16, notes, tmp_path) == expected
