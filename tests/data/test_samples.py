"""The endless stream of samples: permutations, what stands in for an unreadable image, repeats."""

from collections import Counter
from pathlib import Path

import pytest
import torch

from anyres.data.samples import Samples, batches_of_steps, jitter_keys
from anyres.errors import Unreadable, UnreadableImageError

PATHS = [Path(f"{index}.png") for index in range(5)]


def make(unreadable=(), strict=False, repeats=1):
    def read(index):
        if index in unreadable:
            raise UnreadableImageError(PATHS[index], "cut short")
        return f"image {index}"

    return Samples(read, PATHS, "in folder", 3, strict, repeats)


def test_every_epoch_has_each_image_once_in_an_order_of_its_own():
    epochs = [[make().at(entry)[1] for entry in range(start, start + 5)] for start in (0, 5, 10, 15)]
    assert all(sorted(epoch) == list(range(5)) for epoch in epochs) and len(set(map(tuple, epochs))) > 1
    assert make().at(7) == make().at(7) and make().at(7)[0] == f"image {epochs[1][2]}"


def test_repeats_follow_one_another():
    indices = [make(repeats=2).at(entry)[1] for entry in range(5)]
    assert indices[0] == indices[1] != indices[2] == indices[3] and indices[::2] == [make().at(i)[1] for i in range(3)]


def test_the_next_readable_image_stands_in_and_what_was_passed_over_is_told():
    found = Counter()
    for entry in range(5):
        image, index, skipped = make(unreadable=(4, 0)).at(entry)
        assert image == f"image {index}"
        found[index] += 1
        assert skipped in ([], [Unreadable(PATHS[4], "cut short"), Unreadable(PATHS[0], "cut short")], [
            Unreadable(PATHS[0], "cut short")
        ])  # fmt: skip
    assert found == {1: 3, 2: 1, 3: 1}


def test_strict_raises_and_so_does_a_set_without_any_readable_image():
    with pytest.raises(UnreadableImageError, match="4.png: cut short"):
        [make(unreadable=(4,), strict=True).at(entry) for entry in range(5)]
    with pytest.raises(ValueError, match=r"none of the 5 images in folder can be read; the first: \d.png: cut short"):
        make(unreadable=range(5)).at(0)


def test_steps_run_forwards():
    assert list(batches_of_steps(str, 2, 5, 0)) == ["2", "3", "4"]
    for start, stop in ((-1, 3), (4, 3)):
        with pytest.raises(ValueError, match=f"steps are {start} to {stop}; allowed: 0 <= start_step"):
            batches_of_steps(str, start, stop, 0)


def test_jitter_keys_are_a_function_of_the_place_in_the_stream():
    keys = jitter_keys(3, 7, range(5))
    assert keys.dtype == torch.int64 and keys.shape == (5,)
    assert torch.equal(keys[1:3], jitter_keys(3, 7, [1, 2]))  # whoever does how many of them
    others = [keys, jitter_keys(4, 7, range(5)), jitter_keys(3, 8, range(5)), jitter_keys(3, 7, range(5), 1)]
    assert len(set(torch.cat(others).tolist())) == 20
