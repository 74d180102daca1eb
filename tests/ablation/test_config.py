"""The command's options: defaults of the two forms, refusals, and the command that is printed."""

from collections import Counter

import pytest

from anyres.ablation import STUDIES, AblateConfig
from anyres.ablation.plan import plan_jobs
from anyres.cli import main
from anyres.devices import fast_precision


def asked_for(config):
    """Steps, seeds and sets of the study's first variant."""
    study = STUDIES[config.study]
    jobs = [job for job in plan_jobs(config, study) if job.variant == study.variants[0].name]
    return jobs[0].training.steps, len({job.seed for job in jobs}), tuple(dict.fromkeys(job.set for job in jobs))


def test_quick_and_full(tmp_path):
    quick, full = (AblateConfig(study="positions", out=tmp_path, quick=quick) for quick in (True, False))
    assert asked_for(quick) == (1500, 1, ("ordinary",))
    assert asked_for(full) == (3000, 3, ("ordinary", "detail"))
    mixed = AblateConfig(study="positions", out=tmp_path, quick=True, seeds=2, sets=("detail",), steps=70, jobs=3)
    assert (*asked_for(mixed), mixed.workers) == (70, 2, ("detail",), 3)
    precision = f" --precision {fast_precision()}"  # said even if not chosen: it differs between machines
    assert mixed.command == "anyres ablate positions --quick --seeds 2 --sets detail --steps 70" + precision
    assert full.command == "anyres ablate positions" + precision
    assert AblateConfig(study="positions", out=tmp_path, device="cuda").workers == 1


def seeds_of(tmp_path, variant, **changes):
    """Set -> number of seeds of one variant of `held`."""
    jobs = plan_jobs(AblateConfig(study="held", out=tmp_path, only=(variant,), **changes), STUDIES["held"])
    return Counter(job.set for job in jobs)


def test_held_has_three_seeds_on_digits_and_one_for_letters_and_rivals(tmp_path):
    digits, letters = ("ordinary", "detail", "fine"), ("ordinary-letters", "detail-letters", "fine-letters")
    assert (
        seeds_of(tmp_path, "pyramid")
        == seeds_of(tmp_path, "paper")
        == dict.fromkeys(digits, 3) | dict.fromkeys(letters, 1)
    )
    assert seeds_of(tmp_path, "vit") == dict.fromkeys(digits, 1)
    assert seeds_of(tmp_path, "vit", seeds=2) == dict.fromkeys(digits, 2)  # still not on letters
    assert seeds_of(tmp_path, "vit", sets=("fine-letters",)) == {"fine-letters": 1}  # which were asked for
    assert seeds_of(tmp_path, "paper", quick=True) == dict.fromkeys(digits, 1)
    assert seeds_of(tmp_path, "paper", quick=True, sets=letters) == dict.fromkeys(letters, 1)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_precision_can_be_chosen(precision, tmp_path):
    config = AblateConfig(study="mergers", out=tmp_path, precision=precision)
    assert config.command == f"anyres ablate mergers --precision {precision}"
    assert {job.training.precision for job in plan_jobs(config, STUDIES["mergers"])} == {precision}
    automatic = AblateConfig(study="mergers", out=tmp_path)
    same = plan_jobs(config, STUDIES["mergers"]) == plan_jobs(automatic, STUDIES["mergers"])
    assert same == (precision == fast_precision())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mergers", "--only", "avrage"], "Did you mean 'average'"),
        (["extrapolation", "--device", "cuda:99"], "unknown device 'cuda:99'"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").touch()
    assert main(["ablate", *arguments]) == 2
    assert message in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"study": "merger"}, "Did you mean 'mergers'"),
        ({"seeds": 0}, "seeds is 0; allowed: 1 or more"),
        ({"steps": 1}, "steps is 1; allowed: 2 or more"),
        ({"sets": ("detail", "detail")}, "one is given twice"),
        ({"sets": ()}, "no sets given"),
        ({"sets": ("details",)}, "Did you mean 'detail'"),
        ({"stem": "linear"}, "unknown stem"),
        ({"precision": "float23"}, "Did you mean 'float32'"),
        ({"jobs": 0}, "jobs is 0"),
    ],
)
def test_refusals(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        AblateConfig(**({"study": "mergers", "out": tmp_path} | changes))


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="which is a file"):
        AblateConfig(study="mergers", out=tmp_path / "file")
