"""Calibration: real measurements of a tiny model, and the file that keeps them."""

import json

import pytest
import torch

import anyres.costs.calibrate as calibrate
from anyres.costs.calibrate import Budget, cache_folder, calibration, calibration_shapes, identify
from anyres.costs.fit import Counts, fit
from anyres.costs.probe import peak_bytes, resident_is_measured
from anyres.models.architectures import get_config
from anyres.models.config import ViTARConfig
from anyres.models.vitar import ViTAR

TINY = {"patch_size": 4, "grid": (3, 3), "width": 32, "depth": 1, "heads": 2, "num_classes": 3}


@pytest.fixture
def model(tmp_path, monkeypatch):
    monkeypatch.setenv("ANYRES_CACHE", str(tmp_path / "cache"))
    return ViTAR(ViTARConfig(**TINY))


@pytest.fixture
def measured(monkeypatch):
    """How often was measured; instead of measuring, which the first test does."""
    calls = []

    def measure(model, **options):
        calls.append(1)
        shapes = calibration_shapes(Counts(model.config, 4, 500))
        return {shape: 1e-9 * shape[1] * shape[2] * len(calls) for shape in shapes}, dict.fromkeys(shapes, 10**7)

    monkeypatch.setattr(calibrate, "measure", measure)
    return calls


def test_a_real_calibration(model, monkeypatch, capsys):
    monkeypatch.setattr(calibrate, "_peaks", lambda model, shapes, *rest: {s: 10**6 * s[0] + 12 * s[1] for s in shapes})
    monkeypatch.setattr(calibrate, "calibration_shapes", lambda counts: [(1, 12, 12), (1, 24, 13), (2, 40, 40)])
    costs = calibration(model, budget=Budget(0.3, 0.1))
    assert 0 < costs.milliseconds((1, 24, 24)) < 60e3 and model.training
    assert "calibrate" in capsys.readouterr().err
    (path,) = cache_folder().glob("calibration-float32-*.json")
    record = json.loads(path.read_text())
    assert [entry["shape"] for entry in record["measured"]] == [[1, 12, 12], [1, 24, 13], [2, 40, 40]]
    assert all(entry["seconds"] > 0 for entry in record["measured"])


def test_the_file_is_read_back_and_only_for_the_same(model, measured):
    first = calibration(model, progress=False)
    assert calibration(model, progress=False) == first and len(measured) == 1
    assert calibration(ViTAR(ViTARConfig(**TINY | {"depth": 2})), progress=False) != first and len(measured) == 2
    calibration(ViTAR(ViTARConfig(**TINY)).bfloat16(), progress=False)
    assert len(measured) == 3 and len(list(cache_folder().iterdir())) == 3
    again = calibration(model, recalibrate=True, progress=False)
    assert len(measured) == 4 and again != first and calibration(model, progress=False) == again


@pytest.mark.parametrize(("name", "value"), [("_processor", "another"), ("_code", "another")])
def test_other_machines_and_versions_are_ignored(model, measured, monkeypatch, name, value):
    calibration(model, progress=False)
    (path,) = cache_folder().iterdir()
    monkeypatch.setattr(calibrate, name, lambda: value)
    calibration(model, progress=False)
    assert len(measured) == 2
    other = next(file for file in cache_folder().iterdir() if file != path)
    other.write_bytes(path.read_bytes())  # under the right name, but of the other machine
    calibration(model, progress=False)
    assert len(measured) == 3


@pytest.mark.parametrize("content", ["", "{", "[]", '{"identity": 1}', '{"constants": {}}'])
def test_a_damaged_file_is_replaced(model, measured, content):
    costs = calibration(model, progress=False)
    (path,) = cache_folder().iterdir()
    path.write_text(content)
    assert calibration(model, progress=False) != costs and len(measured) == 2
    assert json.loads(path.read_text())["identity"] == identify(model)


def test_what_cannot_be_kept_is_used_all_the_same(model, measured, tmp_path, monkeypatch):
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("ANYRES_CACHE", str(tmp_path / "file" / "below"))
    with pytest.warns(UserWarning, match="measured again next time; ANYRES_CACHE names another folder"):
        assert calibration(model, progress=False).milliseconds((1, 8, 8)) > 0
    assert len(measured) == 1


def test_threads_are_part_of_the_identity(model):
    before, threads = identify(model), torch.get_num_threads()
    try:
        torch.set_num_threads(threads + 1)
        assert identify(model) != before
    finally:
        torch.set_num_threads(threads)
    assert identify(model) == before == json.loads(json.dumps(before))


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.delenv("ANYRES_CACHE", raising=False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "anyres"
    monkeypatch.setenv("ANYRES_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"


@pytest.mark.parametrize("config", [ViTARConfig(**TINY), get_config("vitar_base_patch16"), ViTARConfig(grid=(24, 7))])
def test_shapes_lie_on_both_sides_of_where_pieces_begin(config):
    shapes = calibration_shapes(Counts(config, 4, 2000))
    patches = [b * -(-h // config.patch_size) * -(-w // config.patch_size) for b, h, w in shapes]
    assert min(patches) < 2000 and sum(count > 4000 for count in patches) > 4 and len(set(shapes)) > 15
    assert {1} < {batch for batch, _, _ in shapes}
    assert any(height != width and height % config.patch_size for _, height, width in shapes)


def test_out_of_memory_ends_the_list_of_shapes(model, monkeypatch):
    forward = type(model).forward

    def limited(self, images):
        if images.shape[-1] > 60:
            raise torch.OutOfMemoryError("too large")
        return forward(self, images)

    monkeypatch.setattr(type(model), "forward", limited)
    monkeypatch.setattr(calibrate, "calibration_shapes", lambda counts: [(1, 4 * n, 4 * n) for n in (2, 5, 9, 30)])
    monkeypatch.setattr(calibrate, "_peaks", lambda model, shapes, *rest: dict.fromkeys(shapes, 10**6))
    seconds, peaks = calibrate.measure(model, progress=False, budget=Budget(0.2, 0.2))
    assert [shape[1] for shape in seconds] == [8, 20, 36] == [shape[1] for shape in peaks]


@pytest.mark.skipif(not resident_is_measured(), reason="needs /proc of Linux")
def test_memory_of_real_processes_is_predicted():
    model = ViTAR(ViTARConfig(width=64, depth=1, heads=2, num_classes=3))
    counts = calibrate._counts(model)
    used = [(1, 512, 512), (1, 1024, 640), (2, 800, 900), (1, 1600, 1600), (1, 2048, 1024), (4, 224, 224)]
    asked = [(1, 1300, 1300), (1, 700, 1900), (3, 640, 640)]
    measuring = peak_bytes(model, [*used, *asked, (1, 2**40, 2**20)])
    peaks = {shape: next(measuring) for shape in used + asked}
    with pytest.raises(MemoryError, match="did not survive"):
        next(measuring)
    for shape, peak in peaks.items():
        assert peak > counts.image_bytes(shape), shape
    costs = fit(counts, dict.fromkeys(used, 1.0), {shape: peaks[shape] for shape in used})
    for shape in asked:
        assert costs.bytes(shape) == pytest.approx(peaks[shape], rel=0.25), shape
        assert costs.bytes_at_most(shape) > 0.9 * peaks[shape]
