"""The demo in its short form: it runs end to end, and a second call goes on instead of starting again."""

import json

import pytest

from anyres.recipes import SWEEP_SIZES, DemoConfig, demo_training
from anyres.recipes.demo import demo


def test_the_two_models_differ_in_what_they_claim_to_differ_in():
    config = DemoConfig()
    vitar, deit = demo_training(config, "vitar"), demo_training(config, "deit")
    assert (vitar.steps, vitar.batch_size, vitar.lr, vitar.data) == (deit.steps, deit.batch_size, deit.lr, deit.data)
    assert vitar.augmentation == deit.augmentation and vitar.cache == deit.cache
    assert vitar.sizes[:1] == deit.sizes and len(vitar.sizes) > 1
    assert vitar.model_options | {"extra_passes": 0} == deit.model_options | {"extra_passes": 0}
    largest_trained, largest_measured = max(map(int, vitar.sizes)), max(map(int, SWEEP_SIZES))
    assert largest_measured == 4 * largest_trained


@pytest.mark.slow
def test_short_demo(tmp_path, capsys):
    page = demo(DemoConfig(out=tmp_path / "demo", short=True))
    first = page.read_bytes()
    weights = tmp_path / "demo" / "runs" / "vitar" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert b"<html" in first and b"small-glyphs" in first
    sweep = json.loads((tmp_path / "demo" / "small-glyphs.json").read_text())
    assert set(sweep["models"]) == {"vitar", "deit"}
    assert {row["protocol"] for row in sweep["rows"]} == {"native", "resized to 32x32", "resized to 96x96"}
    demo(DemoConfig(out=tmp_path / "demo", short=True))
    assert weights.stat().st_mtime_ns == written


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(ValueError, match="which is a file"):
        DemoConfig(out=tmp_path / "demo")
