"""Samples that stand for no data: NaN, and the value that the file names or the caller."""

import numpy as np

BACKGROUND = 0
"""What pixels without data become: black in integers, 0.0 in floats."""


def where_no_data(samples: np.ndarray, nodata: float | None) -> np.ndarray | None:
    """True where samples are NaN or equal to the value for no data, in an array of their shape; None if none can be."""
    is_float = samples.dtype.kind == "f"
    found = np.isnan(samples) if is_float else None
    if nodata is None or not is_float and not _fits(samples.dtype, nodata):
        return found
    with np.errstate(over="ignore"):
        # compared in the samples' own type: what GDAL writes of -3.4e38 in ASCII is a double
        same = samples == samples.dtype.type(nodata)
    return same if found is None else found | same


def _fits(kind: np.dtype, nodata: float) -> bool:
    """Whether an integer of this type can have the value."""
    limits = (0, 1) if kind.kind == "b" else (np.iinfo(kind).min, np.iinfo(kind).max)
    return limits[0] <= nodata <= limits[1] and nodata == int(nodata)
