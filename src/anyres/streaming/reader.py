"""Regions of a source as the model takes them: checked, scaled, normalised, and read again if reading fails."""

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from anyres.data.said_once import say_once
from anyres.data.source_base import Source, check_dtype, check_region, describe_region, name_of
from anyres.errors import SourceError
from anyres.sizes import size_text

_MOST_NORMALISED = 100  # in floats; 8-bit white is below 3 when it is normalised
_LEAST_OF_TYPE = 1 / 64  # of integers without a known range; darker than any photo
_PAUSE = 0.1  # seconds before the first retry; doubled for each further one
_LUMA = (19595, 38470, 7471)  # ITU-R 601 in 1/65536, as Pillow rounds it


class RegionReader:
    """Reads regions of a source as normalised tensors. Several threads may read at once.

    Integers are scaled by their type's maximum and normalised with mean and standard deviation, as `to_tensor` does;
    floats are taken as they are. A grey source is repeated for a model of three channels, a source of three channels
    becomes grey for a model of one.

    Args:
        source: what `open_source` gives, or any `Source`.
        mean, std: of the model, one per channel, for values between 0 and 1.
        channels: of the model.
        retries: further attempts after a failure, each after twice the pause.
    """

    def __init__(
        self, source: Source, *, mean: Sequence[float], std: Sequence[float], channels: int, retries: int = 2
    ) -> None:
        if channels < 1 or len(mean) != channels or len(std) != channels:
            raise ValueError(
                f"mean and std have {len(mean)} and {len(std)} entries; allowed for {channels} channels: as many"
            )
        if min(std) <= 0:
            raise ValueError(f"std is {tuple(std)}; allowed: deviations above 0")
        if retries < 0:
            raise ValueError(f"retries is {retries}; allowed: 0 and more")
        self.name = name_of(source)
        self.size = source.size
        self._source = source
        self._mean = torch.tensor(tuple(mean), dtype=torch.float32)[:, None, None]
        self._std = torch.tensor(tuple(std), dtype=torch.float32)[:, None, None]
        self._channels = channels
        self._retries = retries
        self._first: tuple[np.dtype, int] | None = None  # type and channels of the first region

    def read(self, y: int, x: int, height: int, width: int) -> Tensor:
        """The region of rows y..y+height and columns x..x+width -> (1, channels, height, width) float32.

        Raises:
            ValueError: the region leaves the image.
            SourceError: reading failed on every attempt, or what came back is not what the source promised: another
                shape, type or number of channels, or values that are not finite. The message names the region.
        """
        region = (y, x, height, width)
        check_region(self.name, self.size, region)
        where = describe_region(*region)
        pixels = self._read_with_retries(region, where)
        self._check(pixels, height, width, where)
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        values = self._normalise(pixels)
        if pixels.dtype.kind == "f" and not torch.isfinite(values).all():
            raise SourceError(self.name, f"{where}: some values are not finite")
        return values[None]

    def _read_with_retries(self, region: tuple[int, int, int, int], where: str) -> np.ndarray:
        for attempt in range(self._retries + 1):
            try:
                return np.asarray(self._source.read_region(*region))
            except (SourceError, MemoryError):
                raise
            except Exception as error:  # sources are foreign code, and decoders raise nearly anything
                if attempt == self._retries:
                    reason = str(error) or type(error).__name__
                    times = "once" if attempt == 0 else f"{attempt + 1} times"
                    raise SourceError(self.name, f"{where}: reading failed {times}: {reason}") from error
                time.sleep(_PAUSE * 2**attempt)
        raise AssertionError("unreachable")

    def _check(self, pixels: np.ndarray, height: int, width: int, where: str) -> None:
        if pixels.ndim not in (2, 3) or pixels.shape[:2] != (height, width):
            raise SourceError(
                self.name,
                f"{where}: the source gave shape {pixels.shape}; allowed: ({height}, {width}, channels) and "
                f"({height}, {width}). Its size is {size_text(self.size)}, does it have that many pixels?",
            )
        given = (pixels.dtype, 1 if pixels.ndim == 2 else pixels.shape[2])
        if self._first is None:
            self._check_kind(*given, where)
            self._first = given
            self._warn_of_range(pixels, where)
        elif given != self._first:
            raise SourceError(
                self.name,
                f"{where}: the source gave {given[1]} channels of {given[0]}; the first region had {self._first[1]} "
                f"of {self._first[0]}",
            )

    def _check_kind(self, dtype: np.dtype, channels: int, where: str) -> None:
        try:
            check_dtype(where, dtype)
        except ValueError as error:
            raise SourceError(self.name, str(error)) from error
        if channels != self._channels and {channels, self._channels} != {1, 3}:
            raise SourceError(
                self.name,
                f"{where}: the source has {channels} channels, the model takes {self._channels}; allowed: as many, "
                "1 for 3 and 3 for 1. Arrays are (height, width, channels)",
            )

    def _warn_of_range(self, pixels: np.ndarray, where: str) -> None:
        """Says once if values whose range no file states are hardly such as a model is given."""
        kind = pixels.dtype
        if kind in (np.uint8, np.uint16):
            return
        most = max(abs(float(pixels.max())), abs(float(pixels.min())))  # NaN is neither more nor less
        if kind.kind == "f" and _MOST_NORMALISED < most < np.inf:
            how = "floats are taken as they are, as normalised input; scale them to about -3 to 3"
        elif kind.kind != "f" and 0 < most < _LEAST_OF_TYPE * np.iinfo(kind).max:
            how = f"{kind} is scaled by its type's maximum, beside which they are nearly black; scale them to fill it"
        else:
            return
        say_once("range", f"{self.name}: {where}: values up to {most:.6g}; {how}. Further images like it are not named")

    def _normalise(self, pixels: np.ndarray) -> Tensor:
        """(height, width, channels) -> (the model's channels, height, width) float32."""
        if pixels.shape[2] == 3 and self._channels == 1:
            pixels = _grey(pixels)
        with np.errstate(over="ignore"):  # becomes infinite, which is refused
            values = torch.from_numpy(np.array(np.moveaxis(pixels, -1, 0), dtype=np.float32, order="C"))
        values = values.expand(self._channels, -1, -1).contiguous()
        if pixels.dtype.kind == "f":
            return values
        top = int(np.iinfo(pixels.dtype).max)
        return values.sub_(top * self._mean).div_(top * self._std)  # in place: large arrays fragment memory


def _grey(pixels: np.ndarray) -> np.ndarray:
    """(height, width, 3) -> (height, width, 1) of the same type."""
    if pixels.dtype.kind == "f":
        return pixels @ (np.array(_LUMA)[:, None] / 2**16).astype(pixels.dtype)
    total = pixels.astype(np.int64) @ np.array(_LUMA)[:, None]
    return ((total + 2**15) >> 16).astype(pixels.dtype)
