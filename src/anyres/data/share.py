"""Which images of a step's batch a process makes, where several train together."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Share:
    """One process of several, each of which takes as many images of every batch."""

    rank: int = 0
    world: int = 1

    def positions(self, batch_size: int) -> list[int]:
        """Places in the batch, without those of other processes.

        Where each process has an even number of images they come in pairs that mirror one another in the batch, in such
        an order that mixing a share with its own mirror image is mixing the batch with its mirror image.

        Raises:
            ValueError: a batch that the processes cannot share evenly.
        """
        if batch_size % self.world:
            below, above = batch_size - batch_size % self.world, batch_size + self.world - batch_size % self.world
            allowed = " or ".join(str(size) for size in (below, above) if size)
            raise ValueError(
                f"batch_size is {batch_size}, which {self.world} processes do not share evenly; nearest: {allowed}"
            )
        own = batch_size // self.world
        if own % 2:
            return list(range(self.rank * own, (self.rank + 1) * own))
        first = range(self.rank * own // 2, (self.rank + 1) * own // 2)
        return [*first, *(batch_size - 1 - position for position in reversed(first))]


ALL = Share()
"""A single process."""
