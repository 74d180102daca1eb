"""The page: the same bytes from the same JSON, nothing from outside, everything that the rows say, clear refusals."""

import base64
import builtins
import hashlib
import io
import json
import re

import pytest
from PIL import Image

from anyres.evaluation.rows import wilson
from anyres.report import canvas
from anyres.report.image_sets import merge
from anyres.report.report import report

SIZES = ([32, 32], [48, 80], [64, 64])


def row(model, protocol, size, correct, macs, *, images=200, name="glyphs"):
    return {
        "set": name, "model": model, "protocol": protocol, "size": list(size), "images": images, "correct": correct,
        "top1": 100 * correct / images, "interval": list(wilson(correct, images)), "macs": macs,
        "latency_ms": {"p50": macs / 1e6, "p95": macs / 8e5, "runs": 20}, "images_per_second": 250.0,
        "peak_memory_bytes": macs // 10,
    }  # fmt: skip


def picture(size):
    buffer = io.BytesIO()
    Image.new("RGB", (size[1], size[0]), "#804020").save(buffer, "PNG")
    return base64.b64encode(buffer.getvalue()).decode()


def sweep(name="glyphs", models=("vitar", "deit"), run="run", title="Any <size> & more"):
    rows, examples = [], []
    for number, size in enumerate(SIZES):
        for model in models:
            correct = 190 - 50 * number * (model == "deit")
            rows.append(row(model, "native", size, correct, 10**7 * (number + 1), name=name))
            rows.append(row(model, "resized to 32x32", size, 185, 10**7, name=name))
        guesses = {model: ["3" if model == "vitar" else "<8>", 0.9] for model in models}
        examples.append({"set": name, "size": size, "label": "3", "png": picture(size), "predictions": guesses})
    about = {"parameters": 1234, "training_sizes": [[32, 32]], "patch_size": 8, "grid": [4, 4], "run": run}
    return {
        "format": 1, "title": title, "rows": rows, "examples": examples,
        "environment": {"torch": "2", "timm": "1", "device": "cpu (x)", "threads": 1, "precision": "float32"},
        "models": {
            model: {"name": f"{model}_tiny_patch16", **about, **({"grid_shape": "aspect"} if model == "vitar" else {})}
            for model in models
        },
        "skipped": [{"set": name, "path": "3/broken.png", "reason": "truncated"}],
        "left_out": [{"set": name, "model": "deit", "protocol": "native", "size": [999, 999], "reason": "too dear"}],
    }  # fmt: skip


@pytest.fixture(autouse=True)
def small_pictures(monkeypatch):
    monkeypatch.setattr(canvas, "DPI", 40)


def write(folder, *sweeps):
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number}.json" for number in range(len(sweeps))]
    for path, item in zip(paths, sweeps, strict=True):
        path.write_text(json.dumps(item))
    return paths


def digests(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "DPI", 40)
        return report(write(folder / "in", sweep()), folder / "out")


def test_same_json_same_bytes(page, tmp_path):
    again = report(write(tmp_path / "elsewhere", sweep()), tmp_path / "deep" / "out")
    assert again.name == "index.html"
    assert digests(page.parent) == digests(again.parent)
    assert {"index.html", "main.png", "main-dark.png", "glyphs-pareto.png"} <= set(digests(page.parent))


def test_other_json_other_bytes(page, tmp_path):
    changed = sweep()
    changed["rows"][0] |= {"correct": 100, "top1": 50.0, "interval": list(wilson(100, 200))}
    other = digests(report(write(tmp_path, changed), tmp_path / "out").parent)
    differing = {name for name, digest in digests(page.parent).items() if other[name] != digest}
    assert {"index.html", "main.png", "glyphs-accuracy.png", "glyphs-pareto-dark.png"} <= differing
    assert "cost-paper.png" not in differing


def test_page_is_self_contained(page):
    text = page.read_text(encoding="utf-8")
    without_pictures = re.sub(r"data:image/png;base64,[A-Za-z0-9+/=]+", "", text)
    assert not re.search(r"https?://|//cdn|@import|url\(", without_pictures)
    assert re.findall(r'(?:src|srcset|href)="([^"#]+)"', without_pictures) == []
    for encoded in re.findall(r"data:image/png;base64,([A-Za-z0-9+/=]+)", text):
        Image.open(io.BytesIO(base64.b64decode(encoded))).verify()


def test_page_says_what_the_rows_say(page):
    text = page.read_text(encoding="utf-8")
    assert "Any &lt;size&gt; &amp; more" in text and "Any <size>" not in text
    assert "✗ &lt;8&gt;" in text and "✓ 3" in text
    assert text.count('<tr><td class="text">glyphs</td>') == len(sweep()["rows"]) + 1  # and the row left out
    assert "48×80" in text and "too dear" in text and "3/broken.png" in text and "cpu (x)" in text
    assert "resized to 32<" in text
    assert "<td>the area of 4×4</td>" in text and "<td>4×4</td>" in text


def test_pictures_have_no_metadata(page):
    for path in page.parent.glob("*.png"):
        with Image.open(path) as image:
            assert set(image.info) <= {"dpi"}


def test_sets_and_models_of_several_sweeps_come_together(tmp_path):
    sweeps = [sweep(models=("vitar",)), sweep(models=("deit",)), sweep(name="detail")]
    glyphs, detail = merge(sweeps, ["a", "b", "c"])
    assert (glyphs.name, list(glyphs.models)) == ("glyphs", ["vitar", "deit"])
    assert [list(example["predictions"]) for example in glyphs.examples] == [["vitar", "deit"]] * len(SIZES)
    assert (detail.name, list(detail.models)) == ("detail", ["vitar", "deit"])
    names = digests(report(write(tmp_path, *sweeps), tmp_path / "out").parent)
    assert {"glyphs-accuracy.png", "detail-accuracy.png", "detail-examples-dark.png"} <= set(names)


def test_what_was_left_out_stays_even_if_nothing_of_the_set_was_measured(tmp_path):
    first, second = sweep(models=("vitar",)), sweep(name="detail", models=("vitar",))
    for made, name in ((first, "huge"), (first, "detail"), (second, "huge")):
        given = {"set": name, "model": "vitar", "protocol": "native", "reason": f"no room for {name}"}
        made["left_out"].append(given | {"size": [777, 888]})
    found = {group.name: group for group in merge([first, second], "ab")}
    assert list(found) == ["glyphs", "huge", "detail"]
    assert [item["size"] for item in found["huge"].left_out] == [[777, 888]] * 2 and not found["huge"].rows
    assert [item["size"][0] for item in found["detail"].left_out] == [777, 999]  # of both files
    assert len(found["glyphs"].left_out) == 1
    page = report(write(tmp_path, first), tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert text.count("no room for huge") == 1 and text.count("no room for detail") == 1
    assert not any("huge" in name for name in digests(page.parent)) and "huge in detail" not in text


def known(model, **about):
    """A sweep of one model, of whose weights and folder something is known."""
    made = sweep(models=(model,))
    made["models"][model] |= about
    made["left_out"][0]["model"] = model
    return made


def labels(groups):
    """The models of a report, checked to be the same in all its parts."""
    [group] = groups
    names = list(group.models)
    assert list(dict.fromkeys(row["model"] for row in group.rows)) == names
    assert {name for example in group.examples for name in example["predictions"]} == set(names)
    assert {item["model"] for item in group.left_out} == set(names)
    return names


def test_different_models_of_one_label_get_their_folders_or_a_number():
    first, second = known("vitar", weights="a", parent="one"), known("vitar", weights="b", parent="two")
    assert labels(merge([first, second], "xy")) == ["one/vitar", "two/vitar"]
    third = known("vitar", weights="c", parent="two")
    assert labels(merge([first, second, third], "xyz")) == ["one/vitar", "two/vitar", "two/vitar #2"]
    assert labels(merge([known("vitar", weights="a"), known("vitar", weights="b")], "xy")) == ["vitar", "vitar #2"]
    assert len(merge([first, second], "xy")[0].rows) == 2 * len(first["rows"])


def test_a_label_stands_for_one_model_over_all_sets():
    glyphs, detail = sweep(models=("vitar",)), sweep(name="detail", models=("vitar",))
    glyphs["models"]["vitar"] |= {"weights": "a", "parent": "one"}
    detail["models"]["vitar"] |= {"weights": "b", "parent": "two"}
    assert [list(group.models) for group in merge([glyphs, detail], "xy")] == [["one/vitar"], ["two/vitar"]]
    detail["models"]["vitar"] |= {"weights": "a"}
    assert [list(group.models) for group in merge([glyphs, detail], "xy")] == [["vitar"], ["vitar"]]


def halves(made):
    """Two sweeps of the same models, each with some of the sizes."""
    parts = []
    for sizes in (SIZES[:1], SIZES[1:]):
        rows = [item for item in made["rows"] if item["size"] in sizes]
        examples = [item for item in made["examples"] if item["size"] in sizes]
        parts.append(json.loads(json.dumps(made | {"rows": rows, "examples": examples})))
    return parts


@pytest.mark.parametrize("weights", [{}, {"weights": "a"}])
def test_one_run_measured_in_two_sweeps_is_one_model(weights):
    whole = known("vitar", parent="runs", **weights)
    parts = halves(whole)
    assert labels(merge(parts, "xy")) == ["vitar"]
    assert merge(parts, "xy")[0].models == merge([whole], "x")[0].models
    if weights:  # whatever it is called in the second
        parts[1] = json.loads(json.dumps(parts[1]).replace('"vitar"', '"other/vitar"'))
        assert labels(merge(parts, "xy")) == ["vitar"]


def test_without_a_digest_models_are_told_apart_by_all_else_and_by_their_numbers():
    """Sweeps of older versions say nothing of the weights."""
    assert labels(merge([known("vitar"), known("vitar", patch_size=4)], "xy")) == ["vitar", "vitar #2"]
    other = known("vitar")
    other["rows"][0] |= {"correct": 7}
    assert labels(merge([known("vitar"), other], "xy")) == ["vitar", "vitar #2"]
    new, old = halves(known("vitar"))
    new["models"]["vitar"] |= {"weights": "a", "parent": "runs"}
    assert labels(merge([new, old], "xy")) == ["vitar"]


def test_a_run_that_is_twice_in_one_sweep_stays_two_lines():
    twice = sweep(models=("vitar", "vitar #2"))
    for about in twice["models"].values():
        about |= {"weights": "a"}
    assert list(merge([twice], "x")[0].models) == ["vitar", "vitar #2"]
    parts = halves(twice)
    assert list(merge(parts, "xy")[0].models) == ["vitar", "vitar #2"]


def test_colours_and_page_go_with_the_labels(tmp_path):
    sweeps = [known("vitar", weights="a", parent="one"), known("vitar", weights="b", parent="two")]
    text = report(write(tmp_path, *sweeps), tmp_path / "out").read_text(encoding="utf-8")
    assert "one/vitar" in text and "two/vitar" in text and ">vitar<" not in text


def test_sets_whose_names_look_alike_get_their_own_pictures():
    groups = merge([sweep("a b"), sweep("a-b"), sweep("A/B")], "123")
    assert [group.anchor for group in groups] == ["a-b", "a-b-2", "a-b-3"]


@pytest.mark.parametrize("weights", [{}, {"weights": "a"}])
def test_same_row_twice_is_refused(weights):
    with pytest.raises(ValueError, match=r"b: .*given twice"):
        merge([known("vitar", **weights), known("vitar", **weights)], ["a", "b"])


def test_refusals_come_before_any_file(tmp_path):
    out = tmp_path / "out"
    (tmp_path / "text.json").write_text("hello")
    for names, message in [([], "no sweeps"), (["no.json"], "no file"), (["text.json"], "not the JSON of a sweep")]:
        with pytest.raises(ValueError, match=message):
            report([tmp_path / name for name in names], out)
    with pytest.raises(ValueError, match="not the JSON of"):
        report(write(tmp_path, {"format": 2}), out)
    assert not out.exists()


@pytest.mark.parametrize("name", ["jinja2", "matplotlib"])
def test_missing_extra_is_named(tmp_path, monkeypatch, name):
    real = builtins.__import__

    def absent(wanted, *args, **kwargs):
        if wanted == name:
            raise ImportError(f"No module named {name!r}", name=name)
        return real(wanted, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(ImportError, match=rf"{name}.*anyres\[report\]"):
        report(write(tmp_path, sweep()), tmp_path / "out")
