"""Values without a range that a file states -> 8 bits, by the image's own least and greatest value."""

from pathlib import Path

import numpy as np

from anyres.data.said_once import say_once, was_said
from anyres.errors import UnreadableImageError

_KIND = "isolated value"
_ISOLATED = 4  # times the range of all other values that an extreme one is away from them


def own_range(values: np.ndarray, missing: np.ndarray | None, path: Path | str, *, warn: bool = True) -> np.ndarray:
    """Numbers of any shape -> uint8 from the least finite value to the greatest; a constant image is black.

    Args:
        values: integers or floats; infinite ones become the least or greatest.
        missing: true where there is no data: left out of the range, and black. NaN is so without being named.
        warn: whether it is said of values that look as if they stood for no data.
    """
    values = values.astype(np.float64)
    unknown = np.isnan(values)
    if missing is not None:
        unknown |= missing
    known = np.isfinite(values) & ~unknown
    if not known.any():
        raise UnreadableImageError(path, "no finite pixel value")
    if known.all():
        known = None
    seen = values if known is None else values[known]
    low, high = seen.min(), seen.max()
    if warn and not was_said(_KIND):
        _warn_of_isolated(seen, low, high, path)
    values = np.clip(np.where(unknown, low, values), low, high)
    return np.rint((values - low) * (255 / (high - low)) if high > low else values * 0).astype(np.uint8)


def _warn_of_isolated(values: np.ndarray, low: float, high: float, path: Path | str) -> None:
    """Says so if the least value, or the greatest, is so far from all others that they become one shade."""
    inner = values[(values > low) & (values < high)]
    if not inner.size:
        return
    for extreme, nearest, other in ((low, inner.min(), high), (high, inner.max(), low)):
        if abs(nearest - extreme) > _ISOLATED * abs(other - nearest):
            say_once(
                _KIND,
                f"{path}: all values but {extreme:.9g} lie between {min(nearest, other):.9g} and "
                f"{max(nearest, other):.9g}, and become nearly one shade. If it stands for no data, say so: "
                f"in the file (gdal_edit.py -a_nodata {extreme:.9g} FILE), or with the option nodata={extreme:.9g} of "
                "read_image and open_source. Further files like it are not named",
            )
            return
