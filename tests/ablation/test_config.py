"""The command's options: defaults of the two forms, refusals, and the command that is printed."""

import pytest

from anyres.ablation import STUDIES, AblateConfig
from anyres.ablation.plan import plan_jobs
from anyres.cli import main
from anyres.devices import fast_precision


def test_quick_and_full(tmp_path):
    quick, full = (AblateConfig(study="positions", out=tmp_path, quick=quick) for quick in (True, False))
    assert (quick.base_steps, quick.seed_count, quick.set_names) == (1500, 1, ("ordinary",))
    assert (full.base_steps, full.seed_count, full.set_names) == (3000, 3, ("ordinary", "detail"))
    mixed = AblateConfig(study="positions", out=tmp_path, quick=True, seeds=2, sets=("detail",), steps=70, jobs=3)
    assert (mixed.base_steps, mixed.seed_count, mixed.set_names, mixed.workers) == (70, 2, ("detail",), 3)
    precision = f" --precision {fast_precision()}"  # said even if not chosen: it differs between machines
    assert mixed.command == "anyres ablate positions --quick --seeds 2 --sets detail --steps 70" + precision
    assert full.command == "anyres ablate positions" + precision
    assert AblateConfig(study="positions", out=tmp_path, device="cuda").workers == 1


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
