"""Predictions: `Predictor` is the one door, for Python and for the commands.

`inputs` reads what is given, `plan` decides what is looked at whole and what by windows within a budget, `loop` carries
it out, and a `Looker` for each kind of model (`classifier`, `labeller`, `finder`) makes the `results`. `classify`,
`segment` and `detect` write files of them, told by `config`. `encode` writes features instead.
"""

from typing import TYPE_CHECKING

from anyres.lazy import attach

if TYPE_CHECKING:
    from anyres.predict.predictor import Predictor as Predictor
    from anyres.predict.results import (
        Classification as Classification,
        Detections as Detections,
        LabelMap as LabelMap,
        Result as Result,
    )
else:
    __getattr__, __dir__, __all__ = attach(
        __name__,
        {
            "anyres.predict.predictor": ("Predictor",),
            "anyres.predict.results": ("Classification", "Detections", "LabelMap", "Result"),
        },
    )
