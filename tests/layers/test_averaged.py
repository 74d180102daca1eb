"""Images with fewer or more pixels along an axis, against slow references, and a stretch against the whole."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from anyres.layers.averaged import AxisResize, resize_to


@pytest.mark.parametrize(("source", "target"), [((21, 34), (14, 20)), ((35, 35), (18, 35)), ((7, 300), (1, 299))])
def test_fewer_pixels_are_means_of_what_they_cover(source, target):
    x = torch.rand(2, 3, *source, dtype=torch.double)
    # every source pixel cut into so many equal parts that the target's borders fall between them
    fine = x.repeat_interleave(target[0], 2).repeat_interleave(target[1], 3)
    expected = fine.unflatten(3, (target[1], -1)).unflatten(2, (target[0], -1)).mean((3, 5))
    torch.testing.assert_close(resize_to(x, *target), expected)


def test_whole_ratios_are_box_means():
    x = torch.rand(1, 3, 24, 30)
    torch.testing.assert_close(resize_to(x, 12, 10), F.avg_pool2d(x, (2, 3)))


@pytest.mark.parametrize(("source", "target"), [(3, 14), (1, 7), (13, 40), (5, 5)])
def test_more_pixels_are_read_bilinearly(source, target):
    x = torch.rand(2, 1, source, source, dtype=torch.double)
    expected = F.interpolate(x, (target, target), mode="bilinear", align_corners=False)
    torch.testing.assert_close(resize_to(x, target, target), expected)


@pytest.mark.parametrize(("source", "target"), [(21, 14), (28, 14), (35, 18), (5, 16), (16, 16), (97, 7)])
@pytest.mark.parametrize("dim", [0, 1])
def test_a_stretch_is_cut_from_the_whole(source, target, dim):
    x = torch.rand((source, 3) if dim == 0 else (3, source), dtype=torch.double)
    axis = AxisResize(source, target)
    whole = axis.apply(x, dim)
    for start in range(target):
        for stop in range(start + 1, target + 1):
            first, last = axis.reach(start, stop)
            part = axis.apply(x.narrow(dim, first, last - first), dim, start, stop)
            assert torch.equal(part, whole.narrow(dim, start, stop - start))


def test_a_wrong_stretch_is_an_error():
    with pytest.raises(ValueError, match="pixels 3 to 6 of it are needed"):
        AxisResize(9, 6).apply(torch.rand(2, 1), 0, 2, 4)


def test_sixteen_bits_are_summed_exactly():
    x = torch.full((1, 1, 512, 512), 1.0, dtype=torch.bfloat16)
    assert resize_to(x, 1, 1).item() == 1.0


def test_what_is_not_finite_reaches_no_pixel_that_it_is_no_part_of():
    for source, target in ((9, 6), (35, 18), (4, 12), (3, 14)):
        x = torch.eye(source)[:, None, :, None].log()  # 0 at one place, elsewhere minus infinity
        found = AxisResize(source, target).apply(-x, 2).isfinite()[:, 0, :, 0]  # (source, target)
        y = torch.eye(source)[:, None, :, None]
        assert torch.equal(~found, AxisResize(source, target).apply(1 - y, 2)[:, 0, :, 0] > 0)


def test_on_the_meta_device_and_for_fake_tensors_nothing_is_left_behind():
    for source, target in ((61, 44), (44, 61)):
        axis = AxisResize(source, target)
        with FakeTensorMode():
            assert axis.apply(torch.empty(1, source), 1).shape == (1, target)
        with torch.device("meta"):
            assert axis.apply(torch.empty(1, source), 1).shape == (1, target)
        assert axis.apply(torch.ones(1, source), 1).allclose(torch.ones(1, target))
