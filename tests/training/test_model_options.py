"""Options of a model as text."""

import pytest

from anyres.training.model_options import options_as_text, parse_options


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("grid=7x5", {"grid": (7, 5)}),
        ("grid=7", {"grid": (7, 7)}),
        ("width=96", {"width": 96}),
        ("drop_path_rate=0.1", {"drop_path_rate": 0.1}),
        ("cells=2x2", {"cells": "2x2"}),
        ("position=none", {"position": "none"}),
        ("last_pass=False", {"last_pass": False}),
        ("mean=0.5,0.4,0.3", {"mean": (0.5, 0.4, 0.3)}),
    ],
)
def test_model_options_are_read_and_written(option, value):
    assert parse_options([option]) == value
    assert parse_options(options_as_text(value)) == value


def test_text_that_is_no_model_option_is_refused():
    with pytest.raises(ValueError, match="'width' has no '='"):
        parse_options(["grid=3", "width"])
    with pytest.raises(ValueError, match="'width' is given 2 times"):
        parse_options(["width=32", "grid=3", "width=64"])
