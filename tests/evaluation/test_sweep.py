"""The sweep equals a loop written by hand, leaves nothing out silently, and refuses before it starts."""

import base64
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.costs.cost import cost
from anyres.data.decode import read_image
from anyres.data.transforms import eval_transform, to_tensor
from anyres.errors import UnreadableImageError
from anyres.evaluation import subject as subject_module
from anyres.evaluation.rows import FORMAT, SweepRow, check_sweep, wilson
from anyres.evaluation.sweep import SweepConfig, sweep
from anyres.models.config import ViTARConfig
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save
from anyres.report.report import report

CLASSES = ("ant", "bee", "cow")
SIZES = ("8", "16", "12x20", "17")


def save_run(folder, seed, *, classes=CLASSES, sizes=((8, 8), (16, 16)), name="vitar_tiny_patch16", **overrides):
    torch.manual_seed(seed)
    settings = {"patch_size": 4, "grid": (2, 2), "width": 16, "depth": 1, "heads": 2, "num_classes": len(classes)}
    model = ViTAR(ViTARConfig(**settings | overrides))
    with torch.no_grad():  # answers that differ between images
        model.head.weight.normal_()
    save(folder, model, name=name, classes=classes, training_sizes=sizes)
    return folder


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with one set of 12 images, one of them broken, and two runs."""
    root = tmp_path_factory.mktemp("sweep")
    random = np.random.default_rng(0)
    for name in CLASSES:
        folder = root / "insects" / "val" / name
        folder.mkdir(parents=True)
        for number in range(4):
            shape = ((24, 24), (30, 20), (21, 33), (40, 40))[number]
            pixels = random.integers(0, 256, (*shape, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    (root / "insects" / "val" / "bee" / "broken.png").write_bytes(b"not an image")
    save_run(root / "first", 1)
    save_run(root / "second", 2, sizes=((12, 16),), name=None, patch_size=5, mean=(0.2, 0.3, 0.4), grid_shape="aspect")
    return root


def configure(place, **changes):
    settings = {
        "runs": (place / "first", place / "second"), "data": (place / "insects",), "sizes": SIZES,
        "out": place / "out.json", "latency_runs": 1, "latency_seconds": 0.01, "batch_size": 3, "examples": 2,
    }  # fmt: skip
    return SweepConfig(**settings | changes)


@pytest.fixture(scope="module")
def result(place):
    return sweep(configure(place))


def by_hand(run, paths, size, then=None, **how):
    """How many of the images a plain loop gets right; `then` is the size that they are resized to after all."""
    model, info = load(run, ViTAR)
    transform = eval_transform(size, (0.0,) * 3, (1.0,) * 3, **how)
    correct = 0
    for path in paths:
        pixels = (transform(read_image(path)) * 255).round().byte().permute(1, 2, 0)  # (H, W, C)
        shown = Image.fromarray(pixels.numpy())
        if then is not None:
            scale = min(then) / min(shown.size)  # of the short side, if the aspect is kept
            wide = [round(side * scale) for side in shown.size] if how.get("keep_aspect") else [then[1], then[0]]
            shown = shown.resize(wide, Image.Resampling.BICUBIC)
        with torch.no_grad():
            logits = model(to_tensor(shown, model.config.mean, model.config.std)[None])
        correct += info.classes[int(logits.argmax())] == path.parent.name
    return correct


def readable(place):
    return [path for path in sorted((place / "insects" / "val").rglob("*.png")) if path.stem != "broken"]


def test_equals_a_loop_by_hand(place, result):
    assert len(result["rows"]) == len(SIZES) * (3 + 2)
    for row in result["rows"]:
        run = place / row["model"]
        target = None if row["protocol"] == "native" else tuple(map(int, row["protocol"].split()[-1].split("x")))
        correct = by_hand(run, readable(place), tuple(row["size"]), then=target)
        assert (row["correct"], row["images"]) == (correct, 12), row
        assert row["top1"] == 100 * correct / 12
        assert row["interval"] == list(wilson(correct, 12))
        assert row["macs"] == cost(load(run, ViTAR)[0], target or tuple(row["size"])).macs
    assert len({row["correct"] for row in result["rows"]}) > 2  # the comparison above could fail


def test_resized_equals_native_at_the_same_size(result):
    rows = {(row["model"], row["protocol"], *row["size"]): row for row in result["rows"]}
    ours = ("correct", "images", "top1", "interval", "macs", "latency_ms", "peak_memory_bytes")
    for size in (8, 16):
        native = rows["first", "native", size, size]
        resized = rows["first", f"resized to {size}x{size}", size, size]
        assert [native[key] for key in ours] == [resized[key] for key in ours]


def test_schema_is_complete(place, result):
    assert json.loads((place / "out.json").read_text()) == result
    assert check_sweep(result, "out.json") is result
    assert result["format"] == FORMAT
    assert set(result["environment"]) == {"torch", "timm", "device", "threads", "precision"}
    assert list(result["models"]) == ["first", "second"]
    second = result["models"]["second"]
    model, _ = load(place / "second", ViTAR)
    assert (second["patch_size"], second["grid"], second["training_sizes"]) == (5, [2, 2], [[12, 16]])
    assert second["grid_shape"] == "aspect" and "grid_shape" not in result["models"]["first"]
    assert second["parameters"] == sum(parameter.numel() for parameter in model.parameters())
    for row in result["rows"]:
        assert list(row) == list(SweepRow.__annotations__)
        assert row["latency_ms"]["p50"] > 0 and row["latency_ms"]["runs"] == 1
        assert row["images_per_second"] > 0 and row["peak_memory_bytes"] > 0
    assert result["skipped"] == [{"set": "insects", "path": "bee/broken.png", "reason": result["skipped"][0]["reason"]}]
    assert str(place) not in json.dumps(result)
    assert result["left_out"] == []


def test_order_of_rows(result):
    keys = [(row["model"], row["protocol"], "x".join(map(str, row["size"]))) for row in result["rows"]]
    first = [("first", protocol) for protocol in ("native", "resized to 8x8", "resized to 16x16")]
    second = [("second", protocol) for protocol in ("native", "resized to 12x16")]
    assert keys == [(*line, size) for line in first + second for size in ("8x8", "16x16", "12x20", "17x17")]


def test_examples_are_true_to_scale(result):
    examples = result["examples"]
    assert [example["size"] for example in examples] == [[8, 8]] * 2 + [[16, 16]] * 2 + [[12, 20]] * 2 + [[17, 17]] * 2
    for example in examples:
        with Image.open(io.BytesIO(base64.b64decode(example["png"]))) as image:
            assert image.size == tuple(reversed(example["size"]))
        assert example["label"] in CLASSES
        for name, chance in example["predictions"].values():
            assert name in CLASSES and 1 / 3 <= chance <= 1
    assert [example["label"] for example in examples[:2]] == [example["label"] for example in examples[2:4]]


def test_an_unreadable_file_is_no_example(place):
    """With one example per set the broken file would be the one in the middle."""
    (place / "odd" / "val").mkdir(parents=True)
    for name in CLASSES:
        (place / "odd" / "val" / name).mkdir()
        Image.new("RGB", (9, 9), "red").save(place / "odd" / "val" / name / "0.png")
    (place / "odd" / "val" / "bee" / "1.png").write_bytes(b"not an image")
    found = sweep(configure(place, data=(place / "odd",), sizes=("8",), examples=1, out=place / "odd.json"))
    assert [example["label"] for example in found["examples"]] == ["bee"] and len(found["skipped"]) == 1
    many = sweep(configure(place, data=(place / "odd",), sizes=("8",), examples=99, out=place / "all.json"))
    assert [example["label"] for example in many["examples"]] == ["ant", "bee", "cow"]


def test_batching_changes_nothing(place, result):
    small = sweep(configure(place, max_patches=1, out=place / "small.json", examples=0))
    assert [row["correct"] for row in small["rows"]] == [row["correct"] for row in result["rows"]]
    assert small["examples"] == []


def test_dear_rows_are_left_out_and_listed(place):
    first = load(place / "first", ViTAR)[0]
    limit = (cost(first, (8, 8)).macs + cost(first, (16, 16)).macs) / 2
    found = sweep(configure(place, runs=(place / "first",), sizes=("8", "16"), max_macs=limit, out=place / "dear.json"))
    kept = {(row["protocol"], row["size"][0]) for row in found["rows"]}
    assert kept == {("native", 8), ("resized to 8x8", 8), ("resized to 8x8", 16)}
    left_out = {(item["protocol"], item["size"][0]) for item in found["left_out"]}
    assert left_out == {("resized to 16x16", 8), ("native", 16), ("resized to 16x16", 16)}
    assert all("max_macs" in item["reason"] and item["set"] == "insects" for item in found["left_out"])


def test_out_of_memory_is_a_row_left_out(place, monkeypatch):
    def full(forward):
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(subject_module, "peak_tensor_bytes", full)
    found = sweep(configure(place, sizes=("8",), resize_to=("none",), out=place / "full.json"))
    assert found["rows"] == [] and [item["model"] for item in found["left_out"]] == ["first", "second"]
    assert "out of memory" in found["left_out"][0]["reason"]


def test_whole_images_of_different_sizes(place):
    config = configure(place, runs=(place / "first",), sizes=("16",), keep_aspect=True, out=place / "aspect.json")
    rows = {row["protocol"]: row for row in sweep(config)["rows"]}
    model = load(place / "first", ViTAR)[0]
    sizes = {(24, 24): (16, 16), (30, 20): (24, 16), (21, 33): (16, 25), (40, 40): (16, 16)}
    assert rows["native"]["macs"] == round(sum(cost(model, size).macs for size in sizes.values()) / 4)
    for protocol, target in (("native", None), ("resized to 8x8", (8, 8))):
        expected = by_hand(place / "first", readable(place), (16, 16), keep_aspect=True, then=target)
        assert rows[protocol]["correct"] == expected


def test_squashed_images(place):
    config = configure(place, runs=(place / "first",), sizes=("12x20",), squash=True, resize_to=("none",), limit=5,
                       out=place / "squash.json")  # fmt: skip
    found = sweep(config)
    chosen = [sorted((place / "insects/val").rglob("*.png"))[(2 * i + 1) * 13 // 10] for i in range(5)]
    chosen = [path for path in chosen if path.stem != "broken"]
    [row] = found["rows"]
    assert (row["correct"], row["images"]) == (by_hand(place / "first", chosen, (12, 20), squash=True), len(chosen))


def test_bfloat16_and_grey(place):
    run = save_run(place / "grey", 3, in_channels=1)
    found = sweep(configure(place, runs=(run,), sizes=("8",), precision="bfloat16", out=place / "grey.json"))
    assert {row["images"] for row in found["rows"]} == {12}
    assert found["environment"]["precision"] == "bfloat16"


def test_labels_are_unique(place):
    again = place / "again" / "first"
    save_run(again, 1)
    runs = (place / "first", again, place / "second")
    models = sweep(configure(place, runs=runs, sizes=("8",), out=place / "labels.json"))["models"]
    assert list(models) == [f"{place.name}/first", "again/first", "second"]
    twice = sweep(configure(place, runs=(again, again), sizes=("8",), out=place / "labels.json"))["models"]
    assert list(twice) == ["again/first", "again/first #2"]


def test_classes_in_another_order_are_matched_by_name(place):
    model, info = load(place / "first", ViTAR)
    order = [2, 0, 1]
    with torch.no_grad():
        model.head.weight.copy_(model.head.weight[order].clone())
        model.head.bias.copy_(model.head.bias[order].clone())
    classes = [info.classes[i] for i in order]
    save(place / "turned", model, name=None, classes=classes, training_sizes=info.training_sizes)
    found = sweep(configure(place, runs=(place / "first", place / "turned"), sizes=("8",), out=place / "turned.json"))
    one, two = ([row["correct"] for row in found["rows"] if row["model"] == label] for label in found["models"])
    assert one == two


def test_metrics_are_means_over_the_images(place, result):
    """Of both models, which know the classes in one order, at a size where images differ, native and resized."""
    paths = readable(place)
    for run in ("first", "second"):
        model, info = load(place / run, ViTAR)
        losses = []
        for path in paths:
            image = eval_transform((12, 20), model.config.mean, model.config.std)(read_image(path))
            with torch.no_grad():
                losses.append(-model(image[None]).log_softmax(-1)[0, info.classes.index(path.parent.name)].item())
        rows = [row for row in result["rows"] if (row["model"], row["size"]) == (run, [12, 20])]
        native = next(row for row in rows if row["protocol"] == "native")
        assert native["metrics"]["nll"] == pytest.approx(sum(losses) / len(losses), rel=1e-4)
        assert native["metrics"]["top5"] == 100  # of three classes


def test_a_sweep_without_metrics_is_drawn_all_the_same(place, result):
    rows = [{name: value for name, value in row.items() if name != "metrics"} for row in result["rows"]]
    (place / "old.json").write_text(json.dumps({**result, "rows": rows}))
    assert "<button>nll<" not in report([place / "old.json"], place / "old-page").read_text(encoding="utf-8")


def test_the_report_takes_it(place, result):
    (place / "again.json").write_text(json.dumps(result))
    page = report([place / "again.json"], place / "page").read_text(encoding="utf-8")
    assert page.count("bee/broken.png") == 1 and "insects" in page
    assert "<button>nll</button>" in page


def test_strict_stops_at_the_broken_file(place):
    with pytest.raises(UnreadableImageError, match=r"broken\.png"):
        sweep(configure(place, strict=True, out=place / "strict.json"))
    assert not (place / "strict.json").exists()


def test_other_classes_are_refused_by_name(place):
    run = save_run(place / "zoo", 4, classes=("ant", "bee", "dog", "emu"))
    with pytest.raises(ValueError, match=r"zoo cannot be measured on .*insects: .*missing: dog, emu; extra: cow"):
        sweep(configure(place, runs=(run,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": ()}, "no runs"),
        ({"data": ()}, "no data"),
        ({"sizes": ()}, "no sizes"),
        ({"sizes": ("12by8",)}, "12by8"),
        ({"sizes": ("8", "8x8")}, "given twice"),
        ({"resize_to": ("larges",)}, "largest"),
        ({"resize_to": ("none", "largest")}, "none alone"),
        ({"precision": "float16"}, "bfloat16"),
        ({"device": "gpu"}, "cpu"),
        ({"limit": 0}, "limit is 0"),
        ({"max_patches": 0}, "max_patches is 0"),
        ({"max_macs": 0.0}, "above 0"),
        ({"crop_ratio": 0.0}, "crop_ratio"),
        ({"crop_ratio": 0.9, "squash": True}, "no effect"),
        ({"keep_aspect": True, "squash": True}, "one of them"),
        ({"runs": (Path("nowhere"),)}, "nowhere"),
        ({"data": (Path("nowhere"),)}, "nowhere"),
        ({"out": Path(".")}, "folder"),
    ],
)
def test_refused_before_work(place, monkeypatch, changes, message):
    monkeypatch.setattr(subject_module.Subject, "speed", None)  # work would fail
    with pytest.raises(ValueError, match=message):
        sweep(configure(place, **changes))


def test_runs_that_cannot_be_used_are_refused(place):
    unsized = save_run(place / "unsized", 5, sizes=())
    with pytest.raises(ValueError, match="records no training sizes"):
        sweep(configure(place, runs=(unsized,)))
    many = save_run(place / "many", 5, in_channels=4)
    with pytest.raises(ValueError, match="4 channels"):
        sweep(configure(place, runs=(many,)))
    with pytest.raises(ValueError, match="given twice"):
        sweep(configure(place, data=(place / "insects",) * 3))


@pytest.mark.parametrize(("merger", "patches"), [("grid_attention", [1, 8, 12]), ("pyramid", [4, 8, 12])])
def test_patches_are_those_that_a_model_sees(merger, patches):
    model = ViTAR(ViTARConfig(patch_size=4, grid=(2, 2), width=16, depth=1, heads=2, merger=merger))
    about = {"label": "x", "info": None, "run": Path(), "device": torch.device("cpu"), "dtype": torch.float32}
    subject = subject_module.Subject(model=model, **about)
    assert [subject.patches(size) for size in ((3, 4), (8, 13), (9, 15))] == patches
