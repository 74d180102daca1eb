"""A few places of many, at equal distances."""


def evenly_spaced(count: int, limit: int | None = None) -> list[int]:
    """`limit` of the places 0 ... count - 1 at equal distances, in rising order; all of them for None or a larger one.

    The places are the middles of `limit` equal parts, so that neither end is preferred: 4 of 8 are 1, 3, 5 and 7.
    """
    if limit is None or limit >= count:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * limit) for part in range(limit)]
