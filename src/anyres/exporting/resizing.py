"""How an axis of an image gets as many pixels as a plan needs, in a graph: `layers.averaged` and `layers.fitted`.

Pixels come from few others each, read by index and weighted, since dense matrices would cost more than the model.
"""

from dataclasses import dataclass

from anyres.exporting.graph import Graph, Value


@dataclass(frozen=True)
class Reading:
    """Of every target pixel the places of the source that it is made of, and their weights (None: all of the one)."""

    places: list[Value]
    weights: list[Value] | None

    def apply(self, x: Value, axis: int, rank: int) -> Value:
        """The pixels along one axis of an array of this rank."""
        found = [x.gather(place, axis) for place in self.places]
        if self.weights is None:
            return found[0]
        after = list(range(1, rank - axis))
        shares = [weight.unsqueeze(*after) if after else weight for weight in self.weights]
        total = found[0] * shares[0]
        for each, share in zip(found[1:], shares[1:], strict=True):
            total = total + each * share
        return total


def _clipped(g: Graph, place: Value, source: Value) -> Value:
    return g.op("Min", g.op("Max", place, 0), source - 1)


# Each reads the first `count` of `target` pixels from `source`.


def edge(g: Graph, source: Value, count: Value) -> Reading:
    """Completed by repeating the last pixel."""
    return Reading([g.op("Min", g.arange(count), source - 1)], None)


def edged(g: Graph, x: Value, axis: int, more: Value) -> Value:
    """So many pixels more along an axis, all like the last: `edge` of an array, faster along the last axis."""
    return g.op("Pad", x, g.shape(0, more), "", [axis], mode="edge")


def between(g: Graph, source: Value, target: Value, count: Value, holds: Value) -> Reading:
    """More pixels than there are, read bilinearly between centres; where that does not hold, as `edge` does it."""
    double = target * 2
    centre = (g.arange(count) * 2 + 1) * source - target + double  # plus one pixel, so that nothing is below zero
    below = centre // double - 1
    after = centre - (below + 1) * double
    share = after.as_float() / double.as_float() * holds.as_float()
    beyond = below + g.op("Min", after, 1)
    below = g.op("Where", holds, below, g.arange(count))
    return Reading([_clipped(g, below, source), _clipped(g, beyond, source)], [1.0 - share, share])


def means(g: Graph, source: Value, target: Value, count: Value) -> Reading:
    """At least half as many pixels, each the mean of what it covers: at most three."""
    start = g.arange(count) * source  # in units of 1 / target of a source pixel everything is whole
    first = start // target
    places, weights = [], []
    for ahead in range(3):
        place = first + ahead
        upper = g.op("Min", (place + 1) * target, start + source)
        overlap = g.op("Max", upper - g.op("Max", place * target, start), 0)
        places.append(_clipped(g, place, source))
        weights.append(overlap.as_float() / source.as_float())
    return Reading(places, weights)
