"""`anyres.stream` equals the model on the whole image, for every kind of source, and loses nothing when it fails."""

import numpy as np
import pytest
import torch
from PIL import Image

import anyres
from anyres.data.transforms import to_tensor
from anyres.errors import OtherWorkError, SourceError
from anyres.streaming.sources import open_source
from anyres.streaming.stream import bright_background, stream


def make_model(**options):
    return anyres.create_model(
        "vitar_tiny_patch16", num_classes=5, patch_size=8, width=24, heads=4, depth=1, grid=(3, 4), **options
    ).eval()


def picture(height, width, channels=3):
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), dtype=np.uint8)


def whole(model, pixels):
    return model.forward_features(to_tensor(Image.fromarray(pixels), model.config.mean, model.config.std)[None])


def assert_same(found, expected):
    for name in ("tokens", "pooled"):
        a, b = getattr(found, name), getattr(expected, name)
        assert a.shape == b.shape and ((a - b).norm() / b.norm()).item() < 1e-5


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
@pytest.mark.parametrize("stem", ["patch", "conv"])
@pytest.mark.parametrize("size", [(331, 197), (7, 1501), (640, 9), (5, 3)])
def test_equal_to_the_whole_image(stem, size, merger, tmp_path):
    model, pixels = make_model(stem=stem, merger=merger), picture(*size)
    path = tmp_path / "picture.npy"
    np.save(path, pixels)
    expected = whole(model, pixels)
    for source in (pixels, np.load(path, mmap_mode="r"), path, str(path)):
        assert_same(stream(model, source, positions=50, progress=False), expected)


def test_a_tiled_tiff_and_a_png(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    model, pixels = make_model(), picture(517, 389)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 96), photometric="rgb", compression="deflate")
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for name in ("a.tif", "a.png"):
        assert_same(stream(model, tmp_path / name, positions=60, progress=False), whole(model, pixels))


def test_float_sources_are_taken_as_they_are():
    model, pixels = make_model(), picture(99, 160).astype(np.float32) / 50 - 2
    expected = model.forward_features(torch.from_numpy(pixels).permute(2, 0, 1)[None])
    assert_same(stream(model, pixels, positions=20, progress=False), expected)


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_logits_of_half_precision_and_prefix_tokens(merger):
    model = make_model(prefix_tokens=2, pool="token", merger=merger).bfloat16()
    pixels = picture(140, 222)
    images = to_tensor(Image.fromarray(pixels), model.config.mean, model.config.std)[None].bfloat16()
    found = stream(model, pixels, positions=40, progress=False)
    assert found.tokens.dtype == torch.bfloat16 and found.prefix.shape == (1, 2, 24)
    torch.testing.assert_close(model.forward_head(found), model(images), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_background_is_skipped_and_counted(merger):
    model, pixels = make_model(merger=merger), picture(400, 640)
    pixels[:, 100:] = 250  # brighter than 0.9
    pixels[200:220, 300:310] = 10
    found = stream(model, pixels, skip=bright_background(0.9), positions=60, progress=False)
    rows, cols = model.plan(400, 640).size
    dark = pixels.min(-1).reshape(rows, 8, cols, 8).transpose(0, 2, 1, 3).reshape(rows, cols, 64).mean(-1) / 255 < 0.9
    by_mask = stream(model, pixels, skip=~dark, positions=70, progress=False)
    assert_same(found, by_mask)
    assert found.counts.sum() == dark.sum() and (found.counts == 0).any()
    assert torch.equal(found.counts, by_mask.counts)
    everything = stream(model, pixels, skip=np.zeros((rows, cols), bool), progress=False)
    assert_same(everything, whole(model, pixels))
    assert everything.counts.sum() == rows * cols


def test_background_of_an_image_that_is_enlarged_first():
    """The patches that may be skipped are those of the enlarged image."""
    model, pixels = make_model(merger="pyramid"), picture(9, 320)
    pixels[:, 160:] = 250
    by_function = stream(model, pixels, skip=bright_background(0.9), positions=20, progress=False)
    mask = np.zeros(model.plan(9, 320).size, bool)
    mask[:, 20:] = True
    assert mask.shape == (3, 40)
    assert_same(by_function, stream(model, pixels, skip=mask, positions=30, progress=False))
    assert by_function.counts.sum() == 60


def test_empty_pieces_are_not_read():
    class Counting:
        size = (800, 800)
        pixels = 0

        def read_region(self, y, x, height, width):
            self.pixels += height * width
            return np.zeros((height, width, 3), np.uint8)

    skip = np.ones((100, 100), bool)
    skip[:10, :10] = False
    source = Counting()
    stream(make_model(), source, skip=skip, positions=100, progress=False)
    assert source.pixels < 0.1 * 800 * 800


class Failing:
    """Reads well until it has read so many regions, then fails for good or raises what Ctrl-C raises."""

    def __init__(self, pixels, good, error=None):
        self.size, self.pixels, self.good, self.reads = pixels.shape[:2], pixels, good, []
        self.error = error or OSError("disk on fire")

    def read_region(self, y, x, height, width):
        if len(self.reads) >= self.good:
            raise self.error
        self.reads.append((y, x))
        return self.pixels[y : y + height, x : x + width]


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
@pytest.mark.parametrize("error", [OSError("disk on fire"), KeyboardInterrupt()])
def test_finished_pieces_are_kept(tmp_path, error, merger):
    model, pixels, state = make_model(stem="conv", merger=merger), picture(400, 500), tmp_path / "state"
    expected = whole(model, pixels)
    settings = {"positions": 60, "retries": 0, "progress": False, "resume": state}
    first = Failing(pixels, 20, error)
    with pytest.raises((SourceError, KeyboardInterrupt)) as raised:
        stream(model, first, **settings)
    if isinstance(error, OSError):
        assert "disk on fire" in str(raised.value) and "rows" in str(raised.value)
    assert state.exists()
    second = Failing(pixels, 1000)
    settings.pop("positions")  # it is that of the work on disk
    assert_same(stream(model, second, **settings), expected)
    pieces = len(model.pieces(400, 500, positions=60).pieces)
    assert len(second.reads) <= pieces - 20 + 4  # what was read ahead is read again
    assert not state.exists()


def test_unfinished_work_of_another_kind_is_refused(tmp_path):
    model, other, pixels, state = make_model(), make_model(), picture(400, 500), tmp_path / "state"
    settings = {"positions": 60, "retries": 0, "progress": False, "resume": state}
    with pytest.raises(SourceError):
        stream(model, Failing(pixels, 9), **settings)
    with pytest.raises(ValueError, match="holds other work: its model differ"):
        stream(other, pixels, **settings)
    with pytest.raises(ValueError, match="holds other work: its size, plan"):
        stream(model, pixels[:300], **settings)
    for skip in (np.zeros((50, 63), bool), bright_background()):
        with pytest.raises(OtherWorkError, match="its skip differ"):
            stream(model, pixels, skip=skip, **settings)
    with pytest.raises(OtherWorkError, match="its source differ"):
        stream(model, 255 - pixels, **settings)
    with pytest.raises(OtherWorkError, match="its pieces differ"):
        stream(model, pixels, **{**settings, "positions": 200})
    assert_same(stream(model, pixels, **settings), whole(model, pixels))
    state.write_bytes(b"nonsense")
    with pytest.raises(ValueError, match="is not unfinished work"):
        stream(model, pixels, **settings)
    with pytest.raises(ValueError, match="no folder"):
        stream(model, pixels, resume=tmp_path / "no" / "state", progress=False)


def test_bad_settings():
    model, pixels = make_model(), picture(40, 50)
    with pytest.raises(ValueError, match=r"allowed: bool of the patches' grid, \(5, 7\)"):
        stream(model, pixels, skip=np.zeros((7, 5), bool), progress=False)
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        bright_background(1.5)
    with pytest.raises(ValueError, match='merger is "none"'):
        stream(make_model(merger="none", position="learned"), pixels, progress=False)
    with pytest.raises(SourceError, match="channels"):
        stream(model, picture(40, 50, 4), progress=False)


@pytest.mark.parametrize("merger", ["grid_attention", "pyramid"])
def test_gradients_of_an_image_on_disk_equal_ordinary_ones(tmp_path, merger):
    """Jitter included: the same keys would give the same offsets whole or in pieces."""
    model, pixels = make_model(stem="conv", merger=merger).train(), picture(331, 197)
    np.save(tmp_path / "a.npy", pixels)
    images = to_tensor(Image.fromarray(pixels), model.config.mean, model.config.std)[None]
    torch.manual_seed(3)
    keys = torch.randint(2**62, (1,))
    model(images, keys).square().sum().backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    torch.manual_seed(3)
    found = stream(model, tmp_path / "a.npy", positions=40, progress=False)
    model.forward_head(found).square().sum().backward()
    for name, p in model.named_parameters():
        assert (p.grad - expected[name]).norm() <= 1e-4 * expected[name].norm() + 1e-7, name
    with pytest.raises(ValueError, match="while gradients are recorded"):
        stream(model, pixels, resume=tmp_path / "state", progress=False)


def test_gradients_of_a_tiff_that_does_not_fit_its_cache(tmp_path, monkeypatch):
    """The source stays open as long as the graph needs it, and no longer."""
    tifffile = pytest.importorskip("tifffile")
    monkeypatch.setattr("anyres.streaming.sources.CACHE_BYTES", 20_000)
    model, pixels = make_model().train(), picture(331, 197)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), photometric="rgb", compression="deflate")
    for source in (tmp_path / "a.tif", pixels):
        torch.manual_seed(3)
        model.zero_grad()
        stream(model, source, positions=40, progress=False).pooled.square().sum().backward()
        found = model.stem.proj.weight.grad.clone() if source is not pixels else found  # noqa: F821
    torch.testing.assert_close(found, model.stem.proj.weight.grad, rtol=1e-4, atol=1e-6)


def test_what_the_caller_opened_stays_open(tmp_path):
    tifffile = pytest.importorskip("tifffile")
    model, pixels = make_model(), picture(100, 90)
    tifffile.imwrite(tmp_path / "a.tif", pixels, tile=(64, 64), photometric="rgb")
    with open_source(tmp_path / "a.tif") as source:
        for _ in range(2):
            assert_same(stream(model, source, progress=False), whole(model, pixels))


def test_a_trunk_that_fails_does_not_cost_the_pieces(tmp_path, monkeypatch):
    model, pixels, state = make_model(merger="average").bfloat16(), picture(200, 300), tmp_path / "state"
    with monkeypatch.context() as patch, pytest.raises(MemoryError):
        patch.setattr(model, "forward_merged", lambda *_: (_ for _ in ()).throw(MemoryError()))
        stream(model, pixels, resume=state, progress=False)
    source = Failing(pixels, 2)  # of which two corners are read to know it by
    found = stream(model, source, resume=state, retries=0, progress=False)
    assert_same(found, stream(model, pixels, progress=False))


def test_a_function_that_gives_no_mask():
    with pytest.raises(ValueError, match="allowed: a bool tensor"):
        stream(make_model(), picture(99, 99), skip=lambda patches: patches.mean((-3, -2, -1)), progress=False)
    with pytest.raises(ValueError, match='allowed: padding="masked"'):
        stream(make_model(padding="zeros"), picture(99, 99), skip=bright_background(), progress=False)
