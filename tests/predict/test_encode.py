"""Features on disk equal those of the model, image by image, wherever the work was cut."""

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import tyro
from PIL import Image

from anyres.data.decode import read_image
from anyres.data.transforms import to_tensor
from anyres.models.architectures import create_model
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save
from anyres.predict.encode import encode
from anyres.predict.encode_config import EncodeConfig
from anyres.streaming.records import INDEX, Records

SIZES = [(9, 30), (17, 17), (40, 23), (17, 17), (1, 1), (64, 5), (5, 9), (31, 31), (17, 17), (8, 8), (12, 13)]


def saved(folder, **options):
    torch.manual_seed(0)
    settings = {"width": 24, "heads": 2, "depth": 2, "patch_size": 4, "grid": (4, 3), "num_classes": 3}
    model = create_model("vitar_tiny_patch16", **(settings | options))
    save(folder, model, name=None, classes=("a", "b", "c"), training_sizes=[(16, 16)])
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("run"))


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    for index, size in enumerate(SIZES):
        path = folder / ("", "cat", "dog/near")[index % 3] / f"{index:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(index).integers(0, 256, (*size, 3), np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def config(run, out, inputs, **options):
    settings = {"shard_records": 4, "batch_size": 2, "device": "cpu"} | options
    return EncodeConfig(run=run, out=out, inputs=tuple(inputs), **settings)


def call(*arguments, **options):
    text = io.StringIO()
    return encode(config(*arguments, **options), file=text, progress=False), text.getvalue()


def alone(run, path):
    model, _ = load(run, ViTAR)
    with torch.no_grad():
        return model.forward_features(to_tensor(read_image(path), model.config.mean, model.config.std)[None]).tokens[0]


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(("dtype", "tolerance"), [("float16", 1e-3), ("bfloat16", 8e-3)])
def test_records_equal_the_model_one_by_one(run, images, tmp_path, dtype, tolerance):
    result, text = call(run, tmp_path / "out", [images], dtype=dtype)
    assert (result.records, result.shards, result.failures) == (len(SIZES), 3, [])
    assert "11 records in 3 shards" in text
    records = Records(tmp_path / "out")
    records.verify()
    paths = sorted(images.rglob("*.png"), key=lambda path: path.parts)
    assert sorted(records.sources) == sorted(map(str, paths))
    for index, source in enumerate(records.sources):
        record, expected = records.record(index), alone(run, source)
        assert record.tokens.dtype == getattr(torch, dtype) and record.grid == tuple(expected.shape[:2])
        assert torch.allclose(record.tokens.float(), expected, rtol=tolerance, atol=tolerance)
        below = Path(source).relative_to(images).parts
        assert record.label == (below[0] if len(below) > 1 else None)
        assert record.size == SIZES[int(Path(source).stem)]
    assert records.classes == ("cat", "dog") and records.grid == (4, 3)


def test_order_of_inputs_lists_and_sizes_asked_for(run, images, tmp_path):
    named = [images / "cat/04.png", images / "00.png"]
    listed = tmp_path / "list.txt"
    listed.write_text(f"{images / 'cat'}\n\n  {images / '00.png'}\n{images / 'dog/near/05.png'}\n")
    call(run, tmp_path / "out", named, list_file=listed, size="12x8")
    records = Records(tmp_path / "out")
    names = ["04", "00", "01", "07", "10", "05"]
    assert [Path(source).stem for source in records.sources] == names
    assert records.labels == [None] * 6  # the folder `cat` is the input, its images lie in no folder below it
    assert [records.record(i).grid for i in range(6)] == [(3, 2)] * 6
    assert [records.record(i).size for i in range(6)] == [SIZES[int(name)] for name in names]


class Killed(Exception):
    pass


@pytest.mark.parametrize("dies_at", [1, 2, 3, 4, 5, 6])
def test_killed_and_resumed_equals_uninterrupted(run, images, tmp_path, monkeypatch, dies_at):
    (images / "cat/04.png").write_bytes(b"broken")
    call(run, tmp_path / "whole", [images])
    forward, calls = ViTAR.forward_features, []

    def dying(self, batch, keys=None):
        calls.append(len(batch))
        if len(calls) == dies_at:
            raise Killed
        return forward(self, batch, keys)

    with monkeypatch.context() as patch:
        patch.setattr(ViTAR, "forward_features", dying)
        with pytest.raises(Killed):
            call(run, tmp_path / "part", [images])
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "part").glob("*.safetensors")}
    assert len(kept) == {1: 0, 2: 0, 3: 1, 4: 1, 5: 2, 6: 2}[dies_at]
    result, text = call(run, tmp_path / "part", [images])
    assert content(tmp_path / "part") == content(tmp_path / "whole")
    if dies_at == 3:  # one shard was full, and is not touched again
        assert all(path.stat().st_mtime_ns == time for path, time in kept.items())
    assert (result.records, len(result.failures)) == (10, 1) and "1 of 11 files" in text


def test_a_finished_folder_is_left_alone(run, images, tmp_path, monkeypatch):
    call(run, tmp_path / "out", [images])
    before = content(tmp_path / "out")
    monkeypatch.setattr(ViTAR, "forward_features", None)
    result, _ = call(run, tmp_path / "out", [images])
    assert content(tmp_path / "out") == before and result.records == 11


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("dtype: float16 there, bfloat16 here", {"dtype": "bfloat16"}),
        ("size: None there, 8x8 here", {"size": "8"}),
        ("short_side: None there, 8 here", {"short_side": 8}),
        ("shard_records: 4 there, 3 here", {"shard_records": 3}),
        ("stream_pixels: 67108864 there, 999 here", {"stream_pixels": 999}),
    ],
)
def test_other_settings_are_refused_by_name(run, images, tmp_path, name, changes):
    call(run, tmp_path / "out", [images / "cat"])
    before = content(tmp_path / "out")
    with pytest.raises(ValueError, match=name):
        call(run, tmp_path / "out", [images / "cat"], **changes)
    assert content(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("options", "written"), [({}, None), ({"short_side": 8}, "8"), ({"size": "8x12"}, "8x12"), ({"size": "8"}, "8X8")]
)
def test_records_of_before_short_sides_were_told_from_sizes_go_on(run, images, tmp_path, options, written):
    torn = images / "cat/04.png"
    torn.write_bytes(b"torn")
    call(run, tmp_path / "out", [images], **options)
    after, path = content(tmp_path / "out"), tmp_path / "out" / INDEX
    index = json.loads(path.read_text())
    del index["settings"]["short_side"]
    index["settings"]["size"] = written
    for failure in index["failures"]:
        failure |= {"source": failure["path"], "error": f"{failure.pop('path')}: {failure.pop('reason')}"}
    path.write_text(json.dumps(index, indent=1) + "\n")
    assert Records(tmp_path / "out").failures[0]["path"] == str(torn)
    result, _ = call(run, tmp_path / "out", [images], **options)
    assert content(tmp_path / "out") == after and result.failures[0].path == str(torn)
    index["settings"]["size"] = "9"
    path.write_text(json.dumps(index))
    with pytest.raises(ValueError, match="short_side: 9 there, "):
        call(run, tmp_path / "out", [images], **options)


def test_another_model_and_other_files_are_refused_by_name(run, images, tmp_path):
    call(run, tmp_path / "out", [images / "cat"])
    with pytest.raises(ValueError, match="other settings .model: "):
        call(saved(tmp_path / "other", mlp_ratio=2.0), tmp_path / "out", [images / "cat"])
    with pytest.raises(ValueError, match="other settings .inputs: .*'files': 4.*'files': 5"):
        call(run, tmp_path / "out", [images / "cat", images / "00.png"])
    Image.new("RGB", (50, 50)).save(images / "cat/04.png")
    with pytest.raises(ValueError, match="other settings .inputs: "):
        call(run, tmp_path / "out", [images / "cat"])


def test_files_that_could_not_be_read_are_tried_again_and_come_last(run, images, tmp_path):
    contents = {name: (images / name).read_bytes() for name in ("00.png", "cat/04.png", "dog/near/08.png")}
    for name, bytes_there in contents.items():
        (images / name).write_bytes(bytes(len(bytes_there)))  # a repaired file of another length is another input
    first, _ = call(run, tmp_path / "out", [images])
    before = content(tmp_path / "out")
    second, text = call(run, tmp_path / "out", [images])
    assert second == first and len(first.failures) == 3 and content(tmp_path / "out") == before
    assert "the same command tries them again" in text
    for name in ("00.png", "dog/near/08.png"):
        (images / name).write_bytes(contents[name])
    third, _ = call(run, tmp_path / "out", [images])
    assert (third.records, [Path(source).stem for source, _ in third.failures]) == (10, ["04"])
    records = Records(tmp_path / "out")
    records.verify()
    assert [Path(source).stem for source in records.sources[-2:]] == ["00", "08"]
    assert records.failures[0]["path"] == str(images / "cat/04.png")
    for index, source in enumerate(records.sources):
        assert torch.allclose(records.record(index).tokens.float(), alone(run, source), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("pixels", "done"), [(1000, 4), (10**9, 0)])
def test_a_kill_costs_few_pixels(run, images, tmp_path, monkeypatch, pixels, done):
    monkeypatch.setattr("anyres.predict.encode_inputs._PORTION_PIXELS", pixels)
    monkeypatch.setattr("anyres.predict.encode_inputs._LEAST_PIXELS", 100)
    forward, calls = ViTAR.forward_features, []

    def dying(self, batch, keys=None):
        calls.append(len(batch))
        if len(calls) == 6:
            raise Killed
        return forward(self, batch, keys)

    options = {"shard_records": 100, "batch_size": 1}
    with monkeypatch.context() as patch:
        patch.setattr(ViTAR, "forward_features", dying)
        with pytest.raises(Killed):
            call(run, tmp_path / "part", [images], **options)
    # 270 + 289 + 100 + 144 | 289 + 320 + 100 + ... pixels, in the order of the files
    assert json.loads((tmp_path / "part" / INDEX).read_text())["inputs_done"] == done
    call(run, tmp_path / "part", [images], **options)
    call(run, tmp_path / "whole", [images], **options)
    assert content(tmp_path / "part") == content(tmp_path / "whole")


def test_unreadable_files_are_listed(run, images, tmp_path):
    for name in ("00.png", "cat/04.png", "dog/near/08.png"):
        path = images / name
        path.write_bytes(path.read_bytes()[: 40 if name == "00.png" else 12])
    result, text = call(run, tmp_path / "out", [images], shard_records=3)
    failed = [str(images / name) for name in ("00.png", "cat/04.png", "dog/near/08.png")]
    assert [source for source, _ in result.failures] == failed
    assert "3 of 11 files could not be read" in text and all(text.count(source) == 1 for source in failed)
    written = json.loads((tmp_path / "out" / INDEX).read_text())["failures"]
    assert [entry["path"] for entry in written] == failed and all(entry["reason"] for entry in written)
    records = Records(tmp_path / "out")
    assert (len(records), result.shards) == (8, 3) and not set(failed) & set(records.sources)
    only, _ = call(run, tmp_path / "none", [images / "00.png"])
    assert (only.records, only.shards, len(only.failures)) == (0, 0, 1) and len(Records(tmp_path / "none")) == 0


def test_tokens_beyond_float16_are_failures(images, tmp_path):
    run = saved(tmp_path / "run")
    model, info = load(run, ViTAR)
    with torch.no_grad():
        model.trunk.norm.weight.fill_(1e6)
    save(run, model, name=None, classes=info.classes, training_sizes=info.training_sizes)
    result, text = call(run, tmp_path / "half", [images / "00.png"])
    assert result.records == 0 and "not finite in float16; bfloat16 has the range of float32" in text
    assert call(run, tmp_path / "brain", [images / "00.png"], dtype="bfloat16")[0].records == 1


def test_shards_have_256_megabytes_by_default(run, images, tmp_path):
    call(run, tmp_path / "out", [images / "00.png"], shard_records=None)
    assert Records(tmp_path / "out").settings["shard_records"] == 4096
    call(saved(tmp_path / "large", grid=(200, 100)), tmp_path / "few", [images / "00.png"], shard_records=None)
    assert Records(tmp_path / "few").settings["shard_records"] == 2**28 // (200 * 100 * 24 * 2) == 279


@pytest.mark.parametrize("merger", ["grid_attention", "average"])
def test_grids_that_follow_the_images_fit_one_record(images, tmp_path, merger):
    run = saved(tmp_path / "run", merger=merger, grid_shape="aspect")  # 12 tokens, at most 13
    call(run, tmp_path / "out", [images])
    call(run, tmp_path / "streamed", [images], stream_pixels=300)
    call(run, tmp_path / "one", [images], size="16x64")
    records, streamed, one = (Records(tmp_path / name) for name in ("out", "streamed", "one"))
    records.verify()
    assert records.grid == (1, 13) and one.grid == (2, 6) == one.record(0).grid
    grids = set()
    for index, source in enumerate(records.sources):
        expected = alone(run, source)
        for found in (records.record(index), streamed.record(index)):
            assert found.grid == tuple(expected.shape[:2])
            assert torch.allclose(found.tokens.float(), expected, rtol=2e-3, atol=2e-3)
        grids.add(found.grid)
    assert len(grids) >= 5


def test_a_grid_that_grows_needs_one_size(images, tmp_path):
    run = saved(tmp_path / "run", merger="none", position="learned", jitter=0.5, last_pass=True)
    for short_side in (None, 16):
        with pytest.raises(ValueError, match="merger 'none'.*one size for all images, such as 224x224"):
            call(run, tmp_path / "out", [images], short_side=short_side)
    assert not (tmp_path / "out").exists()
    call(run, tmp_path / "out", [images], size="12x20")
    records = Records(tmp_path / "out")
    assert records.grid == (3, 5) and {records.record(i).grid for i in range(len(records))} == {(3, 5)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"inputs": ()}, "no inputs given"),
        ({"shard_records": 0}, "shard_records is 0; allowed: 1 and more"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"dtype": "float32"}, "dtype 'float32'.*Did you mean"),
        ({"size": "big"}, "'big' as a size"),
        ({"device": "tpu"}, "tpu"),
        ({"stream_pixels": 0}, "stream_pixels is 0"),
        ({"stream_pixels": 2**30}, "stream_pixels is 1073741824; allowed: 1 to"),
        ({"stream_pixels": 9, "size": "224"}, "stream_pixels is 9, but it has no effect, because with size=224"),
        ({"stream_pixels": 9, "short_side": 224}, "no effect, because with short_side=224"),
        ({"size": "9", "short_side": 9}, "size is 9 and short_side is 9; allowed: one of them"),
    ],
)
def test_bad_settings(run, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        EncodeConfig(**{"run": run, "out": tmp_path, "inputs": (tmp_path,), **options})


def test_bad_lists(run, images, tmp_path):
    for text, message in (("\n \n", "is empty"), (None, "cannot be read"), ("absent.png\n", "no such file")):
        path = tmp_path / "list.txt"
        path.write_text(text) if text else path.unlink(missing_ok=True)
        with pytest.raises(ValueError, match=message):
            call(run, tmp_path / "out", [], list_file=path)
    assert not (tmp_path / "out").exists()


def test_the_command_line(run, tmp_path):
    parsed = tyro.cli(EncodeConfig, args=["a.png", "b", "--run", "r", "--out", "o", "--list", "l.txt"])
    assert parsed == EncodeConfig(
        inputs=(Path("a.png"), Path("b")), run=Path("r"), out=Path("o"), list_file=Path("l.txt")
    )
