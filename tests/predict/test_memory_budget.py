"""Memory budgets: the windows they choose, what is refused before it is read, and what a process takes."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image

from anyres.amounts import parse_bytes
from anyres.costs.memory import peak_tensor_bytes
from anyres.models.architectures import SEGMENTER
from anyres.models.detector import Detector
from anyres.models.segmenter import Segmenter
from anyres.models.weights.files import load, save
from anyres.predict.config import DetectConfig, SegmentConfig
from anyres.predict.detect import find_objects
from anyres.predict.detect_needs import DetectNeeds
from anyres.predict.label_maps import Inference
from anyres.predict.memory_budget import fitting_windows
from anyres.predict.segment import segment
from anyres.predict.segment_needs import SegmentNeeds

NAMES = ("ground", "a", "b", "c", "d")


def pixels(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width]


class Needs:
    def windows(self, size, window, at_once):
        return window[0] * window[1] * at_once + size[1]

    def smaller_window(self, part):
        return (round(80 * part), round(80 * part))


def test_the_largest_windows_that_fit_are_taken_and_then_as_many_as_fit():
    def fit(budget, window=None, held=0):
        return fitting_windows(Needs(), (500, 100), window, 4, budget, held=held)

    assert fit(6499) == ((60, 60), 1) and fit(6500) == ((80, 80), 1) and fit(2 * 6400 + 100) == ((80, 80), 2)
    assert fit(10**6) == ((80, 80), 4) and fit(6500, held=1) == ((60, 60), 1) and fit(500, (20, 20)) == ((20, 20), 1)
    with pytest.raises(ValueError, match="by windows of 10x10 pixels needs 0.000201MB; allowed: at least that"):
        fit(199)
    with pytest.raises(ValueError, match="by windows of 20x20"):
        fit(499, (20, 20))


def test_a_memory_budget_chooses_windows_and_refuses_before_it_reads(labeller, finder, tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", pixels(300, 400), photometric="rgb", tile=(32, 32))
    common = {"inputs": (tmp_path / "x.tif",), "device": "cpu"}
    needs = SegmentNeeds(load(labeller, Segmenter)[0], Inference(), None, [(24, 24)])
    assert needs.windows((300, 400), (24, 24), 1) < needs.windows((300, 400), (24, 24), 9) < needs.whole((300, 400))
    for config, call in (
        (SegmentConfig(run=labeller, out=tmp_path / "a", memory_budget="75MB", **common), segment),
        (DetectConfig(run=finder, out=tmp_path / "b", memory_budget="75MB", **common), find_objects),
    ):
        (entry,) = call(config, progress=False)
        assert "window" in entry or call is find_objects
    for kind, run, call in ((SegmentConfig, labeller, segment), (DetectConfig, finder, find_objects)):
        with pytest.raises(ValueError, match="x.tif: memory_budget is 20MB, but .*allowed: at least that"):
            call(kind(run=run, out=tmp_path / "c", memory_budget="20MB", **common), progress=False)
    assert not list((tmp_path / "c").iterdir())


def test_a_detector_needs_more_for_images_that_it_sees_larger(finder):
    model, image = load(finder, Detector)[0], torch.rand(3, 50, 70)
    needed, taken = [], []
    for limits in ((64, 96), (400, 500)):
        model.set_size(*limits)
        needed.append(DetectNeeds(model, scales=False).whole((50, 70)))
        with torch.no_grad():
            taken.append(peak_tensor_bytes(lambda: model([image])))
    assert needed[1] - needed[0] >= taken[1] - taken[0] > 10**6


PEAK = """
import sys
from pathlib import Path
from anyres.predict import segment as module
from anyres.predict.config import SegmentConfig
from anyres.predict.segment import segment

def of(name):
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name))
    return 1000 * int(line.split()[1])

def measured(*given, _whole=module.entries_of, **more):
    Path("/proc/self/clear_refs").write_text("5")
    before = of("VmRSS")
    found = _whole(*given, **more)
    print(of("VmHWM") - before)
    return found

module.entries_of = measured
run, image, out, budget = sys.argv[1:]
config = SegmentConfig(run=Path(run), inputs=(Path(image),), out=Path(out), memory_budget=budget, device="cpu")
print("window" in segment(config, progress=False)[0])
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs the kernel to tell the peak")
def test_a_process_stays_within_the_least_budget_that_is_allowed(tmp_path):
    options = {"width": 48, "heads": 3, "depth": 2, "patch_size": 8, "grid": 4, "head_channels": 16, "num_classes": 5}
    model = Segmenter(SEGMENTER.get_config("unmerge_vitar_small_patch16", **options))
    save(tmp_path, model, name=None, classes=NAMES, training_sizes=[(256, 256)])
    picture = Image.fromarray(pixels(2600, 3900))
    picture.save(tmp_path / "plain.jpg")
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture.save(tmp_path / "turned.jpg", exif=exif)
    Image.merge("RGBA", (*picture.split(), picture.getchannel(0))).save(tmp_path / "alpha.png", compress_level=1)
    picture.crop((0, 0, 1500, 1300)).save(tmp_path / "whole.png")
    needs = SegmentNeeds(model, Inference(), None, [(256, 256)])
    budgets = {"whole.png": needs.whole((1300, 1500))}
    for name in ("plain.jpg", "turned.jpg", "alpha.png"):
        config = SegmentConfig(run=tmp_path, inputs=(tmp_path / name,), out=tmp_path / "out", memory_budget="1MB")
        with pytest.raises(ValueError, match="allowed: at least that") as refused:
            segment(config, progress=False)
        budgets[name] = parse_bytes(re.search(r"needs (\S+);", str(refused.value))[1])
    for name, budget in budgets.items():
        arguments = [str(tmp_path), str(tmp_path / name), str(tmp_path / "out"), f"{budget}B"]
        done = subprocess.run([sys.executable, "-c", PEAK, *arguments], capture_output=True, text=True, check=True)
        peak, by_windows = done.stdout.split()
        assert int(peak) < budget, (name, budget, done.stdout)
        assert by_windows == str(name != "whole.png")


def test_the_memory_of_windows_does_not_grow_with_the_height(labeller):
    needs = SegmentNeeds(load(labeller, Segmenter)[0], Inference(), None, [(24, 24)])
    assert needs.windows((10**6, 400), (24, 24), 1) == needs.windows((2 * 10**6, 400), (24, 24), 1)
