"""Fuzzy positional encoding: exact when evaluated, jittered by less than half a token and differently everywhere."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings, strategies as st

from anyres.layers import FuzzyPositionalEncoding
from anyres.layers.counter_random import counter_uniform
from anyres.layers.region import Region

SIDES = st.one_of(st.integers(1, 60), st.sampled_from([97, 211, 400]))


def coordinate_table(rows, cols):
    """An encoding whose two channels are the row and the column coordinate in [-1, 1] of a table's entry."""
    encoding = FuzzyPositionalEncoding(2, (rows, cols))
    y = (2 * torch.arange(rows) + 1) / rows - 1
    x = (2 * torch.arange(cols) + 1) / cols - 1
    encoding.table.data = torch.stack(torch.meshgrid(y, x, indexing="ij"), -1)
    return encoding


def test_identity_at_the_grids_own_size():
    encoding = FuzzyPositionalEncoding(5, (3, 4)).eval()  # usable alone, without a model to initialise it
    assert 0.001 < encoding.table.std() < 0.1
    assert torch.equal(encoding.exact(Region.whole((3, 4))), encoding.table)


@given(rows=SIDES, cols=SIDES, table_rows=st.integers(1, 9), table_cols=st.integers(1, 9))
def test_exact_reading_equals_torch_interpolation(rows, cols, table_rows, table_cols):
    """The two matrices against torch's own bilinear resize, which has the same half-pixel convention."""
    encoding = FuzzyPositionalEncoding(3, (table_rows, table_cols)).eval()
    torch.nn.init.normal_(encoding.table)
    image = encoding.table.permute(2, 0, 1)[None]
    expected = F.interpolate(image, (rows, cols), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
    torch.testing.assert_close(encoding.exact(Region.whole((rows, cols))), expected)


@given(rows=SIDES, cols=SIDES)
@settings(max_examples=30)
def test_reading_at_exact_places_equals_the_exact_reading(rows, cols):
    """grid_sample against the matrices: a swap of rows and columns in either fails here."""
    encoding = FuzzyPositionalEncoding(3, (4, 7), jitter=0.5)
    torch.nn.init.normal_(encoding.table)
    encoding.jitter = 0.0
    places = encoding.places(Region.whole((rows, cols)), torch.tensor([1, 2]))
    expected = encoding.exact(Region.whole((rows, cols))).expand(2, -1, -1, -1)
    torch.testing.assert_close(encoding.read(places), expected)


def test_rows_and_columns_are_not_swapped():
    encoding = coordinate_table(20, 30)
    tokens = torch.zeros(3, 10, 6, 2)
    found = encoding.train()(tokens, torch.tensor([3, 4, 5]))
    y = ((2 * torch.arange(10) + 1) / 10 - 1)[:, None].expand(10, 6)
    x = ((2 * torch.arange(6) + 1) / 6 - 1)[None].expand(10, 6)
    # within half a token (1/10 and 1/6) and the flat border of the table (half an entry)
    assert (found[..., 0] - y).abs().max() <= 1 / 10 + 1e-5 and (found[..., 1] - x).abs().max() <= 1 / 6 + 1e-5


@pytest.mark.parametrize("size", [(1, 1), (13, 7), (64, 3)])
def test_jitter_fills_half_a_token_of_the_current_grid_and_no_more(size):
    encoding = FuzzyPositionalEncoding(2, (5, 5))
    keys = torch.arange(200)
    centres = torch.stack(
        torch.meshgrid(*[(2 * torch.arange(n) + 1) / n - 1 for n in size], indexing="ij"), -1
    )  # (rows, cols, 2)
    offsets = (encoding.places(Region.whole(size), keys) - centres) * torch.tensor(size) / 2  # in tokens
    assert offsets.abs().max() <= 0.5 + 1e-4
    for axis in (0, 1):
        values = offsets[..., axis].flatten()
        assert values.min() < -0.45 and values.max() > 0.45
        if len(values) > 1000:  # uniform: mean 0 and variance 1/12
            assert abs(values.mean()) < 0.02 and abs(values.var() - 1 / 12) < 0.005


def test_no_two_images_tokens_axes_or_steps_share_their_jitter():
    encoding = FuzzyPositionalEncoding(2, (5, 5))
    size = (6, 8)
    torch.manual_seed(0)
    keys = torch.randint(2**62, (4,))
    places = encoding.places(Region.whole(size), keys)
    exact = encoding.places(Region.whole(size), keys) * 0 + torch.stack(
        torch.meshgrid(*[(2 * torch.arange(n) + 1) / n - 1 for n in size], indexing="ij"), -1
    )
    offsets = (places - exact) * torch.tensor(size)
    rounded = (offsets * 1e4).round().flatten().tolist()
    assert len(set(rounded)) > 0.97 * len(rounded)  # all different up to chance collisions
    tokens = torch.zeros(4, *size, 2)
    torch.nn.init.normal_(encoding.table)
    one, two = encoding.train()(tokens), encoding.train()(tokens)
    assert not torch.equal(one, two)  # a new draw every step
    assert not torch.equal(one[0], one[1])


def test_jitter_is_a_function_of_the_key_alone():
    encoding = FuzzyPositionalEncoding(2, (5, 5))
    keys = torch.tensor([7, 11, 13])
    places = encoding.places(Region.whole((9, 4)), keys)
    torch.testing.assert_close(encoding.places(Region.whole((9, 4)), keys[[1]])[0], places[1], rtol=0, atol=0)


def test_counter_uniform_equals_a_plain_implementation_and_any_piece_of_it():
    def splitmix(value):
        value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) % 2**64
        value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) % 2**64
        return value ^ (value >> 31)

    keys = [0, 5, 2**62 + 3]
    found = counter_uniform(torch.tensor(keys), (7, 9))
    for b, row, col, axis in np.ndindex(3, 7, 9, 2):
        counter = (((row << 32) + col) * 2 + axis) * 0x9E3779B97F4A7C15
        expected = (splitmix((splitmix(keys[b]) + counter) % 2**64) >> 40) / 2**24
        assert found[b, row, col, axis] == expected
    piece = counter_uniform(torch.tensor(keys), (3, 4), start=(2, 5))
    assert torch.equal(piece, found[:, 2:5, 5:9])


def test_evaluation_has_no_jitter_and_learned_has_none_in_training():
    tokens = torch.zeros(2, 9, 11, 4)
    encoding = FuzzyPositionalEncoding(4, (5, 6), jitter=0.0)
    encoding.init_weights()
    assert torch.equal(encoding.train()(tokens), encoding.eval()(tokens))
    fuzzy = FuzzyPositionalEncoding(4, (5, 6))
    fuzzy.load_state_dict(encoding.state_dict())
    assert torch.equal(fuzzy.eval()(tokens), encoding(tokens))


def test_gradient_reaches_the_table():
    encoding = FuzzyPositionalEncoding(4, (5, 6))
    encoding.init_weights()
    encoding.train()(torch.zeros(2, 9, 11, 4)).sum().backward()
    assert encoding.table.grad.abs().min() > 0


def test_half_precision_tokens_keep_their_type():
    encoding = FuzzyPositionalEncoding(4, (5, 6))
    encoding.init_weights()
    tokens = torch.zeros(2, 3, 4, 4, dtype=torch.bfloat16)
    assert encoding.train()(tokens).dtype == encoding.eval()(tokens).dtype == torch.bfloat16


@pytest.mark.parametrize("keys", [torch.tensor([1]), torch.tensor([1.0, 2.0]), torch.tensor(3)])
def test_keys_are_one_integer_for_each_image(keys):
    """One key for a whole batch would give every image the same jitter."""
    encoding = FuzzyPositionalEncoding(4, (5, 6)).train()
    with pytest.raises(ValueError, match="each of the 2 images"):
        encoding(torch.zeros(2, 3, 3, 4), keys)


def test_bad_options():
    with pytest.raises(ValueError, match="bilinear"):
        FuzzyPositionalEncoding(4, (5, 6), interpolation="linear")
    with pytest.raises(ValueError, match="0 or more"):
        FuzzyPositionalEncoding(4, (5, 6), jitter=-1)
