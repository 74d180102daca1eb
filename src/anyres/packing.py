"""Things gathered into groups that stay within a limit."""

from collections.abc import Iterable, Iterator, Sequence


def packed(
    costs: Sequence[int], limit: int, *, most: int | None = None, order: Iterable[int] | None = None
) -> Iterator[list[int]]:
    """Indices of neighbours, gathered into groups whose costs add up to `limit` at most.

    Args:
        costs: of each thing, such as pixels or bytes. What costs more than the limit is a group by itself.
        most: things in a group.
        order: of the indices; rising if it is not given.
    """
    group: list[int] = []
    together = 0
    for index in range(len(costs)) if order is None else order:
        if group and (len(group) == most or together + costs[index] > limit):
            yield group
            group, together = [], 0
        group.append(index)
        together += costs[index]
    if group:
        yield group
