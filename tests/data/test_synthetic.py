import hashlib
import json
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from anyres.cli import main
from anyres.cli.configs import Synthesize
from anyres.data.folder import ImageFolder
from anyres.data.glyph_scenes import DIGITS, LETTERS, SceneConfig, luma, make_canvas, make_scene
from anyres.data.scene import FONTS, glyph_matrix, glyph_outline
from anyres.data.synthetic import FORMATS, write_detail, write_fine, write_glyphs

GLYPHS = SceneConfig(
    train=20, val=10, size=672, sizes="mixed", aspect=(0.75, 1.33), classes="0123456789", fonts=FONTS,
    glyph_height=(0.55, 0.85),
    training_heights=(), rotation=10, margin=0.5, frame=0.875, distractors=(0, 0), formats=dict(FORMATS),
    polarity="any", seed=0,
)  # fmt: skip
DETAIL = replace(GLYPHS, glyph_height=(0.08, 0.12), margin=1.0, frame=1.0, distractors=(3, 6))


def digests(root):
    return {path.relative_to(root): hashlib.sha256(path.read_bytes()).hexdigest() for path in root.rglob("*.*")}


def pixels(image):
    return np.asarray(image, dtype=np.float64)


@pytest.mark.parametrize("config", [GLYPHS, DETAIL])
@pytest.mark.parametrize("size", [(56, 56), (61, 97), (168, 168)])
def test_a_scene_is_the_same_at_every_resolution(config, size):
    for index in range(12):
        scene = make_scene(config, "val", index)
        small = pixels(scene.draw(*size))
        large = pixels(scene.draw(size[0] * 4, size[1] * 4).reduce(4))
        assert np.abs(small - large).mean() < 1
        assert np.abs(small - large).max() < 45  # of 255, on the edge of the glyph


@pytest.mark.parametrize("font", FONTS)
def test_glyphs_are_what_freetype_draws(font):
    """Against Pillow's own font renderer: outlines, holes and islands."""
    import matplotlib
    from PIL import ImageChops, ImageDraw, ImageFont

    for character in "0468":
        scene = replace(
            make_scene(GLYPHS, "val", 0), character=character, font=font, glyph_height=0.8, centre=(0.5, 0.5),
            rotation=0.0, shear=0.0, foreground=(255, 255, 255), background=((0, 0, 0), (0, 0, 0)),
        )  # fmt: skip
        ours = pixels(scene.draw(200, 200).convert("L"))
        path = f"{matplotlib.get_data_path()}/fonts/ttf/{font}.ttf"
        theirs = Image.new("L", (1600, 1600))  # eight times larger, where hinting and whole pixels do not matter
        probe = ImageFont.truetype(path, 1000).getbbox(character)
        text_font = ImageFont.truetype(path, 1_280_000 / (probe[3] - probe[1]))
        ImageDraw.Draw(theirs).text((300, 1440), character, fill=255, font=text_font, anchor="ls")
        left, top, right, bottom = theirs.getbbox()
        theirs = ImageChops.offset(theirs, round(800 - (left + right) / 2), round(800 - (top + bottom) / 2))
        assert np.abs(ours - pixels(theirs.reduce(8))).mean() < 0.02 * ours.mean()


@pytest.mark.parametrize("config", [GLYPHS, DETAIL, replace(DETAIL, glyph_height=(0.1, 0.9), distractors=(0, 0))])
def test_glyphs_stay_within_the_frame_and_stand_out(config):
    for index in range(60):
        scene = make_scene(config, "train", index)
        ink = np.concatenate(glyph_outline(scene.font, scene.character)[0])
        ink = ink @ glyph_matrix(scene.glyph_height, scene.rotation, scene.shear).T + np.array(scene.centre)
        edge = (1 - config.frame) / 2
        assert ink.min() >= edge - 1e-9 and ink.max() <= 1 - edge + 1e-9
        assert scene.glyph_height <= config.glyph_height[1]
        assert min(abs(luma(scene.foreground) - luma(colour)) for colour in scene.background) >= 0.4


def test_detail_keeps_other_shapes_off_the_glyph():
    seen = 0
    for index in range(30):
        scene = make_scene(DETAIL, "train", index)
        bare = replace(scene, shapes=())
        glyphless = replace(bare, foreground=(0, 0, 0)), replace(bare, foreground=(255, 255, 255))
        glyph = pixels(glyphless[0].draw(200, 200)) != pixels(glyphless[1].draw(200, 200))
        shapes = pixels(scene.draw(200, 200)) != pixels(bare.draw(200, 200))
        assert glyph.any() and not (glyph & shapes).any()
        seen += len(scene.shapes)
    assert seen >= 90


def test_margin_is_the_freedom_of_placement():
    centred = [make_scene(replace(DETAIL, margin=0.0), "train", index) for index in range(10)]
    spread = [make_scene(DETAIL, "train", index) for index in range(40)]
    assert all(abs(x - 0.5) < 0.02 for scene in centred for x in scene.centre)
    assert min(scene.centre[0] for scene in spread) < 0.2 and max(scene.centre[0] for scene in spread) > 0.8


def test_splits_seeds_and_indices_differ():
    scenes = [make_scene(GLYPHS, split, index) for split in ("train", "val") for index in range(20)]
    scenes += [make_scene(replace(GLYPHS, seed=1), "train", index) for index in range(20)]
    assert len({repr(scene) for scene in scenes}) == len(scenes)


def test_canvases_never_fall_below_the_size():
    canvases = [make_canvas(GLYPHS, "train", index) for index in range(300)]
    assert all(672 <= min(height, width) <= 840 for height, width, _ in canvases)
    assert {height > width for height, width, _ in canvases} == {True, False}
    assert 0.35 < sum(height == width for height, width, _ in canvases) / 300 < 0.7
    assert all(make_canvas(replace(GLYPHS, aspect=(1, 1)), "val", i)[0] == make_canvas(
        replace(GLYPHS, aspect=(1, 1)), "val", i)[1] for i in range(20))  # fmt: skip


def test_written_folder(tmp_path):
    root = write_glyphs(tmp_path / "a", train=30, val=10, size=24, workers=1, progress=False)
    for split, count in (("train", 3), ("val", 1)):
        folder = ImageFolder(root / split)
        assert folder.classes == tuple("0123456789")
        assert Counter(folder.labels) == dict.fromkeys(range(10), count)
    assert len({path.suffix for path in root.rglob("*.*")} & {".jpg", ".png", ".webp"}) >= 2
    assert json.loads((root / "data.json").read_text())["parameters"]["seed"] == 0
    with Image.open(ImageFolder(root / "val").paths[0]) as image:
        assert min(image.size) >= 24

    again = write_glyphs(tmp_path / "b", train=30, val=10, size=24, workers=3, progress=False)
    assert digests(again) == digests(root)
    other = write_glyphs(tmp_path / "c", train=30, val=10, size=24, seed=1, progress=False)
    assert not set(digests(other).values()) & set(digests(root).values())


def test_an_existing_folder_is_kept_completed_or_refused(tmp_path):
    options = {"train": 4, "val": 2, "size": 16, "classes": "37", "progress": False}
    root = write_detail(tmp_path / "d", **options)
    before = digests(root)
    victim = next((root / "train" / "3").iterdir())
    victim.unlink()
    write_detail(root, **options)  # complete: returns at once
    assert not victim.exists()

    record = json.loads((root / "data.json").read_text())
    (root / "data.json").write_text(json.dumps({**record, "complete": False}))
    write_detail(root, **options)  # interrupted: written again
    assert digests(root) == before

    with pytest.raises(ValueError, match="seed=0, asked: 5"):
        write_detail(root, **options, seed=5)
    with pytest.raises(ValueError, match="holds another set"):
        write_glyphs(root, **options)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(ValueError, match="not written by this generator"):
        write_detail(tmp_path / "mine", **options)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "bad",
    [
        {"classes": "1"}, {"classes": "11"}, {"classes": "aA"}, {"classes": "1/"}, {"size": 4}, {"train": -1},
        {"train": 9}, {"val": 8}, {"sizes": "huge"}, {"glyph_height": (0.5, 0.2)},
        {"margin": 1.5}, {"formats": {"tga": 1}}, {"formats": {}},
        {"fonts": ("DejaVuSanz",)}, {"workers": 0}, {"fonts": ()},
    ],
)  # fmt: skip
def test_bad_parameters_write_nothing(tmp_path, bad):
    with pytest.raises(ValueError):
        write_glyphs(tmp_path / "x", **{"train": 10, "val": 10, "size": 16, "progress": False, **bad})
    assert not (tmp_path / "x").exists()


def test_a_split_without_an_image_of_each_class_is_refused_with_the_nearest(tmp_path, capsys):
    arguments = ["synthesize", "glyphs", str(tmp_path / "data"), "--train", "20", "--val"]
    assert main([*arguments, "8"]) == 2
    assert "val is 8; allowed: 0, or 10 and more, one image for each class; nearest: 10" in capsys.readouterr().err
    assert not (tmp_path / "data").exists()


def test_training_images_take_their_ranges_in_turn_within_each_class():
    config = replace(GLYPHS, glyph_height=(0.1, 0.2), training_heights=((0.3, 0.4), (0.5, 0.6)), train=40)
    for index in range(40):
        height = make_scene(config, "train", index).glyph_height
        assert (0.5 <= height <= 0.6) if index // 10 % 2 else (0.3 <= height <= 0.4)
        assert 0.1 <= make_scene(config, "val", index).glyph_height <= 0.2
    with pytest.raises(ValueError, match="training_heights"):
        replace(config, training_heights=((0.3, 0.4), (0.6, 0.5)))


# The set "fine", and letters.


def config_of(root):
    """The scenes of a folder that was written."""
    found = json.loads((root / "data.json").read_text())["parameters"]
    tuples = {name: tuple(value) for name, value in found.items() if isinstance(value, list)}
    return SceneConfig(**found | tuples | {"training_heights": tuple(map(tuple, found["training_heights"]))})


def test_fine_glyphs_are_small_at_every_training_size_and_larger_beyond(tmp_path):
    config = config_of(write_fine(tmp_path / "fine", train=40, val=10, size=24, progress=False))
    shown = [make_scene(config, "val", index).glyph_height / 0.875 for index in range(300)]  # after the centre crop
    assert 5 < min(shown) * 96 < max(shown) * 96 < 7.5 and 20 < min(shown) * 384 < max(shown) * 384 < 30
    taught = [make_scene(config, "train", index).glyph_height for index in range(300)]
    assert min(taught) > 0.07 and sum(height >= 0.5 for height in taught) == 200
    # as much of every class at every height
    assert Counter(index % 10 for index in range(300) if taught[index] >= 0.5) == dict.fromkeys(range(10), 20)


@pytest.mark.parametrize("write", [write_glyphs, write_detail, write_fine])
def test_letters_are_the_same_scenes_with_other_glyphs(write, tmp_path):
    roots = {classes: write(tmp_path / classes, train=0, val=20, size=32, classes=classes, workers=1, progress=False)
             for classes in (DIGITS, LETTERS)}  # fmt: skip
    assert ImageFolder(roots[LETTERS] / "val").classes == tuple(LETTERS) == tuple(sorted(LETTERS))
    scenes = [[make_scene(config_of(root), "val", index) for index in range(20)] for root in roots.values()]
    assert [(s.font, s.rotation, s.foreground) for s in scenes[0]] == [(s.font, s.rotation, s.foreground)
            for s in scenes[1]]  # fmt: skip
    assert [scene.character for scene in scenes[1][:10]] == list(LETTERS)


def test_the_first_images_of_a_set_are_the_same_scenes_however_large_and_many(tmp_path):
    few = config_of(write_fine(tmp_path / "few", train=0, val=10, size=40, classes=LETTERS, progress=False))
    many = config_of(write_fine(tmp_path / "many", train=0, val=30, size=24, classes=LETTERS, progress=False))
    assert [make_scene(few, "val", index) for index in range(10)] == [make_scene(many, "val", i) for i in range(10)]


def test_letters_from_the_command_line(tmp_path):
    numbers = ["--train", "0", "--val", "10", "--size", "24"]
    assert main(["synthesize", "fine", str(tmp_path / "fine"), "--classes", "letters", *numbers]) == 0
    assert ImageFolder(tmp_path / "fine" / "val").classes == tuple(LETTERS)
    with pytest.raises(ValueError, match="classes is given but has no effect on dense"):
        Synthesize(kind="dense", root=tmp_path / "dense", classes="letters")
    assert not (tmp_path / "dense").exists()
