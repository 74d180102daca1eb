"""Merging piece by piece equals merging the whole image: every stem, position, merger, plan and size of pieces."""

from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings, strategies as st

import anyres
from anyres.layers.merge_plan import MergePlan
from anyres.layers.pieces import PieceMerger, merge_in_pieces, piece_positions, pixels_of
from anyres.layers.recompute import merge_recomputing
from anyres.layers.region import Region
from anyres.layers.stages import Piece, make_stages
from anyres.models.bases import fitted, make_bases

POSITIONS = ["fuzzy", "learned", "sincos", "conditional", "global_local", "none"]
MERGERS = [
    {"merger": "grid_attention"},
    {"cells": "balanced", "scale_query": True},
    {"padding": "zeros"},
    {"learned_levels": 1, "last_pass": False},
    {"cells": "2x2"},
    {"merger": "concat"},
    {"merger": "average"},
    {"merger": "average", "cells": "halving"},
]
PYRAMIDS = [
    {},
    {"cells": "2x2"},
    {"cells": "1x1"},
    {"grid_shape": "aspect", "last_pass": False, "full_levels": 1},
]
SIZES = [(61, 37), (131, 203), (3, 290), (97, 1), (60, 60)]


def make_model(stem="patch", position="fuzzy", **options):
    placement = {"placement": "before"} if position in ("conditional", "global_local") else {}
    model = anyres.create_model(
        "vitar_tiny_patch16", num_classes=7, patch_size=4, width=16, heads=4, depth=1, grid=(3, 5), stem=stem,
        position=position, **placement, **options,
    )  # fmt: skip
    if model.merger is not None:
        for parameter in model.merger.parameters():  # so that zero-initialised parts take part
            torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def whole(model, images):
    """Without any piece: stem, positions and merger one after the other."""
    if model.config.merger == "pyramid":
        return model.merge(images)[0]
    tokens = model.position(model.stem(images))
    return model.merger(tokens, model.config.plan((tokens.shape[1], tokens.shape[2])))


def read_from(images):
    return lambda regions: (pixels_of(images, region) for region in regions)


def in_pieces(model, images, positions):
    merging = model.pieces(*images.shape[-2:], positions=positions)
    return merge_in_pieces(merging, read_from(images))


def assert_equal(found, expected):
    assert found.shape == expected.shape
    assert ((found - expected).norm() / expected.norm()).item() < 1e-5


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("options", MERGERS, ids=str)
@torch.no_grad()
def test_equal_to_the_whole_image(stem, position, options):
    model = make_model(stem, position, **options)
    for size in SIZES:
        images = torch.randn(2, 3, *size)
        expected = whole(model, images)
        for positions in (1, 9, 70):
            assert_equal(in_pieces(model, images, positions), expected)


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("position", POSITIONS)
@torch.no_grad()
def test_the_pyramid_merger_is_equal_to_the_whole_image(stem, position):
    """Odd, prime and even grids, images smaller than the grid on one axis or both, stages of one and of all levels."""
    has_forms = position in ("fuzzy", "conditional")
    for options in PYRAMIDS if has_forms else PYRAMIDS[:1]:
        model = make_model(stem, position, merger="pyramid", **options)
        for size in [(61, 37), (131, 123), (3, 290), (96, 160), (1, 1)] if has_forms else [(131, 123)]:
            images = torch.randn(2, 3, *size)
            expected = whole(model, images)
            for positions in (10, 200):
                assert_equal(in_pieces(model, images, positions), expected)
    images = torch.randn(2, 3, 61, 37)
    assert_equal(in_pieces(model, images, 1), whole(model, images))


@pytest.mark.parametrize("position", ["fuzzy", "conditional"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
def test_declared_pixels_are_what_bases_depend_on(stem, position):
    """By the gradients of the whole image: none outside the rectangle of a piece, and little of it is without."""
    model = make_model(stem, position, merger="pyramid").double()
    for size in [(161, 203), (120, 320), (5, 290)]:
        images = torch.randn(1, 3, *size, dtype=torch.double, requires_grad=True)
        tokens, plan = model.merge(images)
        merging = model.pieces(*size, positions=10_000)
        cells = [range(1, 2)] * 2
        # one cell of the final grid as a piece, wherever the stages would have it
        piece = Piece((cells[0], cells[1]), region_of_cell(plan, 1, 1))
        assert len(merging.stages) == 1
        (seen,) = torch.autograd.grad(tokens[0, 1, 1].sum(), images)
        rows, cols = (seen[0].abs().sum((0, 2 - axis)).nonzero()[:, 0] for axis in (0, 1))
        y, x, height, width = merging.pixels(piece)
        assert y <= rows.min() and rows.max() < y + height and x <= cols.min() and cols.max() < x + width
        assert height * width <= 1.4 * len(rows) * len(cols)


def region_of_cell(plan, row, col):
    rows, cols = plan.cell_rows, plan.cell_cols
    return Region.of(range(*rows[row : row + 2]), range(*cols[col : col + 2]), plan.size)


@pytest.mark.parametrize("name", ["vitar_base_patch16", "vitar_base_conv16"])
def test_little_is_read_twice(name):
    with torch.device("meta"):
        model = anyres.create_model(name, merger="pyramid").eval()
    for size, most in [((4032, 4032), 1.15), ((3001, 4507), 1.15), ((20_000, 30_000), 1.35)]:
        merging = model.pieces(*size, positions=4000)
        read = sum(height * width for _, _, height, width in map(merging.pixels, merging.pieces))
        assert read < most * size[0] * size[1]


@settings(max_examples=60)
@given(
    st.integers(1, 300), st.integers(1, 300), st.integers(1, 3000),
    st.sampled_from(["halving", "balanced"]), st.tuples(st.integers(1, 9), st.integers(1, 9)),
)  # fmt: skip
def test_pieces_cover_every_stage_once(rows, cols, positions, kind, grid):
    plan = getattr(MergePlan, kind)((rows, cols), grid)
    stages = make_stages(plan, positions)
    assert [stage.first for stage in stages] == [0, *(stage.last for stage in stages[:-1])]
    assert stages[-1].last == len(plan.levels)
    for stage in stages:
        grid_in = plan.levels[stage.first - 1].output_grid if stage.first else plan.size
        grid_out = plan.levels[stage.last - 1].output_grid
        covered, given_out = torch.zeros(grid_in, dtype=torch.int), torch.zeros(grid_out, dtype=torch.int)
        for piece in stage.pieces:
            covered[piece.region.rows, piece.region.cols] += 1
            given_out[piece.cells[0].start : piece.cells[0].stop, piece.cells[1].start : piece.cells[1].stop] += 1
            several = len(piece.cells[0]) * len(piece.cells[1]) > 1
            assert not several or piece.region.size[0] * piece.region.size[1] <= positions
        assert (covered == 1).all() and (given_out == 1).all()


def test_what_is_left_is_merged_at_once_where_it_fits_a_piece():
    """Small pieces of deep levels would read the weights again and again for a few tokens each."""
    plan = MergePlan.halving((126, 126), (14, 14))  # > 63 > 32 > 16 > 14, and a pass of 1x1 cells
    for positions, lasts in ((2500, [2, 5]), (4000, [1, 5]), (300, [3, 5]), (126**2, [5])):
        stages = make_stages(plan, positions)
        assert [stage.last for stage in stages] == lasts and len(stages[-1].pieces) == 1


@pytest.mark.parametrize(
    ("options", "height"), [({}, 8000), ({"merger": "pyramid", "stem": "conv"}, 1600)], ids=["paper", "pyramid"]
)
def test_what_is_held_does_not_grow_with_the_height(options, height):
    """At most one band of every stage waits, and the stages grow with the logarithm of the rows."""

    def most_held(height):
        model = make_model(**options)
        merging = model.pieces(height, 300, positions=16)
        most = 0
        for piece in merging.remaining():
            y, x, h, w = merging.pixels(piece)
            merging.add(torch.zeros(1, 3, h, w))
            parts = [
                part for name, held in merging._held().items() if name != "result" for each in held for part in each
            ]
            most = max(most, sum(part.untyped_storage().nbytes() for part in parts if part is not None))
        return most

    with torch.no_grad():
        assert most_held(height) <= 2 * most_held(500)


def skipping_reference(model, images, is_skipped):
    """Slow: cell by cell and level by level with lists of the tokens that take part."""
    plan, is_pyramid = model.plan(*images.shape[-2:]), model.config.merger == "pyramid"
    images = fitted(model, images)
    tokens = model.position(model.stem(images))
    bases = make_bases(model, images, tokens, plan, None) if is_pyramid else [None] * len(plan.levels)
    kept = (~is_skipped).tolist()
    for level, base in zip(plan.levels, bases, strict=True):
        rows_out = []
        kept_out = []
        for i, (r0, r1) in enumerate(pairwise(level.rows)):
            row, kept_row = [], []
            for j, (c0, c1) in enumerate(pairwise(level.cols)):
                places = [(r, c) for r in range(r0, r1) for c in range(c0, c1)]
                real = [(r, c) for r, c in places if kept[r][c]]
                kept_row.append(bool(real))
                members = torch.stack([tokens[:, r, c] for r, c in real or places[:1]], dim=1)  # (B, n, D)
                seen = members.mean(1) if base is None else base[:, i, j]
                row.append(one_cell(model.merger.block, members, seen))
            rows_out.append(torch.stack(row, dim=1))
            kept_out.append(kept_row)
        tokens, kept = torch.stack(rows_out, dim=1), kept_out
    return tokens


def one_cell(block, members, base):
    """Equation 1 with torch's own attention."""
    q = block.q(block.norm1(base[:, None])).unflatten(-1, (block.heads, -1)).transpose(1, 2)
    k, v = block.kv(block.norm1(members)).unflatten(-1, (2, block.heads, -1)).unbind(2)
    out = torch.nn.functional.scaled_dot_product_attention(q, k.transpose(1, 2), v.transpose(1, 2))
    x = base + block.proj(out.transpose(1, 2).flatten(2))[:, 0]
    return x + block.mlp(block.norm2(x))


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("options", [{}, {"cells": "balanced"}, {"merger": "pyramid"}], ids=str)
@pytest.mark.parametrize("share", [0.0, 0.6, 1.0])
@torch.no_grad()
def test_skipped_patches_equal_a_slow_reference(stem, options, share):
    model = make_model(stem, **options)
    images = torch.randn(1, 3, 75, 122)
    rows, cols = model.plan(75, 122).size
    is_skipped = torch.rand(rows, cols) < share
    is_skipped[:9, :14] |= share > 0  # whole pieces and cells, too
    expected = skipping_reference(model, images, is_skipped)
    for positions in (1, 20, 5000):
        merging = model.pieces(75, 122, positions=positions)
        for piece in merging.remaining():
            part = is_skipped[piece.region.rows, piece.region.cols]
            if part.all():
                merging.add_empty([pixels_of(images, region) for region in merging.empty_pixels(piece)])
            else:
                merging.add(pixels_of(images, merging.pixels(piece)), part)
        assert_equal(merging.result(), expected)
        cells_r, cells_c = merging.plan.cell_rows, merging.plan.cell_cols
        for i, j in [(0, 0), (1, 3), (2, 4)]:
            inside = is_skipped[cells_r[i] : cells_r[i + 1], cells_c[j] : cells_c[j + 1]]
            assert merging.counts()[i, j] == (~inside).sum()


@pytest.mark.parametrize("options", [{"merger": "average"}, {"learned_levels": 0}, {"merger": "concat"}], ids=str)
@torch.no_grad()
def test_skipped_patches_do_not_matter(options):
    """What is skipped may be anything, in every merger, and an average is that of the rest."""
    model = make_model(position="none", **options)
    images, other = torch.randn(1, 3, 75, 122), torch.randn(1, 3, 75, 122)
    rows, cols = model.plan(75, 122).size
    is_skipped = torch.rand(rows, cols) < 0.3
    is_skipped[0, 0] = False
    pixels = is_skipped.repeat_interleave(4, 0).repeat_interleave(4, 1)[:75, :122]
    found = []
    for changed in (images, torch.where(pixels, other, images)):
        merging = model.pieces(75, 122, positions=30)
        for piece in merging.remaining():
            skipped = is_skipped[piece.region.rows, piece.region.cols]
            merging.add(pixels_of(changed, merging.pixels(piece)), skipped)
        found.append(merging.result())
    assert_equal(found[1], found[0])
    if options.get("merger") == "average":
        tokens = model.stem(images)[0]
        first = (slice(0, merging.plan.cell_rows[1]), slice(0, merging.plan.cell_cols[1]))
        expected = tokens[first][~is_skipped[first]].mean(0)
        torch.testing.assert_close(found[0][0, 0, 0], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("options", [{"merger": "grid_attention", "cells": "balanced"}, {"merger": "pyramid"}])
@torch.no_grad()
def test_the_state_goes_on_elsewhere(options):
    model = make_model("conv", **options)
    images = torch.randn(1, 3, 161, 90)
    read = read_from(images)
    expected = in_pieces(model, images, 9)
    count = len(model.pieces(161, 90, positions=9).pieces)
    for stop in range(0, count + 1, 5 if options["merger"] == "grid_attention" else 40):
        first = model.pieces(161, 90, positions=9)
        for piece in list(first.remaining())[:stop]:
            first.add(pixels_of(images, first.pixels(piece)))
        second = model.pieces(161, 90, positions=9)
        second.load_state_dict({key: value.clone() for key, value in first.state_dict().items()})
        assert second.done == stop
        torch.testing.assert_close(merge_in_pieces(second, read), expected, rtol=0, atol=0)


def test_too_early_a_result_and_a_model_without_merger():
    merging = make_model().pieces(100, 100, positions=9)
    with pytest.raises(ValueError, match="have not been added yet"):
        merging.result()
    with pytest.raises(ValueError, match='merger is "none"'):
        make_model(position="learned", merger="none").pieces(100, 100)
    for positions in (0, -5):
        with pytest.raises(ValueError, match="allowed: 1 and more"):
            make_model().pieces(100, 100, positions=positions)
    with pytest.raises(ValueError, match='padding is "zeros" and patches are skipped'):
        merging = make_model(padding="zeros").pieces(100, 100, positions=5000)
        merging.add(torch.zeros(1, 3, 100, 100), torch.zeros(25, 25, dtype=torch.bool))


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_a_large_image_takes_the_path_in_pieces_and_gives_the_same(merger, monkeypatch):
    model = make_model(merger=merger)
    images = torch.randn(2, 3, 210, 333)
    expected = model(images)  # with gradients: as a whole
    used = []
    monkeypatch.setattr("anyres.models.piecewise.piece_positions", lambda width, like: 500)
    monkeypatch.setattr(PieceMerger, "add", lambda self, *a, add=PieceMerger.add: (used.append(1), add(self, *a)))
    with torch.inference_mode():
        found = model(images)
        assert len(used) > 1
        mixed = model([images[0], images[1, :, :50], images[1]])
    assert_equal(found, expected)
    assert_equal(mixed[[0, 2]], expected)


def test_pieces_fit_the_width_and_the_type():
    wide, narrow = piece_positions(768, torch.zeros(1)), piece_positions(96, torch.zeros(1))
    half = piece_positions(768, torch.zeros(1, dtype=torch.bfloat16))
    assert narrow == pytest.approx(8 * wide, rel=0.01) and half == pytest.approx(2 * wide, rel=0.01)


# Gradients.


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("options", [MERGERS[i] for i in (0, 1, 5, 6)], ids=str)
def test_gradients_equal_ordinary_ones(stem, position, options):
    cases = (((61, 37), 1), ((131, 203), 60), ((131, 203), 9), ((3, 90), 7))
    assert_gradients_equal(make_model(stem, position, **options).train(), cases)


@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("options", [{}, {"cells": "2x2", "position": "conditional"}], ids=str)
def test_gradients_of_the_pyramid_merger_equal_ordinary_ones(stem, options):
    cases = (((131, 123), 60), ((61, 37), 9), ((3, 90), 7))
    assert_gradients_equal(make_model(stem, merger="pyramid", **options).train(), cases)


def assert_gradients_equal(model, cases):
    for size, positions in cases:
        images, keys = torch.randn(2, 3, *size), torch.tensor([5, 7])
        weights = torch.randn(2, *model.plan(*size).grid, 16)
        expected = gradients(model, model.grid_tokens(images, keys), weights)
        merging = model.pieces(*size, keys=keys, positions=positions)
        found = gradients(model, merge_recomputing(merging, read_from(images)), weights)
        assert found.keys() == expected.keys()
        for name, value in expected.items():
            assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name


def gradients(model, tokens, weights):
    model.zero_grad()
    (tokens * weights).sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_training_with_recomputed_pieces_is_ordinary_training(merger, monkeypatch):
    """The whole model, extra passes and a frozen stem included, under autocast as well."""
    monkeypatch.setattr("anyres.models.piecewise.piece_positions", lambda width, like: 100)
    model = make_model("conv", extra_passes=2, merger=merger).train()
    model.stem.requires_grad_(False)
    images, keys = torch.randn(2, 3, 131, 90), torch.tensor([3, 4])

    def step(pieces, autocast):
        model.set_grad_pieces(pieces)
        model.zero_grad()
        torch.manual_seed(1)  # of the extra passes
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = model(images, keys).float().square().sum()
        loss.backward()
        return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}

    (exact, expected), (loss, found) = step(False, False), step(True, False)
    assert loss == pytest.approx(exact, rel=1e-5)
    assert found.keys() == expected.keys()
    assert not any(name.startswith("stem") for name in found)
    (_, rough), (_, rough_found) = step(False, True), step(True, True)
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name
        error, own_error = (rough_found[name] - value).norm(), (rough[name] - value).norm()
        assert error <= 2 * own_error + 1e-3 * value.norm(), name  # than ordinary training in the same precision


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_recomputing_keeps_no_activations(merger):
    """Bytes that autograd saves do not grow with the image when pieces are computed again."""

    def saved(side, pieces):
        model = make_model(merger=merger).train()
        model.set_grad_pieces(pieces)
        total = 0

        def pack(x):
            nonlocal total
            total += x.numel() * x.element_size()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            model(torch.randn(1, 3, side, side))
        return total

    assert saved(480, False) > 6 * saved(120, False)
    assert saved(480, True) < 1.5 * saved(120, True)


def test_gradients_of_a_bfloat16_model_are_summed_exactly():
    """Thousands of pieces: the error stays that of the precision."""
    model = make_model().bfloat16().train()
    images, keys = torch.randn(1, 3, 256, 256, dtype=torch.bfloat16), torch.tensor([1])
    weights = torch.randn(1, 3, 5, 16, dtype=torch.bfloat16)
    rough = gradients(model, model.grid_tokens(images, keys), weights)
    merging = model.pieces(256, 256, keys=keys, positions=1)
    found = gradients(model, merge_recomputing(merging, read_from(images)), weights)
    model.float()
    exact = gradients(model, model.grid_tokens(images.float(), keys), weights.float())
    for name, value in exact.items():
        error, own = (found[name].float() - value).norm(), (rough[name].float() - value).norm()
        assert error <= 2 * own + 0.02 * value.norm(), name


def test_frozen_parts_below_plain_means():
    model = make_model(learned_levels=1).train()
    model.stem.requires_grad_(False)
    model.position.requires_grad_(False)
    images, keys = torch.randn(1, 3, 131, 203), torch.tensor([1])
    weights = torch.randn(1, 3, 5, 16)
    expected = gradients(model, model.grid_tokens(images, keys), weights)
    merging = model.pieces(131, 203, keys=keys, positions=9)
    found = gradients(model, merge_recomputing(merging, read_from(images)), weights)
    assert found.keys() == expected.keys() and found
    for name, value in expected.items():
        assert (found[name] - value).norm() <= 1e-4 * value.norm() + 1e-6, name
