"""One door for all kinds of models and inputs: what is given as files, pictures, arrays or tensors, alone or mixed."""

import json
import sys
import types

import numpy as np
import pytest
import tifffile
import torch
from PIL import ExifTags, Image

import anyres
from anyres.data.coco_masks import decode_mask
from anyres.errors import Unreadable, UnreadableImageError
from anyres.models.architectures import create_model
from anyres.models.weights.files import load, save
from anyres.predict.predictor import Predictor
from anyres.predict.results import Classification, Detections, LabelMap
from anyres.streaming.stream import stream

SIZES = [(41, 67), (90, 33), (64, 64), (40, 66), (64, 64), (1, 9)]
KINDS = {"classifier": Classification, "labeller": LabelMap, "finder": Detections}


def pixels(height, width, seed=0):
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 6 + 1, width // 6 + 1, 3), np.uint8)
    return coarse.repeat(6, axis=0).repeat(6, axis=1)[:height, :width]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a run of each kind."""
    root = tmp_path_factory.mktemp("runs")
    torch.manual_seed(1)
    small = {"patch_size": 4, "grid": 3, "width": 16, "heads": 2}
    model = create_model("vitar_tiny_patch16", **small, depth=2, num_classes=3)
    torch.nn.init.normal_(model.get_classifier().weight)
    save(root / "classifier", model, name=None, classes=("cat", "dog", "newt"), training_sizes=[(16, 16)])
    head = {"num_classes": 5, "head_channels": 8, "auxiliary_channels": 0, "taps": (0, 1, 2, 3), "depth": 4}
    labeller = create_model("upernet_vitar_small_patch16", **small, **head)
    torch.nn.init.normal_(labeller.head.classifier.weight, std=2.0)
    names = ("ground", "a", "b", "c", "d")
    extra = {"reduce_zero_label": True}
    save(root / "labeller", labeller, name=None, classes=names, training_sizes=[(24, 24)], extra=extra)
    head = {"num_classes": 3, "channels": 8, "box_features": 16, "anchor_sizes": (8, 16, 32, 64, 128), "depth": 1}
    head |= {"test_proposals": 30, "min_size": 64, "max_size": 96, "detections": 10}
    finder = create_model("mask_rcnn_vitar_small_patch16", **small | {"patch_size": 8}, **head)
    torch.nn.init.normal_(finder.roi_heads.box_predictor.cls_score.weight, std=0.5)
    extra = {"category_ids": (5, 6, 9)}
    save(root / "finder", finder, name=None, classes=("x", "y", "z"), training_sizes=[(64, 64)], extra=extra)
    return root


@pytest.fixture
def files(tmp_path):
    paths = []
    for index, size in enumerate(SIZES):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(pixels(*size, index)).save(paths[-1])
    return paths


def same(first, second):
    """Whether two results of one kind say the same, up to rounding."""
    assert type(first) is type(second) and first.size == second.size
    if isinstance(first, Classification):
        assert first.classes == second.classes
        return first.probabilities == pytest.approx(second.probabilities, rel=1e-4)
    if isinstance(first, LabelMap):
        return (first.values != second.values).mean() < 1e-2
    assert (first.labels == second.labels).all()
    assert first.masks.shape == second.masks.shape == (len(first), *first.size)
    return np.allclose(first.boxes, second.boxes, atol=1e-2) and np.allclose(first.scores, second.scores, atol=1e-4)


def as_tensor(array):
    return torch.from_numpy(array.copy()).permute(2, 0, 1)


FORMS = {
    "path": lambda path: str(path),
    "picture": Image.open,
    "array": lambda path: np.asarray(Image.open(path)),
    "tensor": lambda path: as_tensor(np.asarray(Image.open(path))),
    "float tensor": lambda path: as_tensor(np.asarray(Image.open(path))).float() / 255,
}


@pytest.mark.parametrize("kind", KINDS)
def test_whatever_an_image_is_given_as_it_is_the_same(runs, files, kind):
    options = {"threshold": 0.0} if kind == "finder" else {}
    predictor = Predictor(runs / kind, device="cpu", **options)
    alone = [next(iter(predictor(path))) for path in files]
    assert all(type(found) is KINDS[kind] and found.index == 0 for found in alone)
    mixed = Predictor(runs / kind, device="cpu", batch_size=4, **options)
    given = [(index, form, make(files[index])) for index in range(len(files)) for form, make in FORMS.items()]
    found = sorted(mixed([each for _, _, each in given]), key=lambda result: result.index)
    assert [result.index for result in found] == list(range(len(given)))
    for (index, form, _), result in zip(given, found, strict=True):
        assert same(alone[index], result), (index, form)
        assert result.path == (files[index] if form == "path" else None)
        json.dumps(result.to_dict())
        assert result.draw().mode == "RGB"
    in_folder = sorted(predictor(files[0].parent), key=lambda result: result.path)
    assert all(same(one, other) for one, other in zip(alone, in_folder, strict=True))


def test_pictures_are_turned_upright_and_laid_on_white_as_files_are(runs, tmp_path):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(pixels(40, 70)).save(tmp_path / "turned.jpg", exif=exif)
    alpha = np.concatenate([pixels(30, 20), pixels(30, 20, 1)[..., :1]], axis=2)
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    grey = pixels(30, 20)[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    predictor = Predictor(runs / "classifier", device="cpu")
    paths = [tmp_path / name for name in ("turned.jpg", "alpha.png", "alpha.png", "grey.png", "grey.png")]
    found = sorted(predictor(paths), key=lambda result: result.index)
    given = [Image.open(paths[0]), Image.open(paths[1]), as_tensor(alpha), grey, as_tensor(grey[..., None])]
    others = sorted(predictor(given), key=lambda result: result.index)
    assert found[0].size == (70, 40)
    assert all(same(one, other) for one, other in zip(found, others, strict=True))


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_read_is_a_value_among_the_results(runs, files, tmp_path, kind):
    (tmp_path / "torn.png").write_bytes(files[0].read_bytes()[:90])
    given = [files[0], tmp_path / "torn.png", torch.full((3, 5, 5), 2.0), torch.full((3, 5, 5), float("nan")), files[1]]
    predictor = Predictor(runs / kind, device="cpu")
    numbered = dict(predictor.numbered(given))
    assert [isinstance(numbered[place], Unreadable) for place in range(5)] == [False, True, True, True, False]
    assert numbered[1].path == tmp_path / "torn.png" and "torn" not in numbered[1].reason
    assert numbered[2].path == "input 2" and "from 2 to 2; allowed in floating point: 0 to 1" in numbered[2].reason
    assert numbered[1].to_dict().keys() == {"path", "reason"}
    strict = Predictor(runs / kind, device="cpu", strict=True)
    with pytest.raises(UnreadableImageError, match="torn.png"):
        list(strict(given[:2]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["absent.png"], "no such file"),
        ([3], "input 0 is a int"),
        ([np.zeros((4, 4, 3), np.float64)], r"\(4, 4, 3\) float64; allowed: a path"),
        (np.zeros((2, 4, 4, 3), np.uint8), r"\(2, 4, 4, 3\) uint8"),
        (torch.zeros(1, 3, 4, 4), r"\(1, 3, 4, 4\) float32"),
        (torch.zeros(3, 4, 0), r"\(3, 4, 0\)"),
        (torch.zeros(3, 4, 4, dtype=torch.int64), "int64"),
        (torch.zeros(5, 4, 4), "with 1, 3, 4 channels"),
    ],
)
def test_what_is_no_image_is_refused_before_any_work(runs, given, message):
    predictor = Predictor(runs / "classifier", device="cpu")
    with pytest.raises(ValueError, match=message):
        predictor(given)  # without asking for a result


def test_models_in_memory_call_their_classes_by_number(runs, files):
    for kind in KINDS:
        model, info = load(runs / kind)
        found, named = (next(iter(Predictor(each)(files[0]))) for each in (model, runs / kind))
        if kind == "classifier":
            assert [info.classes[int(name)] for name in found.classes] == list(named.classes)
        assert kind == "classifier" or found.classes == tuple(map(str, range(len(info.classes))))
        with pytest.raises(ValueError, match="in training mode; use model.eval"):
            Predictor(model.train())
        with pytest.raises(ValueError, match="device is cpu, but the model is in memory"):
            Predictor(model.eval(), device="cpu")
    with pytest.raises(ValueError, match="a Linear is given; allowed: ViTAR, UpgradedViT, OnnxModel, OpenVinoModel, "):
        Predictor(torch.nn.Linear(2, 2).eval())


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("labeller", {"top_k": 3}, "top_k is given but has no effect on a Segmenter"),
        ("labeller", {"size": 32}, "size is given but has no effect"),
        ("finder", {"flip": True}, "flip is given but has no effect on a Detector"),
        ("finder", {"label_folder": "x"}, "label_folder is given"),
        ("classifier", {"window": 64}, "window is given but has no effect on a ViTAR"),
        ("classifier", {"size": 32, "short_side": 32}, "size is 32x32 and short_side is 32"),
        ("classifier", {"top_k": 0}, "top_k is 0"),
        ("classifier", {"device": "tpu"}, "tpu"),
        ("absent", {}, "holds no saved model"),
    ],
)
def test_bad_options_are_refused(runs, kind, options, message):
    with pytest.raises(ValueError, match=message):
        Predictor(runs / kind, **options)


@pytest.mark.parametrize("form", ["tiff", "array", "picture"])
def test_a_classifier_sees_huge_images_piece_by_piece(runs, tmp_path, form, monkeypatch):
    image = pixels(83, 61)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", tile=(16, 16))
    given = {"tiff": tmp_path / "x.tif", "array": image, "picture": Image.fromarray(image)}[form]
    whole = next(iter(Predictor(runs / "classifier", device="cpu")(image)))
    seen = []
    monkeypatch.setattr(
        "anyres.predict.classifier.stream",
        lambda model, source, progress: seen.append(source.size) or stream(model, source, positions=6),
    )
    (found,) = Predictor(runs / "classifier", device="cpu", max_pixels=999)(given)
    assert same(whole, found) and seen == [(83, 61)] and found.draw().width > 61
    (refused,) = Predictor(runs / "classifier", device="cpu", max_pixels=999, size=32)(given)
    assert "83x61 pixels are 5063; allowed: 999" in refused.reason
    model = create_model("deit_tiny_patch16", width=16, heads=2, depth=1, patch_size=8, num_classes=2).eval()
    (refused,) = Predictor(model, max_pixels=999)(given)
    assert "allowed: 999 (max_pixels)" in refused.reason


@pytest.mark.parametrize("kind", ["labeller", "finder"])
@pytest.mark.parametrize("form", ["tiff", "array"])
def test_huge_images_are_seen_by_the_windows_that_whole_ones_may_be(runs, tmp_path, kind, form):
    image = pixels(150, 97)
    tifffile.imwrite(tmp_path / "x.tif", image, photometric="rgb", tile=(16, 16), compression="zlib")
    options = {"window": (64, 48), "device": "cpu"} | ({"threshold": 0.0} if kind == "finder" else {})
    (whole,) = Predictor(runs / kind, **options)(image)
    (huge,) = Predictor(runs / kind, **options, max_pixels=99)(image if form == "array" else tmp_path / "x.tif")
    assert same(whole, huge) and whole.window == huge.window == (64, 48)
    assert huge.to_dict()["window"] == [64, 48] and huge.draw().width >= 97


def test_label_maps_of_huge_images_are_written_if_there_is_a_folder(runs, tmp_path):
    for name in ("x", "y"):
        tifffile.imwrite(tmp_path / f"{name}.tif", pixels(90, 64), photometric="rgb", tile=(16, 16))
    options = {"window": 24, "max_pixels": 99, "device": "cpu"}
    (held,) = Predictor(runs / "labeller", **options)(tmp_path / "x.tif")
    folder = tmp_path / "new" / "out"
    (written,) = Predictor(runs / "labeller", **options, label_folder=folder)(tmp_path / "x.tif")
    assert written.values is None and written.file == folder / "x.tif" and held.file is None
    assert (tifffile.imread(folder / "x.tif") == held.values).all() and held.shares == written.shares
    assert held.first == 1 and held.values.min() >= 1  # 0 is for pixels without a class
    assert np.array_equal(np.asarray(held.draw()), np.asarray(written.draw()))
    assert sum(held.shares.values()) == pytest.approx(1)
    (given,) = Predictor(runs / "labeller", **options, label_folder=folder)(pixels(90, 64))
    assert given.file == folder / "input 0.tif" and given.shares == held.shares
    (tmp_path / "more").mkdir()
    (tmp_path / "x.tif").rename(tmp_path / "more" / "y.tif")
    with pytest.raises(ValueError, match="y.tif and .*y.tif would both be written to"):
        Predictor(runs / "labeller", **options, label_folder=folder)([tmp_path / "y.tif", tmp_path / "more" / "y.tif"])


def test_a_memory_budget_is_kept_for_what_is_in_memory_too(runs):
    with pytest.raises(ValueError, match="input 1: memory_budget is 70MB, but an image of 2000x2000 pixels by windows"):
        Predictor(runs / "labeller", device="cpu", memory_budget="70MB")([pixels(9, 9), pixels(2000, 2000)])


def test_objects_in_the_formats_of_others(runs, monkeypatch):
    image = pixels(100, 130)
    (found,) = Predictor(runs / "finder", device="cpu", threshold=0.0)(image)
    assert len(found) == len(found.boxes) == len(found.scores) == len(found.names) > 0
    assert found.names == [("x", "y", "z")[label] for label in found.labels]
    results = found.to_coco(7)
    assert {each["image_id"] for each in results} == {7} and {each["image_id"] for each in found.to_coco()} == {0}
    for place, each in enumerate(results):
        assert each["category_id"] == (5, 6, 9)[found.labels[place]]
        x, y, width, height = each["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(found.boxes[place].tolist(), abs=1e-4)
        assert (decode_mask(each["segmentation"], (100, 130)) == found.masks[place]).all()
    given = found.to_dict()["detections"]
    assert [each["class"] for each in given] == found.names and given[0]["box"] == found.boxes[0].tolist()
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(ImportError, match="to_supervision needs the package supervision: pip install supervision"):
        found.to_supervision()
    there = types.SimpleNamespace(Detections=lambda **fields: fields)
    monkeypatch.setitem(sys.modules, "supervision", there)
    fields = found.to_supervision()
    assert (fields["xyxy"] == found.boxes).all() and (fields["mask"] == found.masks).all()
    assert (fields["class_id"] == found.labels).all() and fields["data"]["class_name"].tolist() == found.names


def test_the_package_has_it():
    assert anyres.Predictor is Predictor
