"""Folders of real image files drawn from vector scenes: *glyphs*, and *detail* and *fine*, whose label is a small one.

Every image is a pure function of (seed, split, index): the same parameters write the same scenes on any machine.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from anyres.data.glyph_scenes import DIGITS, SPLITS, SceneConfig, Split, make_canvas, make_scene
from anyres.data.scene import FONTS, glyph_outline
from anyres.files import naming, read_json, write_json
from anyres.settings import plain

FORMATS: Mapping[str, float] = {"jpg": 0.8, "png": 0.1, "webp": 0.1}


def write_glyphs(
    root: Path | str,
    *,
    train: int = 2000,
    val: int = 400,
    size: int = 672,
    sizes: Literal["mixed", "fixed"] = "mixed",
    aspect: tuple[float, float] = (0.75, 1.33),
    classes: str = DIGITS,
    fonts: Sequence[str] = FONTS,
    glyph_height: tuple[float, float] = (0.55, 0.85),
    training_heights: Sequence[tuple[float, float]] = (),
    rotation: float = 10.0,
    margin: float = 0.5,
    frame: float = 0.875,
    distractors: tuple[int, int] = (0, 0),
    formats: Mapping[str, float] = FORMATS,
    polarity: Literal["any", "dark"] = "dark",
    seed: int = 0,
    workers: int = 2,
    progress: bool = True,
) -> Path:
    """Write the set *glyphs*: one large glyph per image, mildly varied. Returns root.

    `glyph_height=(0.1, 0.9), margin=1.0` gives glyphs of any size anywhere, `classes=LETTERS` ten capitals in place of
    the digits. The parameters are those of `SceneConfig`.
    A folder that already holds the same set is left as it is; any other non-empty folder is a ValueError.
    """
    config = SceneConfig(
        train=train, val=val, size=size, sizes=sizes, aspect=aspect, classes=classes,
        fonts=tuple(fonts), glyph_height=glyph_height,
        training_heights=tuple(training_heights), rotation=rotation, margin=margin, frame=frame,
        distractors=distractors, formats=dict(formats), polarity=polarity, seed=seed,
    )  # fmt: skip
    return write_scenes(Path(root), config, workers=workers, progress=progress)


def write_detail(
    root: Path | str,
    *,
    aspect: tuple[float, float] = (1.0, 1.0),
    glyph_height: tuple[float, float] = (0.1, 0.16),
    training_heights: Sequence[tuple[float, float]] = ((0.1, 0.4), (0.5, 0.85)),
    **options: Any,
) -> Path:
    """Write the set *detail*: a small glyph on a large canvas, which resizing to the smallest training size destroys.

    At 32 pixels the glyph is 3 to 5 pixels high and cannot be read, at 96 it is 10 to 15 and can. Training images show
    larger glyphs too, from which the classes are learned first; docs/results.md says how far the set is learned.
    `distractors=(3, 6)` adds plain shapes. To be evaluated without a centre crop if margin is 1. All options are those
    of `write_glyphs`.
    """
    return write_glyphs(root, aspect=aspect, glyph_height=glyph_height, training_heights=training_heights, **options)


def write_fine(
    root: Path | str,
    *,
    aspect: tuple[float, float] = (1.0, 1.0),
    glyph_height: tuple[float, float] = (0.046, 0.068),
    training_heights: Sequence[tuple[float, float]] = ((0.5, 0.85), (0.07, 0.3), (0.5, 0.85)),
    **options: Any,
) -> Path:
    """Write the set *fine*: a glyph that only sizes beyond those of training show large enough to be read.

    Shown at 96 pixels by the usual centre crop the glyph is 5 to 7.5 pixels high, which no model of ours reads well; at
    384 it is 20 to 30. Two of three training images show glyphs as large as in the set *ordinary*: with half of them
    models stayed at chance. All options are those of `write_glyphs`.
    """
    return write_glyphs(root, aspect=aspect, glyph_height=glyph_height, training_heights=training_heights, **options)


def write_scenes(root: Path, config: SceneConfig, *, workers: int = 1, progress: bool = True) -> Path:
    """Write root/<split>/<class>/<index>.<suffix> for every image, and root/data.json. Returns root."""
    if workers < 1:
        raise ValueError(f"workers is {workers}; allowed: 1 and more")
    if _already_written(root, config):
        return root
    for font in config.fonts:
        for character in config.classes:
            glyph_outline(font, character)  # fonts and characters are checked before the first file is written
    _write_record(root, config, complete=False)
    jobs = [(split, index) for split in SPLITS for index in range(config.count(split))]
    for split in SPLITS:
        for character in config.classes if config.count(split) else "":
            (root / split / character).mkdir(parents=True, exist_ok=True)
    # threads, not processes: drawing, scaling and encoding run in C without the interpreter's lock
    with ThreadPoolExecutor(workers) as pool:
        written = pool.map(lambda job: _write_one(root, config, *job), jobs)
        for _ in tqdm(written, total=len(jobs), desc=f"writing {root.name}", unit="image", disable=not progress):
            pass
    _write_record(root, config, complete=True)
    return root


def _write_one(root: Path, config: SceneConfig, split: Split, index: int) -> None:
    height, width, suffix = make_canvas(config, split, index)
    scene = make_scene(config, split, index)
    path = root / split / scene.character / f"{index:05d}.{suffix}"
    options: dict[str, dict[str, Any]] = {
        "jpg": {"quality": 92}, "png": {"compress_level": 1}, "webp": {"quality": 92, "method": 0},
    }  # fmt: skip
    with naming(path):
        scene.draw(height, width).save(path, **options[suffix])


def _record(config: SceneConfig) -> dict:
    return plain({"format": 1, "generator": "anyres.data.synthetic", "parameters": asdict(config)})


def _already_written(root: Path, config: SceneConfig) -> bool:
    if not root.exists() or (root.is_dir() and not any(root.iterdir())):
        return False
    if not root.is_dir():
        raise ValueError(f"{root} is a file; allowed: a new or empty folder")
    try:
        found = read_json(root / "data.json", "the record of a synthetic set", keys=("complete",), remedy="")
        complete = found.pop("complete")
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{root} is not empty and was not written by this generator; allowed: a new or empty folder"
        ) from error
    wanted = _record(config)
    if found != wanted:
        old, new = found.get("parameters", {}), wanted["parameters"]
        changed = [f"{name}={old.get(name)!r}, asked: {new[name]!r}" for name in new if old.get(name) != new[name]]
        raise ValueError(
            f"{root} holds another set (written with {'; '.join(changed) or 'another format'}): "
            "remove it, choose another folder, or ask for the same parameters"
        )
    return bool(complete)


def _write_record(root: Path, config: SceneConfig, *, complete: bool) -> None:
    root.mkdir(parents=True, exist_ok=True)
    write_json(root / "data.json", {**_record(config), "complete": complete})
