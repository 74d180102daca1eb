import csv
import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from anyres.data.decode import read_image
from anyres.data.transforms import to_tensor
from anyres.errors import UnreadableImageError
from anyres.models.architectures import create_model
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save
from anyres.predict.classify import classify
from anyres.predict.config import ClassifyConfig

CLASSES = ("cat", "dog", "sea newt")
SIZES = [(9, 30), (17, 17), (40, 23), (17, 17), (1, 1), (64, 5)]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    model = create_model("vitar_tiny_patch16", width=24, heads=2, depth=2, patch_size=4, grid=(3, 3), num_classes=3)
    torch.nn.init.normal_(model.get_classifier().weight)
    folder = tmp_path_factory.mktemp("run")
    save(folder, model, name=None, classes=CLASSES, training_sizes=[(16, 16)])
    return folder


@pytest.fixture
def images(tmp_path):
    for index, size in enumerate(SIZES):
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}[x].png")
    return tmp_path


def call(run, inputs, **options):
    text = io.StringIO()
    config = ClassifyConfig(run=run, inputs=tuple(inputs), device="cpu", **options)
    return classify(config, file=text, progress=False), text.getvalue()


def expected(run, path):
    model, info = load(run, ViTAR)
    with torch.no_grad():
        image = to_tensor(read_image(path), model.config.mean, model.config.std)
        return dict(zip(info.classes, model(image[None])[0].softmax(0).tolist(), strict=True))


@pytest.mark.parametrize("batch_size", [1, 2, 16])
def test_any_mix_of_sizes_equals_one_by_one(run, images, batch_size):
    results, text = call(run, [images], batch_size=batch_size)
    assert [(result["height"], result["width"]) for result in results] == SIZES
    for result in results:
        one = expected(run, result["path"])
        assert [entry["class"] for entry in result["top"]] == sorted(one, key=one.get, reverse=True)
        for entry in result["top"]:
            assert entry["probability"] == pytest.approx(one[entry["class"]], rel=1e-4)
        assert result["path"] in text and "sea newt" in text


def test_results_keep_the_order_of_the_inputs(run, images):
    paths = [images / f"{index}[x].png" for index in (4, 0, 5, 2)]
    results, _ = call(run, paths, top_k=1, batch_size=2)
    assert [result["path"] for result in results] == [str(path) for path in paths]
    assert all(len(result["top"]) == 1 for result in results)


@pytest.mark.parametrize(("size", "seen"), [
        ({"short_side": 12}, (12, 40)), ({"size": "12x20"}, (12, 20)), ({"size": "12"}, (12, 12))
    ],
)  # fmt: skip
def test_sizes_that_are_asked_for(run, images, size, seen, monkeypatch):
    shapes = []
    forward = type(load(run, ViTAR)[0]).forward
    monkeypatch.setattr(
        "anyres.models.vitar.ViTAR.forward", lambda self, x: shapes.append(tuple(x.shape)) or forward(self, x)
    )
    (result,), _ = call(run, [images / "0[x].png"], **size)
    assert shapes == [(1, 3, *seen)] and (result["height"], result["width"]) == SIZES[0]


def test_small_images_are_enlarged_and_others_stay(run, images, monkeypatch):
    got = [(13, 43), (17, 17), (40, 23), (17, 17), (13, 13), (166, 13)]
    real, shapes = ViTAR.forward, []
    monkeypatch.setattr(
        ViTAR, "forward", lambda self, batch: shapes.append(tuple(batch.shape[-2:])) or real(self, batch)
    )
    results, _ = call(run, [images], least_side=13, batch_size=1)
    assert sorted(shapes) == sorted(got) and [(result["height"], result["width"]) for result in results] == SIZES
    one, _ = call(run, [images / "0[x].png"], short_side=13)
    assert results[0]["top"] == one[0]["top"]


@pytest.mark.parametrize("option", ["least_side", "short_side"])
def test_strips_are_not_enlarged_beyond_the_limit(run, images, option, monkeypatch):
    monkeypatch.setattr("anyres.predict.loop.MAX_PIXELS", 1000)
    Image.new("RGB", (900, 1)).save(images / "strip.png")
    results, _ = call(run, [images / "strip.png", images / "1[x].png"], max_pixels=1000, **{option: 2})
    reason = "1x900 pixels would be enlarged to 2x1800; allowed: 1000 pixels"
    assert reason in results[0]["reason"] and "top" in results[1]


def test_large_images_do_not_share_a_batch(run, images, monkeypatch):
    monkeypatch.setattr("anyres.predict.plan._GROUP_PIXELS", 600)
    counts = []
    forward = type(load(run, ViTAR)[0]).forward
    monkeypatch.setattr("anyres.models.vitar.ViTAR.forward", lambda self, x: counts.append(len(x)) or forward(self, x))
    results, _ = call(run, [images])
    assert all("top" in result for result in results)
    assert counts == [3, 1, 1, 1]  # 1 + 270 + 289 | 289 | 920 | 320 pixels


def test_unreadable_files_are_counted_and_listed(run, images):
    (images / "2[x].png").write_bytes(b"broken")
    results, text = call(run, [images])
    assert "reason" in results[2] and "top" not in results[2] and sum("top" in result for result in results) == 5
    assert "1 of 6 files could not be read" in text and text.count("2[x].png") == 1
    with pytest.raises(UnreadableImageError, match="2.x..png"):
        call(run, [images], strict=True)
    results, text = call(run, [images], max_pixels=300, short_side=20)
    assert [index for index, result in enumerate(results) if "reason" in result] == [2, 5]
    assert "allowed: 300 (max_pixels)" in results[5]["reason"]
    results, text = call(run, [images / "2[x].png"])
    assert "1 of 1 files" in text


def test_csv_and_json(run, images):
    (images / "2[x].png").write_bytes(b"broken")
    results, text = call(run, [images], out=images / "out.json", top_k=2)
    assert json.loads((images / "out.json").read_text()) == results and "written to" in text
    call(run, [images], out=images / "out.CSV", top_k=2)
    with open(images / "out.CSV", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "height", "width", "class_1", "prob_1", "class_2", "prob_2", "reason"]
    for row, result in zip(rows, results, strict=True):
        assert row["path"] == result["path"] and bool(row["reason"]) == ("reason" in result)
        for rank, entry in enumerate(result.get("top", ()), start=1):
            assert row[f"class_{rank}"] == entry["class"]
            assert float(row[f"prob_{rank}"]) == pytest.approx(entry["probability"], rel=1e-5)
    assert not list(images.glob("*.tmp"))


def test_a_long_table_is_cut_where_a_file_has_the_rest(run, images, monkeypatch):
    monkeypatch.setattr("anyres.predict.class_table._ROWS_SHOWN", 2)
    _, text = call(run, [images], out=images / "out.csv")
    assert "and 4 more in" in text and "1[x].png" in text and "3[x].png" not in text


@pytest.mark.parametrize(
    "options",
    [
        {"inputs": ()}, {"top_k": 0}, {"batch_size": 0}, {"size": "big"}, {"short_side": 0}, {"out": "x.xlsx"},
        {"least_side": 0}, {"least_side": 9, "size": "8"}, {"least_side": 9, "short_side": 8},
        {"size": "8", "short_side": 8}, {"device": "tpu"}, {"device": "cuda:99"}, {"out": "nowhere/x.csv"},
        {"max_pixels": 0},
    ],
)  # fmt: skip
def test_bad_settings(run, tmp_path, options):
    if "out" in options:
        options = {"out": tmp_path / options["out"]}
    with pytest.raises(ValueError, match="allowed|Allowed"):
        ClassifyConfig(**{"run": run, "inputs": (tmp_path,), **options})


def test_missing_inputs_and_models(run, images, tmp_path):
    with pytest.raises(ValueError, match="no such file"):
        call(run, [images / "absent.png"])
    with pytest.raises(ValueError, match="no saved model"):
        call(tmp_path, [images])


class Budget:
    """In the place of a calibrated machine: any image of at most so many pixels fits."""

    def __init__(self, limits, most):
        self.limits, self.most = limits, most

    def reduced(self, size):
        scale = min(1.0, (self.most / (size[0] * size[1])) ** 0.5)
        return (max(1, int(size[0] * scale)), max(1, int(size[1] * scale))) if scale < 1 else size


@pytest.fixture
def budget(monkeypatch):
    monkeypatch.setattr("anyres.predict.classifier.sizer", lambda model, limits, **options: Budget(limits, 300))


def test_images_over_the_budget_are_reduced(run, images, budget, monkeypatch):
    plain, _ = call(run, [images])
    shapes = []
    forward = type(load(run, ViTAR)[0]).forward
    monkeypatch.setattr(
        "anyres.models.vitar.ViTAR.forward", lambda self, x: shapes.append(tuple(x.shape)) or forward(self, x)
    )
    results, text = call(run, [images], max_milliseconds=10, out=images / "out.csv")
    assert sorted(shapes) == sorted([(1, 3, 9, 30), (1, 3, 17, 17), (1, 3, 22, 13), (1, 3, 17, 17), (1, 3, 1, 1),
                                     (1, 3, 61, 4)])  # fmt: skip
    assert [result.get("reduced") for result in results] == [None, None, [22, 13], None, None, [61, 4]]
    assert [(result["height"], result["width"]) for result in results] == SIZES
    assert "2 of 6 images were reduced" in text
    with open(images / "out.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[:4] == ["path", "height", "width", "reduced"]
    assert [row["reduced"] for row in rows] == ["", "", "22x13", "", "", "61x4"]
    for index in (0, 1, 3, 4):
        assert results[index]["top"][0]["probability"] == pytest.approx(plain[index]["top"][0]["probability"], rel=1e-5)


def test_images_over_the_budget_are_refused_by_name(run, images, budget):
    results, text = call(run, [images], memory_budget="500MB", over_budget="refuse")
    refused = [index for index, result in enumerate(results) if "reason" in result]
    assert refused == [2, 5]
    assert "40x23 pixels exceed 0.5 GB; within it: at most 22x13" in results[2]["reason"]
    assert "2 of 6 files could not be read or were refused" in text


def test_impossible_budgets_are_refused_before_anything_is_read(run, images, tmp_path):
    for options in (
        {"over_budget": "refuse"},
        {"memory_budget": "0GB"},
        {"max_milliseconds": 0},
        {"max_milliseconds": float("nan")},
        {"max_milliseconds": 5, "over_budget": "drop"},
        {"memory_budget": "1GB", "batch_size": 4},
    ):
        with pytest.raises(ValueError, match="[Aa]llowed"):
            ClassifyConfig(run=tmp_path / "absent", inputs=(images,), **options)
