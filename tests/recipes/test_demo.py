"""The demo in its short form: it runs end to end, and a second call goes on instead of starting again."""

import json
from dataclasses import replace

import pytest

from anyres.evaluation.journal import Journal, Part
from anyres.recipes import SWEEP_SIZES, DemoConfig, demo as demo_module, demo_training
from anyres.recipes.demo import FAR_SIZES, demo


def test_the_models_differ_in_what_they_claim_to_differ_in():
    config = DemoConfig()
    anyres, vitar, deit = (demo_training(config, kind) for kind in ("anyres", "vitar", "deit"))
    assert replace(anyres, model=vitar.model, out=vitar.out, model_options=vitar.model_options) == vitar
    assert replace(vitar, model=deit.model, out=deit.out, sizes=deit.sizes, size_weights=None) == deit
    assert vitar.sizes[:1] == deit.sizes and len(vitar.sizes) > 1
    largest_trained, largest_measured = max(map(int, vitar.sizes)), max(map(int, SWEEP_SIZES))
    assert largest_measured == 4 * largest_trained < min(map(int, FAR_SIZES))


@pytest.mark.slow
def test_short_demo(tmp_path, capsys):
    page = demo(DemoConfig(out=tmp_path / "demo", short=True))
    first = page.read_bytes()
    weights = tmp_path / "demo" / "runs" / "vitar" / "model.safetensors"
    written = weights.stat().st_mtime_ns
    assert b"<html" in first and b"small-glyphs" in first
    sweep = json.loads((tmp_path / "demo" / "small-glyphs.json").read_text())
    assert set(sweep["models"]) == {"anyres", "vitar", "deit"}
    far = json.loads((tmp_path / "demo" / "large-glyphs-far.json").read_text())
    assert set(far["models"]) == {"anyres", "vitar"} and {row["set"] for row in far["rows"]} == {"large-glyphs"}
    assert {row["protocol"] for row in sweep["rows"]} == {"native", "resized to 32x32", "resized to 96x96"}
    demo(DemoConfig(out=tmp_path / "demo", short=True))
    assert weights.stat().st_mtime_ns == written


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "demo").write_text("")
    with pytest.raises(ValueError, match="which is a file"):
        DemoConfig(out=tmp_path / "demo")


def test_measuring_shows_how_far_each_sweep_is(tmp_path, monkeypatch, capsys):
    sweeps = [demo_module._sweeping(DemoConfig(out=tmp_path, short=True), name, [tmp_path]) for name in ("a", "b")]

    def run(function, jobs, workers, *, name, follow, remedy):
        assert (function, workers) == (demo_module.sweep, 2) and str(sweeps[0].out) in name(sweeps[0])
        Journal(sweeps[0].out, {}).add(Part(set="a", size=[24, 24], rows=[], examples=[], skipped={}, left_out=[]))
        follow(sweeps, 0)
        follow([sweeps[0]], 1)

    monkeypatch.setattr(demo_module, "run_side_by_side", run)
    demo_module._measure(sweeps)
    shown = capsys.readouterr().err
    pixels = [side**2 for side in (24, 32, 48)]
    assert f"measure a: {100 * pixels[0] / sum(pixels):3.0f}%" in shown and "24 px done" in shown
    assert "measure b:   0%" in shown and "measure b: 100%" in shown
