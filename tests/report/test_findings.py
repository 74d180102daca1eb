"""The sentences follow the rows, in both directions."""

from anyres.evaluation.rows import wilson
from anyres.report.findings import findings

MODELS = {
    "A": {"name": "vitar_tiny_patch16", "training_sizes": [[56, 56], [112, 112]]},
    "B": {"name": "deit_tiny_patch16", "training_sizes": [[56, 56]]},
}


def row(model, protocol, side, correct, macs):
    return {"model": model, "protocol": protocol, "size": [side, side], "images": 1000, "correct": correct,
            "top1": correct / 10, "interval": list(wilson(correct, 1000)), "macs": macs}  # fmt: skip


def native(a, b, sides=(56, 112, 224)):
    rows = [row("B", "native", side, correct, 40 * side) for side, correct in zip(sides, b, strict=False)]
    return rows + [row("A", "native", side, correct, 10 * side) for side, correct in zip(sides, a, strict=False)]


def test_winner_is_told_from_the_rows():
    home, far, loses = findings(native(a=(980, 990, 900), b=(985, 700, 400)), MODELS)
    assert "B 98.5 % (at 56) and A 99.0 % (at 112)" in home
    assert "At 224" in far and "2.0 times its largest training size, A keeps 90.0 %" in far
    assert "B 40.0 % for 4.0 times the multiply-accumulates" in far
    assert loses.startswith("Nothing measured here beats A. It beats B at 112 and 224, by up to 50.0 points.")


def test_loser_is_told_from_the_rows():
    *_, loses = findings(native(a=(985, 700, 400), b=(980, 990, 900)), MODELS)
    assert "A loses to B at 112 and 224, by up to 50.0 points. It beats nothing measured here." in loses


def test_resizing_that_wins_is_named_as_such():
    rows = native(a=(980, 990, 500), b=(980, 990, 400))
    rows += [row("A", "resized to 56x56", side, 980, 560) for side in (56, 112, 224)]
    *_, loses = findings(rows, MODELS)
    assert "A loses to itself resized to 56 at 224, by up to 48.0 points. It beats B at 224" in loses


def test_differences_within_the_intervals_do_not_count():
    *_, loses = findings(native(a=(980, 985, 900), b=(985, 980, 905)), MODELS)
    assert loses.startswith("No row differs from A")


def test_model_that_stops_earlier_is_compared_where_it_stops():
    _, far, _ = findings(native(a=(980, 990, 900), b=(985, 700)), MODELS)
    assert "B was measured up to 112: 70.0 % for 4.0 times the multiply-accumulates, against 99.0 %" in far


def test_many_sizes_are_counted_instead_of_listed():
    sides = (56, 112, 168, 224, 448)
    *_, loses = findings(native(a=(980, 980, 980, 980, 980), b=(980, 300, 300, 300, 300), sides=sides), MODELS)
    assert "B at 4 of 5 sizes (112 to 448), by up to 68.0 points" in loses


def test_one_model_alone_and_nothing_native():
    alone = [row("B", "native", 28, 500, 100)]
    home, far, loses = findings(alone, MODELS)
    assert "No size that B was trained at" in home and "At 28" in far and "times its largest" not in far
    assert "No row differs" in loses
    resized = [row("A", "resized to 56x56", 28, 500, 100)]
    assert "no row at the images' own size" in findings(resized, MODELS)[1]
