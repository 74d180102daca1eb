"""Huge images and files that only `open_source` reads, on their way to records: pieces, kills, failures, kinds."""

import importlib
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from anyres.data.tiff.source import TiffSource
from anyres.models.architectures import create_model
from anyres.models.vitar import ViTAR
from anyres.models.weights.files import load, save
from anyres.predict.encode import encode
from anyres.predict.encode_config import EncodeConfig
from anyres.streaming.reader import RegionReader
from anyres.streaming.records import INDEX, Records
from anyres.streaming.sources import open_source
from anyres.streaming.stream import stream
from anyres.streaming.unfinished import Unfinished

SIZES = [(9, 30), (40, 23), (17, 17), (31, 31), (5, 9), (64, 5)]  # 270, 920, 289, 961, 45, 320 pixels


@pytest.fixture(autouse=True)
def no_pause(monkeypatch):
    monkeypatch.setattr("anyres.streaming.reader._PAUSE", 0.0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("run")
    model = create_model("vitar_tiny_patch16", width=24, heads=2, depth=1, patch_size=4, grid=(4, 3), num_classes=2)
    save(folder, model, name=None, classes=("a", "b"), training_sizes=[(16, 16)])
    return folder


def pixels(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index, size in enumerate(SIZES):
        if index % 3 == 2:
            Image.fromarray(pixels(*size, index)).save(folder / f"{index}.png")
        elif index % 3 == 1:
            tifffile.imwrite(folder / f"{index}.tif", pixels(*size, index), photometric="rgb", tile=(16, 16))
        else:
            np.save(folder / f"{index}.npy", pixels(*size, index))
    return folder


def call(run, out, inputs, **options):
    settings = {"shard_records": 4, "batch_size": 2, "device": "cpu", "stream_pixels": 300} | options
    text = io.StringIO()
    config = EncodeConfig(run=run, out=out, inputs=tuple(inputs), **settings)
    return encode(config, file=text, progress=False), text.getvalue()


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def left(folder):
    return [path for path in folder.iterdir() if path.name.startswith(".")]


def check(run, records):
    """Every record is what the model makes of the whole image."""
    records.verify()
    model, _ = load(run, ViTAR)
    for index, source in enumerate(records.sources):
        with open_source(source) as opened, torch.no_grad():
            reader = RegionReader(opened, mean=model.config.mean, std=model.config.std, channels=3)
            expected = model.forward_features(reader.read(0, 0, *opened.size)).tokens[0]
        assert torch.allclose(records.record(index).tokens.float(), expected, rtol=1e-3, atol=1e-3)
        assert records.record(index).size == SIZES[int(Path(source).stem)]


class Killed(BaseException):
    pass


def watch_streams(monkeypatch, dies_at=0):
    """The names of huge images in the order of their streaming, in small pieces; the given one is 'killed'."""
    seen, reads = [], []
    read = RegionReader.read

    def watched(model, source, **options):
        seen.append(Path(getattr(source, "name", source)).stem)
        reads.clear()
        return stream(model, source, positions=6, **options)

    def dying(self, *region):
        reads.append(region)
        if dies_at and len(seen) == dies_at and len(reads) == 3:
            raise Killed
        return read(self, *region)

    monkeypatch.setattr("anyres.predict.encoder.stream", watched)
    monkeypatch.setattr(RegionReader, "read", dying)
    return seen, reads


@pytest.mark.parametrize(("stream_pixels", "huge"), [(300, "135"), (1, "012345"), (2**20, "")])
def test_on_both_sides_of_the_limit_records_are_the_models(run, images, tmp_path, monkeypatch, stream_pixels, huge):
    seen, _ = watch_streams(monkeypatch)
    call(run, tmp_path / "out", [images], stream_pixels=stream_pixels)
    records = Records(tmp_path / "out")
    assert "".join(seen) == huge and [Path(source).stem for source in records.sources] == list("012345")
    check(run, records)
    assert not left(tmp_path / "out")


@pytest.mark.parametrize("dies_at", [1, 2, 3])
def test_killed_while_streaming(run, images, tmp_path, monkeypatch, dies_at):
    with monkeypatch.context() as patch:
        order, reads = watch_streams(patch)
        call(run, tmp_path / "whole", [images])
        pieces = len(reads)
    with monkeypatch.context() as patch:
        seen, _ = watch_streams(patch, dies_at)
        with pytest.raises(Killed):
            call(run, tmp_path / "part", [images])
    with monkeypatch.context() as patch:
        again, reads = watch_streams(patch)
        call(run, tmp_path / "part", [images])
    assert again[0] == seen[-1] and seen[:-1] + again == order and len(order) == 3  # nothing finished is done twice
    if dies_at == 3:  # the last image's first two pieces were kept
        assert len(reads) == pieces - 2
    assert content(tmp_path / "part") == content(tmp_path / "whole")


def test_where_reading_fails_the_pieces_are_kept_and_the_next_run_goes_on(run, images, tmp_path, monkeypatch):
    order, calls = TiffSource._read, []
    inputs = [images / "1.tif", images / "3.npy", images / "4.tif"]

    def failing(self, *region):
        calls.append(region)
        if len(calls) > 4:
            raise OSError("network is down")
        return order(self, *region)

    with monkeypatch.context() as patch:
        watch_streams(patch)
        patch.setattr(TiffSource, "_read", failing)
        result, text = call(run, tmp_path / "out", inputs)
    assert [Path(source).name for source, _ in result.failures] == ["1.tif", "4.tif"] and result.records == 1
    assert "network is down" in text and "2 of 3 files could not be read" in text
    assert len(left(tmp_path / "out")) == 1  # the small one has no pieces
    _, reads = watch_streams(monkeypatch)
    result, _ = call(run, tmp_path / "out", inputs)
    assert len(reads) > 1 and len(set(reads) & set(calls[:4])) <= 1  # what was read is not read again
    assert (result.records, result.failures) == (3, []) and not left(tmp_path / "out")
    records = Records(tmp_path / "out")
    assert [Path(source).stem for source in records.sources] == ["3", "1", "4"]
    check(run, records)


def test_a_full_disk_is_no_unreadable_image(run, images, tmp_path, monkeypatch):
    def full(self):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Unfinished, "save", full)
        with pytest.raises(OSError, match="No space left"):
            call(run, tmp_path / "out", [images])
    assert json.loads((tmp_path / "out" / INDEX).read_text())["failures"] == []
    assert call(run, tmp_path / "out", [images])[0].records == 6
    check(run, Records(tmp_path / "out"))


def test_unfinished_work_of_another_image_is_dropped(run, images, tmp_path, monkeypatch):
    path = images / "1.tif"
    with monkeypatch.context() as patch:
        watch_streams(patch, 1)
        with pytest.raises(Killed):
            call(run, tmp_path / "out", [path])
    assert len(left(tmp_path / "out")) == 1
    changed = path.read_bytes()[:-40] + bytes(40)  # of the same length, so that the inputs are the same
    path.write_bytes(changed)
    with pytest.warns(UserWarning, match="1.tif is begun anew: .*holds other work"):
        call(run, tmp_path / "out", [path])
    check(run, Records(tmp_path / "out"))
    assert not left(tmp_path / "out")


def test_one_odd_file_is_a_failure_and_no_end(run, images, tmp_path, monkeypatch):
    real = importlib.import_module

    def without_pyvips(name, *rest):
        if name == "pyvips":
            raise ImportError("No module named 'pyvips'")
        return real(name, *rest)

    monkeypatch.setattr("anyres.data.source_base.importlib.import_module", without_pyvips)
    np.save(images / "long.npy", np.zeros((20, 20, 3), np.int64))
    np.save(images / "cube.npy", np.zeros((2, 20, 20, 3), np.uint8))
    np.save(images / "five.npy", np.zeros((20, 20, 5), np.uint8))
    (images / "empty.tif").touch()
    (images / "short.tif").write_bytes((images / "1.tif").read_bytes()[:900])
    (images / "short.npy").write_bytes(b"\x93NUMPY")
    jp2 = tmp_path / "scan.jp2"
    jp2.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n")
    result, text = call(run, tmp_path / "out", [images, jp2])
    found = {Path(source).name: error for source, error in result.failures}
    assert set(found) == {"long.npy", "cube.npy", "five.npy", "empty.tif", "short.tif", "short.npy", "scan.jp2"}
    assert "int64" in found["long.npy"] and "(2, 20, 20, 3)" in found["cube.npy"]
    assert "5 channels" in found["five.npy"] and "cut short" in found["short.tif"]
    assert "pyvips" not in found["empty.tif"] and 'pip install "anyres[huge-images]"' in found["scan.jp2"]
    assert all(str(source) in text for source, _ in result.failures)
    check(run, Records(tmp_path / "out"))


@pytest.mark.parametrize("kind", ["float32", "uint16", "deflate", "webp", "rotated"])
def test_a_tiff_is_the_same_on_both_sides_of_the_limit(run, tmp_path, kind):
    path = tmp_path / "image.tif"
    if kind in ("float32", "uint16"):
        values = (np.random.default_rng(1).random((41, 30)) * 6000).astype(kind)
        tifffile.imwrite(path, values / 3000 if kind == "float32" else values, photometric="minisblack", tile=(16, 16))
    elif kind == "rotated":
        tifffile.imwrite(path, pixels(41, 30), photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    else:
        tifffile.imwrite(path, pixels(41, 30), photometric="rgb", tile=(16, 16), compression=kind)
    for name, limit in (("pieces", 100), ("whole", 2**26)):
        assert call(run, tmp_path / name, [path], stream_pixels=limit)[0].failures == []
    pieces, whole = (Records(tmp_path / name).record(0) for name in ("pieces", "whole"))
    assert pieces.size == whole.size == ((30, 41) if kind == "rotated" else (41, 30))
    assert torch.allclose(pieces.tokens.float(), whole.tokens.float(), rtol=2e-3, atol=2e-3)
    if kind == "float32":  # taken as they are: twice the values give other tokens
        tifffile.imwrite(path, values / 1500, photometric="minisblack", tile=(16, 16))
        call(run, tmp_path / "twice", [path])
        assert not torch.allclose(Records(tmp_path / "twice").record(0).tokens.float(), whole.tokens.float(), atol=0.05)


@pytest.mark.parametrize(
    ("size", "grid"), [({"short_side": 12}, (4, 3)), ({"size": "12x8"}, (3, 2)), ({"size": "12"}, (3, 3))]
)
def test_a_size_is_given_to_sources_as_to_pictures(run, tmp_path, size, grid):
    smooth = np.add.outer(3 * np.arange(41), 4 * np.arange(30))[..., None].repeat(3, 2).astype(np.uint8)
    tifffile.imwrite(tmp_path / "0.tif", smooth, photometric="rgb", tile=(16, 16), compression="webp")
    tifffile.imwrite(tmp_path / "1.tif", smooth, photometric="rgb", tile=(16, 16), compression="deflate")
    np.save(tmp_path / "2.npy", smooth)
    Image.fromarray(smooth).save(tmp_path / "3.png")
    inputs = [tmp_path / name for name in ("0.tif", "1.tif", "2.npy", "3.png")]
    result, _ = call(run, tmp_path / "out", inputs, stream_pixels=2**26, **size)
    assert result.failures == []
    records = [Records(tmp_path / "out").record(index) for index in range(4)]
    assert {record.grid for record in records} == {grid} and {record.size for record in records} == {(41, 30)}
    assert torch.equal(records[1].tokens, records[2].tokens)
    assert torch.allclose(records[1].tokens.float(), records[3].tokens.float(), atol=0.05)  # Pillow rounds to 8 bits


def test_folders_are_searched_for_slides_and_arrays(run, images, tmp_path, monkeypatch):
    for name in (".hidden.npy", "notes.txt", "part.dcm", "6.NPY", "._0.npy"):
        (images / name).write_bytes((images / "0.npy").read_bytes())
    (images / "deep").mkdir()
    (images / "deep/7.svs").write_bytes((images / "1.tif").read_bytes())
    (images / "deep/up").symlink_to(images, target_is_directory=True)
    monkeypatch.setattr("anyres.streaming.sources.SlideSource", lambda path, **options: TiffSource(path, **options))
    result, _ = call(run, tmp_path / "out", [images])
    records = Records(tmp_path / "out")
    assert result.failures == [] and len(records) == 8
    names = [Path(source).name for source in records.sources]
    assert sorted(names) == ["0.npy", "1.tif", "2.png", "3.npy", "4.tif", "5.png", "6.NPY", "7.svs"]
    assert records.classes == ("deep",) and records.labels.count("deep") == 1
    (tmp_path / "none").mkdir()
    with pytest.raises(ValueError, match="no images below .*allowed: files ending in .*npy.*svs"):
        call(run, tmp_path / "other", [tmp_path / "none"])
