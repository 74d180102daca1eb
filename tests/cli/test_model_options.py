"""Configurations of runs on the command line, the options of their models among them."""

import re
from pathlib import Path

import pytest
import tyro

from anyres.cli.choose import choose
from anyres.cli.model_options import REGISTRY
from anyres.training import RecordsConfig, SegmentationConfig, TrainConfig


def parsed(*arguments):
    return tyro.cli(TrainConfig, registry=REGISTRY, args=["--data", "data", "--out", "out", *arguments])


def test_model_options_on_the_command_line(capsys):
    assert parsed("--model-options", "patch_size=8", "grid=7", "--seed", "3").model_options == {
        "patch_size": 8, "grid": (7, 7),
    }  # fmt: skip
    assert parsed("--model-options").model_options == parsed().model_options == {}
    for given, message in ((["width"], "'width' has no '='"), (["width=3", "width=4"], "'width' is given 2 times")):
        with pytest.raises(SystemExit):
            parsed("--model-options", *given)
        assert message in re.sub(r"[\s│]+", " ", capsys.readouterr().err)


def test_the_command_line_gives_the_same_settings():
    given = ["--sizes", "13", "16x23", "--betas", "0.8", "0.9", "--layer-decay", "0.5", "--no-progress"]
    found = parsed(*given, "--augmentation.hflip", "0.25")
    assert (found.sizes, found.betas, found.layer_decay) == (("13", "16x23"), (0.8, 0.9), 0.5)
    assert (found.augmentation.hflip, found.progress, found.out) == (0.25, False, Path("out"))
    found = parsed("--sizes", "32-96", "200", "--aspect", "0.5", "2.0")
    assert (found.sizes, found.aspect) == (("32-96", "200"), (0.5, 2.0))
    assert parsed("--sizes", "13", "16x23", "--replicas", "--consistency", "1").consistency == 1.0


@pytest.mark.parametrize(
    ("arguments", "kind"),
    [
        (["--from-records", "r"], RecordsConfig),
        (["--from-records=r", "--task", "classification"], RecordsConfig),
        (["--data", "d"], TrainConfig),
        (["--data", "d", "--task=segmentation"], SegmentationConfig),
    ],
)
def test_train_has_the_options_of_what_is_trained(arguments, kind):
    command, rest = choose("train", [*arguments, "--out", "o"])
    assert command.options_class is kind
    assert type(tyro.cli(kind, registry=REGISTRY, args=rest)) is kind
