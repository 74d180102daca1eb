"""Wilson intervals, the Pareto frontier and the way numbers are written."""

import pytest
from hypothesis import given, strategies as st

from anyres.evaluation.rows import (
    bytes_text,
    check_sweep,
    distinct_labels,
    frontier,
    protocol_text,
    si,
    side,
    size_label,
    wilson,
)


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [
        # Newcombe, Statistics in Medicine 17 (1998), table I, method 3 (score without continuity correction)
        (81, 263, 25.53, 36.62),
        (15, 148, 6.24, 16.05),
        (0, 20, 0.0, 16.11),
        (1, 29, 0.61, 17.18),
        (29, 29, 88.30, 100.0),
    ],
)
def test_wilson_against_published_values(correct, images, low, high):
    assert wilson(correct, images) == pytest.approx((low, high), abs=0.006)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_share_and_mirrors(case):
    correct, images = case
    low, high = wilson(correct, images)
    assert 0 <= low <= 100 * correct / images <= high <= 100
    assert low < high
    assert wilson(images - correct, images) == pytest.approx((100 - high, 100 - low))


@pytest.mark.parametrize(("correct", "images"), [(0, 0), (3, 2), (-1, 4)])
def test_wilson_refuses(correct, images):
    with pytest.raises(ValueError, match="allowed"):
        wilson(correct, images)


@given(st.lists(st.tuples(st.integers(1, 8), st.integers(0, 8)), max_size=14))
def test_frontier_equals_brute_force(points):
    def dominated(i):
        cost, gain = points[i]
        return any(c <= cost and g >= gain and (c, g) != (cost, gain) for c, g in points)

    found = frontier(points)
    assert sorted(found) == [i for i in range(len(points)) if not dominated(i)]
    assert [points[i][0] for i in found] == sorted(points[i][0] for i in found)


def test_texts():
    assert (size_label((224, 224)), size_label((224, 336))) == ("224", "224×336")
    assert protocol_text("resized to 56x56") == "resized to 56"
    assert protocol_text("resized to 56x84") == "resized to 56×84"
    assert protocol_text("native") == "native"
    assert side((100, 400)) == 200


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (7, "7.00"), (999, "999"), (999.6, "1.00 k"), (1234567, "1.23 M"), (23.4e9, "23.4 G"), (5e18, "5000 P")],
)
def test_si(value, text):
    assert si(value) == text


def test_check_sweep_names_file_and_fault():
    with pytest.raises(ValueError, match=r"a\.json.*format is 7.*allowed: 1"):
        check_sweep({"format": 7}, "a.json")
    with pytest.raises(ValueError, match=r"a\.json: missing title, .*needed"):
        check_sweep({"format": 1}, "a.json")
    empty = {"format": 1, "title": "", "environment": {}, "models": {}, "rows": [], "examples": [], "skipped": []}
    with pytest.raises(ValueError, match="no rows"):
        check_sweep(empty, "a.json")
    with pytest.raises(ValueError, match=r"row 0: missing set"):
        check_sweep(empty | {"rows": [{}]}, "a.json")


@pytest.mark.parametrize(
    ("labels", "parents", "expected"),
    [
        (["a", "b"], ["x", "y"], ["a", "b"]),
        (["a", "a", "b"], ["x", "y", "y"], ["x/a", "y/a", "b"]),
        (["a", "a", "a"], ["x", "x", "y"], ["x/a", "x/a #2", "y/a"]),
        (["a", "a"], ["", ""], ["a", "a #2"]),
        (["x/a", "x/a", "x/a #2"], ["x", "x", "x"], ["x/a", "x/a #3", "x/a #2"]),
        (["a", "a", "x/a"], ["x", "y", "x"], ["x/a", "y/a", "x/a #2"]),
        ([], [], []),
    ],
)
def test_labels_become_distinct(labels, parents, expected):
    assert distinct_labels(labels, parents) == expected


@given(st.lists(st.tuples(st.sampled_from(["a", "a #2", "x/a"]), st.sampled_from(["", "x", "y"])), max_size=9))
def test_labels_are_always_distinct(models):
    found = distinct_labels([label for label, _ in models], [parent for _, parent in models])
    assert len(set(found)) == len(models)


def test_bytes_are_written_with_their_unit():
    assert [bytes_text(value) for value in (0, 999, 1000, 1234567)] == ["0 B", "999 B", "1.00 kB", "1.23 MB"]
