"""The largest image that fits a budget of milliseconds and memory."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from anyres.amounts import three_digits_up
from anyres.costs.calibrate import calibration
from anyres.costs.fit import CostModel
from anyres.costs.largest_config import MOST, LargestSizeConfig, Limits, check_batch, check_shape
from anyres.devices import resolve_device
from anyres.models.architectures import create_model
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load
from anyres.sizes import Size, size_text

_NEAR = 2**22  # pixels of sides in all that are looked at one by one around the largest size; the longer, the slower
_FINENESS = 128  # sizes are looked at, further away, that differ by this part of them
_AROUND = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 2.0)  # times the largest size: rows of the table


@dataclass(frozen=True, kw_only=True)
class Sizer:
    """Finds sizes within limits, by a calibrated cost model."""

    costs: CostModel
    limits: Limits
    batch: int = 1

    def fits(self, size: Size) -> bool:
        shape = (self.batch, *size)
        return self.limits.hold(self.costs.milliseconds(shape), self.costs.bytes_at_most(shape))

    def largest(self, aspect: float, multiple: int) -> Size:
        """The largest size of this aspect, width / height, with sides that are multiples of `multiple` pixels."""
        check_shape(aspect, multiple)
        ratio = max(aspect, 1 / aspect)

        def size(steps: int) -> Size:
            long, short = steps * multiple, max(1, round(steps / ratio)) * multiple
            return (short, long) if aspect >= 1 else (long, short)

        return self._largest(size, max(MOST // multiple, 1))

    def reduced(self, size: Size) -> Size:
        """The size itself if it fits, else the largest below it of its aspect, to a pixel."""
        if min(size) < 1:
            raise ValueError(f"size is {size_text(size)}; both sides must be at least 1 pixel.")
        long, short = max(size), min(size)

        def smaller(pixels: int) -> Size:
            other = max(1, round(pixels * short / long))
            return (pixels, other) if size[0] >= size[1] else (other, pixels)

        return size if self.fits(size) else self._largest(smaller, long)

    def _largest(self, size: Callable[[int], Size], most: int) -> Size:
        """The last of size(1) ... size(most), each at least as large as the one before, that fits.

        A lower bound of the cost that never falls is searched by doubling and halving; from there it is a way down.
        """

        def may_fit(steps: int) -> bool:
            return self.limits.hold(*self.costs.least((self.batch, *size(steps))))

        # what is searched here is a lower bound, so the answer of the true cost is at or below where this ends
        low, high = 0, 1
        while high < most and may_fit(high):
            low, high = high, min(2 * high, most)
        while low < high:
            middle = (low + high + 1) // 2
            if may_fit(middle):
                low = middle
            else:
                high = middle - 1
        found = self._down_from(low, lambda steps: self.fits(size(steps)), max(_NEAR // max(size(low or 1)), 8))
        if not found:
            raise self._nothing_fits(size(1))
        return size(found)

    def _down_from(self, most: int, fits: Callable[[int], bool], near: int) -> int:
        """The last number up to `most` that fits, 0 if none does.

        The first `near` numbers are tried one by one, further down one in a few, and around the first of those that
        fits again one by one. That is all of them up to sides of some thousand pixels. Beyond, a few sizes that fit
        alone, because pieces happen to divide well, may be missed.
        """
        above, steps = most + 1, most
        while steps > 0 and not fits(steps):
            above = steps
            steps -= 1 if most - steps < near else max(steps // _FINENESS, 1)
        if steps == 0:
            return 0
        while above - steps > 1:
            middle = (above + steps) // 2
            if fits(middle):
                steps = middle
            else:
                above = middle
        while higher := next((n for n in range(min(steps + near, most), above, -1) if fits(n)), 0):
            steps, above = higher, higher
        return steps

    def _nothing_fits(self, smallest: Size) -> ValueError:
        shape = (self.batch, *smallest)
        needs = Limits(
            three_digits_up(self.costs.milliseconds(shape)), three_digits_up(self.costs.bytes_at_most(shape) / 1e9)
        )
        alone = "" if self.batch == 1 else f", {self.batch} at once,"
        return ValueError(
            f"nothing fits {self.limits}: the smallest size, {size_text(smallest)} pixels{alone} needs "
            f"{needs.milliseconds:g} ms and {needs.gigabytes:g} GB; allowed: a budget of at least that"
        )


def sizer(
    model: ViTAR | str,
    limits: Limits,
    *,
    device: torch.device | str | None = None,
    batch: int = 1,
    recalibrate: bool = False,
    progress: bool = True,
) -> Sizer:
    """What finds sizes for a model, or a named one in float32, on its device or another; calibrates if need be."""
    check_batch(batch)
    if isinstance(model, str):
        model = create_model(model).eval()
    if device is not None:
        where = resolve_device(str(device))
        if where != model.device:
            model = copy.deepcopy(model).to(where)
    costs = calibration(model, recalibrate=recalibrate, progress=progress)
    return Sizer(costs=costs, limits=limits, batch=batch)


def largest_size(
    model: ViTAR | str,
    milliseconds: float | None = None,
    memory_budget: str | None = None,
    *,
    device: torch.device | str | None = None,
    batch: int = 1,
    aspect: float = 1.0,
    multiple: int | None = None,
    sizes: Sequence[Size] | None = None,
    recalibrate: bool = False,
    progress: bool = True,
) -> Size | list[Size]:
    """The largest (height, width) in pixels whose forward pass in inference is expected to fit the budgets.

    The first call for a model on a machine measures for one to two minutes; the constants found are kept in
    `$ANYRES_CACHE` or the user's cache folder. They hold for the model's configuration, device and precision and for
    torch's present number of threads.

    Args:
        model: a model, or the name of one (then in float32).
        milliseconds: median latency of a forward pass.
        memory_budget: such as "1GB", at the peak beyond the loaded model, images included. Kept with a reserve.
        device: where it is to run; by default where the model is.
        batch: images of that size in one pass.
        aspect: width / height, kept as far as whole multiples allow.
        multiple: sides are multiples of so many pixels; the patch size by default.
        sizes: sizes of a set of images. Each is returned as it is where it fits, else reduced, to a pixel, with its
            aspect.
        recalibrate: measures again.
        progress: shows a progress bar while measuring.

    Returns:
        (height, width), at most 2^18 pixels a side; or a list of them, one for each of `sizes`.

    Raises:
        ValueError: no budget or an impossible one, settings without effect, or nothing that fits: the message then
            says what the smallest size needs.
    """
    limits = Limits.of(milliseconds, memory_budget)
    if sizes is not None and (aspect != 1.0 or multiple is not None):
        raise ValueError("sizes is set, and aspect or multiple, which has no effect on it; allowed: one of both")
    check_shape(aspect, 1 if multiple is None else multiple)
    found = sizer(model, limits, device=device, batch=batch, recalibrate=recalibrate, progress=progress)
    if sizes is not None:
        return [found.reduced((int(height), int(width))) for height, width in sizes]
    return found.largest(aspect, multiple or found.costs.counts.config.patch_size)


def describe_largest_size(config: LargestSizeConfig, *, progress: bool = True) -> str:
    """The largest size, what it is expected to take, and a table of sizes around it."""
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    model = create_model(config.model) if config.model is not None else load(Path(config.run or ""), ViTAR)[0]
    model = model.eval().to(resolve_device(config.device), getattr(torch, config.precision))
    limits = config.limits()
    found = sizer(model, limits, batch=config.batch, recalibrate=config.recalibrate, progress=progress)
    step = config.multiple or model.config.patch_size
    best = found.largest(config.aspect, step)
    lines = [f"{size_text(best)} pixels (height x width) is the largest size within {limits}.", ""]
    lines.append(f"{'height x width':>16} {'milliseconds':>13} {'gigabytes':>10} {'at most':>9}")
    sizes = [tuple(max(1, round(side * times / step)) * step for side in best) for times in _AROUND]
    for height, width in dict.fromkeys(sizes):
        shape = (config.batch, height, width)
        peak, most = found.costs.bytes(shape) / 1e9, found.costs.bytes_at_most(shape) / 1e9
        mark = "fits" if found.fits((height, width)) else ""
        size, time = size_text((height, width)), found.costs.milliseconds(shape)
        lines.append(f"{size:>16} {time:>13.1f} {peak:>10.3f} {most:>9.3f} {mark}".rstrip())
    return "\n".join(lines)
