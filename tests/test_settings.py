"""Two configurations in their form on disk, compared."""

from anyres.settings import differences

OLD = {"lr": 0.001, "out": "here", "augmentation": {"hflip": 0.5, "scale": [0.1, 1.0]}}


def test_differences_name_nested_fields_and_pass_over_those_to_be_ignored():
    new = {"lr": 0.5, "out": "there", "augmentation": {"hflip": 0.25, "scale": [0.1, 1.0]}}
    assert differences(OLD, new, frozenset({"out"})) == [
        "lr: 0.001 there, 0.5 here",
        "augmentation.hflip: 0.5 there, 0.25 here",
    ]
    assert differences(OLD, OLD) == []


def test_a_field_of_one_side_only_is_not_set_on_the_other():
    assert differences(OLD, {**OLD, "added": 1}) == ["added: 'not set' there, 1 here"]
    assert differences({**OLD, "gone": 1}, OLD) == ["gone: 1 there, 'not set' here"]


def test_long_values_are_cut_short():
    [line] = differences({"classes": [f"class {i}" for i in range(1000)]}, {"classes": ["cat"]})
    assert len(line) < 400 and "class 3" in line and line.endswith("['cat'] here")
