"""Windows that slide over an image, against the slow way."""

import pytest
import torch

from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load
from anyres.predict.sliding import finished_rows, sliding_logits, starts, usual_step, waiting_rows


@pytest.fixture(scope="module")
def model(labeller):
    return load(labeller, Segmenter)[0]


@pytest.mark.parametrize(("length", "window", "step"), [(10, 4, 3), (10, 4, 4), (4, 4, 2), (3, 8, 5), (11, 4, 3)])
def test_windows_begin_where_mmsegmentation_has_them(length, window, step):
    expected = []
    for index in range(max(length - window + step - 1, 0) // step + 1):
        stop = min(index * step + window, length)
        expected.append(max(stop - window, 0))
    assert starts(length, window, step) == expected


@pytest.mark.parametrize("size", [(19, 26), (8, 12), (5, 30)])
@torch.no_grad()
def test_windows_are_averaged_by_how_often_a_pixel_is_seen(model, size):
    images, window, step = torch.randn(2, 3, *size), (8, 12), (5, 7)
    found = sliding_logits(model, images, window, step)
    seen = {}
    for top in starts(size[0], window[0], step[0]):
        for left in starts(size[1], window[1], step[1]):
            logits = model(images[:, :, top : top + window[0], left : left + window[1]])
            for y in range(logits.shape[2]):
                for x in range(logits.shape[3]):
                    seen.setdefault((top + y, left + x), []).append(logits[:, :, y, x])
    assert len(seen) == size[0] * size[1]
    for (y, x), values in seen.items():
        torch.testing.assert_close(found[:, :, y, x], torch.stack(values).mean(0), rtol=1e-4, atol=1e-5)
    if size == window:
        torch.testing.assert_close(found, model(images))


@pytest.mark.parametrize(
    ("size", "window", "step"),
    [
        ((19, 26), (8, 12), (5, 7)),
        ((23, 31), (12, 12), (8, 8)),
        ((9, 7), (16, 16), (10, 10)),
        ((13, 40), (13, 8), (8, 5)),
        ((17, 8), (11, 8), (2, 3)),
    ],
)
@pytest.mark.parametrize("at_once", [1, 3])
@torch.no_grad()
def test_rows_that_are_finished_early_are_those_of_the_whole_map(model, size, window, step, at_once):
    images, counts, asked = torch.randn(2, 3, *size), [], []

    def read(y, x, height, width):
        asked.append((height, width))
        return images[:, :, y : y + height, x : x + width]

    parts = list(
        finished_rows(model, read, size, window, step, lambda x: x, at_once=at_once, seen=lambda n: counts.append(n))
    )
    total, visits = torch.zeros(2, 5, *size), torch.zeros(size)
    for top in starts(size[0], window[0], step[0]):
        for left in starts(size[1], window[1], step[1]):
            part = (..., slice(top, top + window[0]), slice(left, left + window[1]))
            total[part] += model(images[part])
            visits[part] += 1
    torch.testing.assert_close(torch.cat(parts, dim=2), total / visits, rtol=1e-4, atol=1e-5)
    assert len(asked) == sum(counts) and max(counts) <= at_once
    assert set(asked) == {(min(window[0], size[0]), min(window[1], size[1]))}
    assert max((len(part[0, 0]) for part in parts), default=0) <= window[0]
    assert waiting_rows(size, window, step) < window[0]


def test_what_waits_is_what_windows_share():
    assert waiting_rows((90, 9), (30, 9), usual_step((30, 9))) == 10
    assert waiting_rows((50, 9), (60, 9), (40, 6)) == 0
    assert waiting_rows((51, 9), (30, 9), (20, 6)) == 29  # the last begins a row after its neighbour
