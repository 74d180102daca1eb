"""One ONNX file for every size: its answers are the model's, whatever the model, and what it cannot do is refused."""

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer

import anyres
from anyres.cli import main
from anyres.exporting.exported import KINDS, OnnxModel
from anyres.exporting.verify import TOLERANCE, compare, draw_sizes, table

SMALL = {"width": 24, "depth": 2, "heads": 2, "patch_size": 4, "grid": (3, 5), "num_classes": 7}
LARGEST = 230  # three levels, or four


@torch.no_grad()
def noisy(model):
    torch.manual_seed(0)
    for parameter in model.parameters():
        parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


def make(name="anyres_tiny_patch16", **options):
    return noisy(anyres.create_model(name, **{**SMALL, **options}))


MODELS = [
    ("anyres_tiny_patch16", {"stem": "conv", "full_levels": 1}),
    ("vitar_tiny_patch16", {"position": "sincos", "grid_shape": "aspect", "prefix_tokens": 1, "pool": "token"}),
    ("anyres_tiny_patch16", {"cells": "2x2", "grid_shape": "fixed"}),
]
MORE = [
    ("anyres_tiny_patch16", {"grid": 14, "patch_size": 2}),
    ("anyres_tiny_patch16", {"grid_shape": "fixed", "last_pass": False, "num_classes": 0}),
    ("anyres_tiny_patch16", {"cells": "1x1", "grid_shape": "fixed"}),
    ("vitar_tiny_patch16", {"stem": "conv"}),
    ("vitar_tiny_patch16", {"cells": "2x2"}),
    ("vitar_tiny_patch16", {"cells": "1x1"}),
    ("vitar_tiny_patch16", {"position": "learned", "interpolation": "bicubic", "in_channels": 1, "last_pass": False}),
    ("vitar_tiny_patch16", {"position": "none", "grid": (1, 1)}),
    ("deit_tiny_patch16", {"grid": (4, 4)}),
]


CASES = [(*each, ending) for each in [*MODELS, *MORE] for ending in (".onnx", ".xml")]
QUICK = [(*each, ".onnx") for each in MODELS]


@pytest.mark.parametrize(
    ("name", "options", "ending"),
    [each if each in QUICK else pytest.param(*each, marks=pytest.mark.slow) for each in CASES],
)
def test_the_file_is_the_model(name, options, ending, tmp_path):
    model = make(name, **options)
    found = anyres.export(model, tmp_path / f"model{ending}", largest=LARGEST, verify=50, verify_pixels=LARGEST**2)
    assert len(found) == 50 and max(each.worst for each in found) < TOLERANCE
    assert {(1, 1), (LARGEST, 1), (1, LARGEST), (LARGEST, LARGEST)} <= {each.size for each in found}
    assert {each.batch for each in found} == {1, 2, 3} and ("logits" in found[0].of) == (model.num_classes > 0)


@pytest.mark.slow
@pytest.mark.parametrize("start", ["resized", "merged"])
def test_of_an_upgraded_vit(start, tmp_path):
    vit = VisionTransformer(
        img_size=16, patch_size=4, num_classes=5, embed_dim=24, depth=2, num_heads=2, init_values=0.1, reg_tokens=2,
        qk_norm=True, global_pool="avg",
    )  # fmt: skip
    model = noisy(anyres.upgrade(noisy(vit), start=start))
    found = anyres.export(model, tmp_path / "model.onnx", largest=LARGEST, verify_pixels=30000)
    assert max(each.worst for each in found) < TOLERANCE


def write(model, path):
    uint8 = path.stem == "whole"
    anyres.export(model, path, classes=["ant", "bee", "cat"], largest=100, uint8=uint8, verify=12, verify_pixels=4000)


@pytest.fixture(scope="module")
def in_openvino(written):
    """The same files by OpenVINO. For slow tests alone: see docs/log.md, where a process that has used it crashed."""
    for name in ("plain.xml", "whole.xml"):
        write(anyres.load(written / "run")[0].eval(), written / name)
    return written


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    model = make(num_classes=3)
    anyres.save(folder / "run", model, name=None, classes=["ant", "bee", "cat"], training_sizes=[(16, 16)])
    for name in ("plain.onnx", "whole.onnx"):
        write(model, folder / name)
    draw = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number, size in enumerate([(30, 41), (7, 90), (100, 100), (1, 1), (16, 16)]):
        Image.fromarray(draw.integers(0, 256, (*size, 3), np.uint8)).save(folder / "photos" / f"{number}.png")
    Image.new("RGB", (101, 5)).save(folder / "photos" / "long.png")
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain.xml", "whole.xml"])
def test_a_file_of_openvino_predicts_as_its_run(in_openvino, name):
    test_a_file_predicts_as_its_run(in_openvino, name)


@pytest.mark.parametrize("name", ["plain.onnx", "whole.onnx"])
def test_a_file_predicts_as_its_run(written, name):
    one, other = (
        sorted(anyres.Predictor(written / each)(written / "photos"), key=lambda found: Path(found.path).name)
        for each in ("run", name)
    )
    assert one[5].classes and "beyond the limit of" in str(other[5].reason) and "largest=101" in str(other[5].reason)
    for mine, theirs in zip(one[:5], other[:5], strict=True):
        assert (mine.path, mine.size, mine.classes) == (theirs.path, theirs.size, theirs.classes)
        np.testing.assert_allclose(mine.probabilities, theirs.probabilities, atol=1e-5)


def test_what_a_file_says_of_itself(written):
    session = onnxruntime.InferenceSession(written / "whole.onnx")
    said = session.get_modelmeta().custom_metadata_map
    assert json.loads(said["classes"]) == ["ant", "bee", "cat"] and said["largest_side"] == "100"
    assert json.loads(said["mean"]) == [0.485, 0.456, 0.406] and said["input"] == "uint8 from 0 to 255"
    [given] = session.get_inputs()
    assert (given.name, given.type, given.shape) == ("images", "tensor(uint8)", ["batch", 3, "height", "width"])
    assert [each.name for each in session.get_outputs()] == ["logits", "pooled", "tokens"]


def test_the_graph_itself_refuses_what_is_beyond_its_limit(written):
    session = onnxruntime.InferenceSession(written / "plain.onnx")
    for size in ((101, 5), (5, 101)):
        with pytest.raises(Exception, match="image_beyond_the_limit_of_this_file"):
            session.run(None, {"images": np.zeros((1, 3, *size), np.float32)})
    assert session.run(None, {"images": np.zeros((1, 3, 100, 100), np.float32)})[0].shape == (1, 3)


@pytest.mark.parametrize(
    ("name", "kind"), [("model.onnx", "dynamic"), *(pytest.param(f"model{ending}", "static", marks=pytest.mark.slow)
                                                   for ending in (".onnx", ".xml"))],
)  # fmt: skip
def test_the_command_writes_compares_and_quantises(name, kind, written, tmp_path, capsys):
    out, photos = tmp_path / "new" / name, str(written / "photos")
    arguments = ["--largest", "100", "--verify", "7", "--verify-pixels", "3000", "--int8", kind, "--data", photos]
    calibration = ["--calibration", photos] if kind == "static" else []
    command = [sys.executable, "-m", "anyres", "export", str(written / "run"), "-o", str(out), *arguments, *calibration]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the worst of 7 sizes of up to 2" in done.stderr and "images of up to 100 pixels a side" in done.stdout
    small = out.with_name(f"model-int8{out.suffix}")
    assert small.name in done.stdout and "on 5 images the same class" in done.stdout  # the sixth is beyond the limit
    plain, eights = (anyres.Predictor(path, top_k=3)(written / "photos" / "2.png") for path in (out, small))
    [one], [other] = (dict(zip(each.classes, each.probabilities, strict=True)) for each in plain), (
        dict(zip(each.classes, each.probabilities, strict=True)) for each in eights
    )  # fmt: skip
    assert 0 < max(abs(one[key] - other[key]) for key in one) < 0.05
    for more, text in (
        (["--float16", "--int8", "dynamic", "--data", photos], "float16 and int8 are given; allowed: one of them"),
        (["--int8", "static", "--data", photos], "int8=static needs calibration"),
        (["--int8", "dynamic"], "int8 needs data"),
    ):
        with pytest.raises(SystemExit):
            main(["export", str(written / "run"), "-o", str(out), *more])
        assert text in capsys.readouterr().err
    assert sorted(path.suffix for path in out.parent.iterdir()) == sorted(
        [out.suffix, *(".bin",) * (out.suffix == ".xml")] * 2
    )


@pytest.mark.slow
def test_accuracy_is_told_where_folders_are_classes(in_openvino, tmp_path):
    written = in_openvino
    from anyres.predict.quantized import compare_quantized

    photos = sorted((written / "photos").glob("?.png"))
    found = {Path(each.path).name: each.classes[0] for each in anyres.Predictor(written / "run")(photos)}
    for number, photo in enumerate(photos):
        folder = tmp_path / ("ant" if number == 0 else found[photo.name])
        folder.mkdir(exist_ok=True)
        (folder / photo.name).write_bytes(photo.read_bytes())
    right = 100 if found[photos[0].name] == "ant" else 80
    said = compare_quantized(written / "plain.onnx", written / "plain.xml", tmp_path)
    assert f"right {right}.0 % instead of {right}.0 %" in said and "the same class 100.0 %" in said
    assert "right" not in compare_quantized(written / "plain.onnx", written / "plain.xml", written / "photos")


def test_dynamic_quantisation_leaves_products_within_cells(written):
    from anyres.exporting.quantize import quantize_dynamic

    quantize_dynamic(written / "plain.onnx", written / "dynamic.onnx")
    names = {node.name for node in onnx.load(written / "dynamic.onnx").graph.node}
    assert any(name.startswith("level_2/") and name.endswith("_quant") for name in names)
    assert not any("cells/" in name and name.endswith("_quant") for name in names)


@pytest.mark.slow
def test_levels_beyond_the_calibration_images_are_left_as_they_are(written):
    code = """
import sys
import numpy as np
from pathlib import Path
from anyres.exporting.quantize import quantize_static
draw, folder = np.random.default_rng(0), Path(sys.argv[1])
images = [draw.standard_normal((1, 3, 9, side)).astype(np.float32) for side in (17, 25, 40)]
quantize_static(folder / "plain.onnx", folder / "static.onnx", images, levels=1)
"""
    subprocess.run([sys.executable, "-c", code, str(written)], check=True)
    nodes = onnx.load(written / "static.onnx").graph.node
    made_of = {name: node.op_type for node in nodes for name in node.output}
    eights = {
        node.name for node in nodes
        if node.op_type == "MatMul" and made_of.get(node.input[0]) == "DequantizeLinear"
    }  # fmt: skip
    assert any(name.startswith("trunk/") for name in eights) and any(name.startswith("level_1/") for name in eights)
    assert not any(name.startswith("level_2/") or "cells/" in name for name in eights)


@pytest.mark.parametrize("uint8", [False, True])
def test_weights_of_16_bits(uint8, tmp_path):
    """The file is the model so rounded, which is near the model itself, and half as large."""
    model = make(width=96, heads=4)
    options = {"largest": 60, "verify": 20, "verify_pixels": 2000, "uint8": uint8}
    for name, float16 in (("whole", False), ("half", True)):
        anyres.export(model, tmp_path / f"{name}.onnx", float16=float16, **options)
    whole, half = ((tmp_path / f"{name}.onnx").stat().st_size for name in ("whole", "half"))
    assert 0.5 * whole < half < 0.65 * whole
    [difference] = compare(model, OnnxModel(tmp_path / "half.onnx").run, [(33, 50)], uint8=uint8)
    assert 1e-5 < difference.worst < 3e-3
    with torch.no_grad():
        model.head.weight[0, 0] = 1e6
    with pytest.raises(ValueError, match="weights that 16 bits do not hold; leave float16 out"):
        anyres.export(model, tmp_path / "more.onnx", float16=True)
    with pytest.raises(ValueError, match=r"float16 is given but is for \.onnx alone"):
        anyres.export(model, tmp_path / "more.xml", float16=True)


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".onnx", ".xml"])
def test_the_first_answer_is_as_right_as_the_next(ending, in_openvino):
    """Of OpenVINO 2026.4 it was memory that nobody had written, as long as the file had branches."""
    written = in_openvino
    model, _ = anyres.load(written / "run")
    for size in [(1, 1), (2, 1), (16, 16), (1, 50), (100, 100)]:
        file = KINDS[ending](written / f"plain{ending}")
        assert max(each.worst for each in compare(model.eval(), file.run, [size, size])) < TOLERANCE


def test_memory_is_given_back_after_large_images(written):
    """A runtime keeps what the largest image needed until one of less than a quarter of its pixels."""
    file = OnnxModel(written / "plain.onnx")
    given = []
    run = file.session.run
    file.session = type("Session", (), {"run": staticmethod(lambda *a: (given.append(a[2] is not None), run(*a))[1])})
    for side in (40, 20, 19, 19, 100, 60, 49, 30, 24, 24):
        file.run(torch.zeros(1, 3, side, side))
    assert given == [False, False, True, False, False, False, True, False, True, False]


def test_classes_without_names_are_called_by_number(tmp_path):
    model = make(num_classes=3)
    anyres.export(model, tmp_path / "model.onnx", largest=50, verify=0)
    [found] = anyres.Predictor(tmp_path / "model.onnx")([torch.rand(3, 9, 20)])
    assert sorted(found.classes) == ["0", "1", "2"]


def test_idle_levels_cost_next_to_nothing(written):
    """A level without anything to merge works on a single row of cells, however many the image has."""
    model = make(patch_size=2)
    products = []
    for largest in (24, 120):
        anyres.export(model, written / "levels.onnx", largest=largest, verify=0)
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.profile_file_prefix = True, str(written / "profile")
        session = onnxruntime.InferenceSession(written / "levels.onnx", options)
        session.run(None, {"images": np.zeros((1, 3, 24, 24), np.float32)})
        shapes = {}
        for event in json.loads(Path(session.end_profiling()).read_text()):
            found = event.get("args", {})
            if found.get("op_name") in ("MatMul", "Gemm", "FusedMatMul"):
                [made] = found["output_type_shape"][0].values()
                scope = event["name"].split("/")[0]
                shapes.setdefault(scope if scope.startswith("level_") else "else", []).append(math.prod(made))
        products.append({scope: sum(each) for scope, each in shapes.items()})
    few, many = products
    assert set(few) == {"level_1", "level_2", "level_3", "else"}  # the last is for narrow images
    assert set(many) - set(few) == {"level_4", "level_5", "level_6"}
    assert many["level_6"] == many["level_5"] == many["level_4"] == many["level_3"] < 0.3 * few["level_2"]
    assert few == {scope: many[scope] for scope in few}


def test_a_file_that_differs_is_not_written(tmp_path, monkeypatch):
    model = make()
    (tmp_path / "model.onnx").write_text("mine")
    monkeypatch.setattr("anyres.exporting.to_onnx._Writer._deep_weight", lambda self, merges: self.g.constant(0.7))
    with pytest.raises(ValueError, match=r"would not be the model, so it was not written:\n +height x width"):
        anyres.export(model, tmp_path / "model.onnx", largest=100, verify=12, verify_pixels=9000)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert (tmp_path / "model.onnx").read_text() == "mine"


@pytest.mark.parametrize(
    ("name", "options", "text"),
    [
        ("deit_tiny_patch16", {"grid": (4, 4), "tome": 2}, "tome=2"),
        ("vitar_tiny_patch16", {"merger": "concat"}, "merger='concat'.*pyramid"),
        ("vitar_tiny_patch16", {"padding": "zeros"}, 'padding="zeros".*allowed: padding="masked"'),
        ("vitar_tiny_patch16", {"cells": "balanced"}, 'cells="balanced".*allowed: cells="halving"'),
        ("vitar_tiny_patch16", {"position": "relative_bias"}, "position='relative_bias'"),
        ("vitar_tiny_patch16", {"position": "conditional"}, "position='conditional'"),
        ("vitar_tiny_patch16", {"position": "conditional", "placement": "trunk"}, "position='conditional'"),
        ("vitar_tiny_patch16", {"window": 2, "global_blocks": (1,)}, "window=2"),
        ("vitar_tiny_patch16", {"scale_query": True}, "scale_query"),
        ("vitar_tiny_patch16", {"learned_levels": 1}, "learned_levels"),
        ("vitar_tiny_patch16", {"position": "learned", "interpolation": "timm"}, 'interpolation="timm"'),
    ],
)
def test_a_model_that_cannot_be_is_refused(name, options, text, tmp_path):
    with pytest.raises(ValueError, match=f"a model with {text}"):
        anyres.export(make(name, **options), tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_layers_that_are_no_plain_ones_and_models_of_others_are_refused(tmp_path, monkeypatch):
    from anyres.integrations.timm import TimmViTAR

    for name in ("stem.proj", "merger.block.q", "merger.block.kv", "merger.block.mlp.fc2"):
        model = make()
        torch.nn.utils.parametrizations.weight_norm(model.get_submodule(name))
        with pytest.raises(ValueError, match="is no plain linear layer; merge its adapters"):
            anyres.export(model, tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="TimmViTAR has calls of its own"):
        anyres.export(TimmViTAR(make().config), tmp_path / "model.onnx")
    monkeypatch.setattr("anyres.exporting.exportable._MOST_BYTES", 1000)
    with pytest.raises(ValueError, match="more than one ONNX file holds"):
        anyres.export(make(), tmp_path / "model.onnx")


def test_bad_input(written, tmp_path):
    model = make()
    for options, text in (
        ({"largest": 0}, "largest is 0; allowed: whole numbers from 1 up"),
        ({"verify": -1}, "verify is -1"),
        ({"classes": ["a"]}, "there are 1 class names for 7 outputs"),
    ):
        with pytest.raises(ValueError, match=text):
            anyres.export(model, tmp_path / "model.onnx", **options)
    with pytest.raises(ValueError, match="allowed: a name that ends with .onnx or .xml"):
        anyres.export(model, tmp_path / "model.pt")
    with pytest.raises(ValueError, match="MaskedAutoencoder cannot be exported"):
        anyres.export(anyres.create_model("mae_vitar_tiny_patch16"), tmp_path / "model.onnx")
    with pytest.raises(ValueError, match="there is no file"):
        anyres.Predictor(tmp_path / "none.onnx")
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ValueError, match="onnxruntime .* cannot read"):
        anyres.Predictor(tmp_path / "text.onnx")
    for options, text in (({"memory_budget": "1GB"}, "no predicted costs"), ({"device": "cuda"}, "cuda")):
        with pytest.raises(ValueError, match=text):
            anyres.Predictor(written / "plain.onnx", **options)
    with pytest.raises(ValueError, match="an image of 101x5 pixels is beyond the limit"):
        OnnxModel(written / "plain.onnx").run(torch.zeros(1, 3, 101, 5))


def test_files_of_others_and_of_other_versions(written, tmp_path):
    made = onnx.load(written / "plain.onnx")
    for changed, text in ((None, "was not written by anyres"), ("99", "has format 99; this version reads 1")):
        properties = {each.key: each.value for each in made.metadata_props}
        properties["anyres_format"] = changed
        onnx.helper.set_model_props(made, {key: value for key, value in properties.items() if value is not None})
        onnx.save(made, tmp_path / "other.onnx")
        with pytest.raises(ValueError, match=f"{text}.*Export the model again"):
            anyres.Predictor(tmp_path / "other.onnx")


def test_sizes_that_are_drawn():
    sizes = draw_sizes(200, 1000, 10**5)
    assert sizes == draw_sizes(200, 1000, 10**5) and len(sizes) == 200 and sizes[0] == (1, 1)
    assert all(1 <= side <= 1000 for size in sizes for side in size)
    assert all(height * width <= 10**5 for height, width in sizes)
    ratios = [max(size) / min(size) for size in sizes]
    assert max(ratios[6:]) >= 30 and min(ratios) == 1


def test_the_table_shows_the_worst(written):
    model, _ = anyres.load(written / "run")
    file = OnnxModel(written / "plain.onnx")

    def wrong_at(images):
        found = file.run(images)
        return found if images.shape[-1] != 37 else {**found, "logits": found["logits"] + 1}

    found = compare(model.eval(), wrong_at, [(9, 9), (12, 37), (20, 20)])
    assert "12x37" in table(found).splitlines()[1] and found[1].worst > 0.01 > found[0].worst
