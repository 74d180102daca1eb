"""Whether single answers stay: equal to a loop by hand, the same after a stop, and nothing without the option."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.cli import main
from anyres.data.decode import read_image
from anyres.data.transforms import eval_transform
from anyres.evaluation import sweep as sweep_module
from anyres.evaluation.rows import check_sweep
from anyres.evaluation.sweep import SweepConfig, sweep
from anyres.models.config import ViTARConfig
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save
from anyres.report import canvas
from anyres.report.report import report

CLASSES = ("ant", "bee", "cow")
SIZES = ((8, 8), (20, 12), (24, 24))
LARGEST = {"first": (16, 16), "second": (10, 20)}  # of training; none is among the sizes


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Twelve images, one more that is broken, and two models with other largest training sizes."""
    root = tmp_path_factory.mktemp("stability")
    random = np.random.default_rng(0)
    for name in CLASSES:
        (root / "insects" / name).mkdir(parents=True)
        for number in range(4):
            pixels = random.integers(0, 256, (5, 6, 3), dtype=np.uint8)
            Image.fromarray(pixels).resize((60, 50)).save(root / "insects" / name / f"{number}.png")
    (root / "insects" / "bee" / "broken.png").write_bytes(b"not an image")
    for seed, (name, largest) in enumerate(LARGEST.items()):
        torch.manual_seed(seed)
        model = ViTAR(ViTARConfig(patch_size=4, grid=(2, 2), width=16, depth=1, heads=2, num_classes=3,
                                  prefix_tokens=seed, pool="token" if seed else "mean"))  # fmt: skip
        with torch.no_grad():
            model.head.weight.normal_()
        save(root / name, model, name=None, classes=CLASSES[::-1], training_sizes=[largest, (8, 8)])
    return root


def configure(place, **changes):
    settings = {
        "runs": (place / "first", place / "second"), "data": (place / "insects",), "resize_to": ("largest",),
        "sizes": tuple(f"{height}x{width}" for height, width in SIZES), "out": place / "out.json", "latency_runs": 1,
        "latency_seconds": 0.01, "batch_size": 5, "examples": 0, "threads": 1, "stability": True, "progress": False,
    }  # fmt: skip
    return SweepConfig(**settings | changes)


@pytest.fixture(scope="module")
def result(place):
    return sweep(configure(place))


def looked_at(model, path, size):
    """Class and pooled features of one image as it is."""
    image = eval_transform(size, model.config.mean, model.config.std)(read_image(path))
    with torch.inference_mode():
        pooled = model.forward_features(image[None]).pooled
        return int(model(image[None]).argmax()), pooled[0]


def test_equals_a_loop_by_hand(place, result):
    paths = [path for path in sorted((place / "insects").rglob("*.png")) if path.stem != "broken"]
    shares = []
    for entry, (name, largest) in zip(result["stability"], LARGEST.items(), strict=True):
        model = load(place / name, ViTAR)[0]
        there = [looked_at(model, path, largest) for path in paths]
        found = {size: [looked_at(model, path, size) for path in paths] for size in SIZES}
        same = [len({found[size][number][0] for size in SIZES}) == 1 for number in range(12)]
        assert (entry["set"], entry["model"], entry["reference"]) == ("insects", name, list(largest))
        assert (entry["sizes"], entry["images"]) == ([list(size) for size in SIZES], 12)
        assert entry["same_class"] == pytest.approx(100 * sum(same) / 12)
        shares.append(sum(same))
        rows = [row for row in result["rows"] if row["model"] == name]
        for size, cosine in zip(SIZES, entry["cosines"], strict=True):
            pairs = [(a, b) for (_, a), (_, b) in zip(found[size], there, strict=True)]
            assert cosine == pytest.approx(np.mean([float(a @ b / a.norm() / b.norm()) for a, b in pairs]), abs=1e-5)
            [native] = [row for row in rows if (row["protocol"], row["size"]) == ("native", list(size))]
            agree = [mine == theirs for (mine, _), (theirs, _) in zip(found[size], there, strict=True)]
            assert native["metrics"]["same_class"] == pytest.approx(100 * sum(agree) / 12)
            assert native["metrics"]["cosine"] == cosine
        assert all("cosine" not in row["metrics"] for row in rows if row["protocol"] != "native")
    assert 0 < sum(shares) < 24  # the comparison above could fail


def test_at_the_largest_training_size_everything_agrees(place):
    found = sweep(configure(place, runs=(place / "first",), sizes=("16",), out=place / "largest.json"))
    [entry] = found["stability"]
    assert entry["same_class"] == 100 and entry["cosines"] == pytest.approx([1.0])


def without_times(result):
    rows = [{k: v for k, v in row.items() if k not in ("latency_ms", "images_per_second")} for row in result["rows"]]
    return {**result, "rows": rows}


@pytest.mark.parametrize("done", [1, 2])
def test_after_a_stop_it_is_the_same(place, result, done, monkeypatch):
    out, measured, real = place / f"stopped{done}.json", [], sweep_module.measure_size

    def measure_size(name, size, *rest):
        if len(measured) == done:
            raise KeyboardInterrupt
        measured.append(size)
        return real(name, size, *rest)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sweep_module, "measure_size", measure_size)
        sweep(configure(place, out=out))
    assert without_times(sweep(configure(place, out=out))) == without_times(result)


def test_without_the_option_nothing_is_added_and_older_sweeps_go_on(place, result):
    plain = sweep(configure(place, stability=False, out=place / "plain.json"))
    assert "stability" not in plain and "stability" not in plain["settings"] and result["settings"]["stability"]
    assert all(set(row["metrics"]) == {"top5", "nll"} for row in plain["rows"])
    for row, other in zip(plain["rows"], result["rows"], strict=True):
        assert row["metrics"].items() <= other["metrics"].items() and row["correct"] == other["correct"]


def test_rows_left_out_are_not_compared(place):
    found = sweep(configure(place, runs=(place / "first",), max_macs=1.0, out=place / "none.json"))
    assert found["rows"] == [] and found["stability"] == []


def test_a_model_without_training_sizes_is_refused(place):
    save(place / "unknown", load(place / "first", ViTAR)[0], name=None, classes=CLASSES, training_sizes=[])
    with pytest.raises(ValueError, match="records no training sizes to compare with"):
        sweep(configure(place, runs=(place / "unknown",), resize_to=("none",), out=place / "unknown.json"))


def test_printed(place, capsys):
    shown = ["--runs", str(place / "first"), "--data", str(place / "insects"), "--sizes", "8", "24", "--stability"]
    assert main(["sweep", *shown, "--out", str(place / "printed.json"), "--latency-runs", "1", "--no-progress"]) == 0
    text = capsys.readouterr().out
    assert "first on insects: the same class at all 2 sizes for" in text and "of 12 images" in text
    assert "cosine of features to those at 16, by size: 8: 0." in text


def test_on_the_page(place, result, monkeypatch):
    monkeypatch.setattr(canvas, "DPI", 20)
    (place / "again.json").write_text(json.dumps(check_sweep(result, "out.json")))
    page = report([place / "again.json"], place / "page").read_text(encoding="utf-8")
    assert "Whether single answers stay" in page and "<button>cosine</button>" in page
    assert f"{result['stability'][0]['same_class']:.1f}" in page and "20×12: 0." in page
