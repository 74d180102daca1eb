"""Statistics against numbers worked out by hand, and what the tables make of them."""

import pytest

from anyres.ablation.page import beside_the_paper, markdown, order_sentences, table
from anyres.ablation.summary import beyond, held, orderings, summarise


def row(variant, seed, side, top1, *, protocol="native", name="ordinary", latency=1.0):
    return {
        "set": name, "variant": variant, "seed": seed, "protocol": protocol, "size": [side, side], "images": 10,
        "correct": 1, "top1": top1, "macs": side * 1000, "latency_ms": latency, "peak_memory_bytes": 1,
    }  # fmt: skip


def about(name, paper=None, far=64, **changes):
    given = {
        "name": name, "far": far, "largest": far // 4, "paper": paper, "paper_row": paper and "its row",
        "trained_at": [16], "placement": "", "sizes": ["16"], "training": {}, "seeds": {"ordinary": [0, 1, 2]},
        "steps": 5, "parameters": 1234, "macs": {str(far // 4): 1e6, str(far): 2e6}, "training_macs": 3e6,
        "training_seconds": 7.4,
    }  # fmt: skip
    return given | changes


ROWS = [
    row("a", 0, 16, 90.0), row("a", 1, 16, 96.0), row("a", 2, 16, 99.0), row("a", 0, 64, 50.0), row("a", 1, 64, 60.0),
    row("b", 0, 16, 97.0, latency=2.0), row("b", 1, 16, 99.0, latency=4.0),
    row("b", 0, 64, 70.0), row("b", 1, 64, 80.0),
    row("a", 0, 64, 91.0, protocol="resized to 16x16"), row("c", 0, 16, 20.0),
]  # fmt: skip


def test_mean_range_and_deviation():
    found = summarise(ROWS)
    assert [(r["variant"], r["protocol"], r["size"][0], r["seeds"]) for r in found] == [
        ("a", "native", 16, 3), ("a", "native", 64, 2), ("b", "native", 16, 2), ("b", "native", 64, 2),
        ("a", "resized to 16x16", 64, 1), ("c", "native", 16, 1),
    ]  # fmt: skip
    first = found[0]
    assert (first["mean"], first["low"], first["high"]) == (95.0, 90.0, 99.0)
    assert first["deviation"] == pytest.approx(21**0.5)  # (25 + 1 + 16) / 2
    assert found[1]["deviation"] == pytest.approx(50**0.5) and found[-1]["deviation"] is None
    assert found[2]["latency_ms"] == 3.0 and found[1]["macs"] == 64000


def test_far_beyond_is_four_times_the_own_largest_size():
    found = beyond(summarise(ROWS), [about("a"), about("b", far=16), about("c", far=64)])
    assert [entry["variant"] for entry in found] == ["a", "b"]  # c was not measured there
    a, b = found
    assert (a["best_size"], a["best"], a["far_size"], a["far"], a["below_best"]) == (16, 95.0, 64, 55.0, 40.0)
    assert (a["low"], a["high"]) == (50.0, 60.0)
    assert (b["far"], b["below_best"]) == (98.0, 0.0)


def test_what_is_lost_over_the_sizes_and_against_resizing():
    """Below the smallest training size nothing counts; the largest training size is 16."""
    rows = [row("e", 0, side, top1) for side, top1 in {8: 5.0, 16: 80.0, 32: 70.0, 64: 84.0, 128: 60.0}.items()]
    rows += [row("e", 0, side, 75.0, protocol="resized to 16x16") for side in (8, 16, 32, 64)]
    rows += [row("e", 0, side, 1.0, protocol="resized to 8x8") for side in (8, 16, 32, 64)]
    [found] = held(summarise(rows), [about("e"), about("absent")])
    assert found == {
        "set": "ordinary", "variant": "e", "best": 84.0, "lowest": {"size": 128, "value": 60.0}, "below_best": 24.0,
        "largest": 128, "behind": {"size": 32, "value": -5.0}, "ahead": {"size": 64, "value": 9.0},
    }  # fmt: skip
    [alone] = held(summarise(rows[:5]), [about("e", trained_at=[8, 16])])
    assert (alone["lowest"], alone["behind"], alone["ahead"]) == ({"size": 8, "value": 5.0}, None, None)


def test_pairs_in_the_papers_order():
    paper = {"a": {"224": 80.0, "4032": 70.0}, "b": {"224": 81.0, "4032": 60.0}, "c": {"224": 80.0, "4032": None}}
    variants = [about(name, paper=paper[name]) for name in "abc"] + [about("d")]
    small, large = orderings(summarise(ROWS), variants, {224: 16, 1120: 32, 4032: 64})
    # at 16 ours are b 98, a 95, c 20; the paper has b above a and c, and a = c, which is no pair
    assert (small["agree"], small["tied"], small["disagree"]) == (2, 0, [])
    assert large["agree"] == 0 and large["disagree"] == [{"paper": "a", "ours": "b", "points": 20.0, "clear": True}]
    assert (large["paper_resolution"], large["size"]) == (4032, 64)


def test_overlapping_seeds_and_single_seeds_are_not_clear():
    paper = {"a": {"224": 80.0}, "b": {"224": 70.0}, "c": {"224": 90.0}}
    [found] = orderings(summarise(ROWS), [about(name, paper=paper[name]) for name in "abc"], {224: 16})
    against = {(pair["paper"], pair["ours"]): pair["clear"] for pair in found["disagree"]}
    assert against == {("a", "b"): False, ("c", "a"): False, ("c", "b"): False}


def study():
    summary, variants = summarise(ROWS), [about("a", {"224": 80.0}), about("b", {"224": 70.0}), about("c")]
    return {
        "title": "T", "question": "Q?", "command": "anyres ablate x", "variants": variants, "summary": summary,
        "settings": {"images measured": "9"},
        "beyond": beyond(summary, variants), "orderings": orderings(summary, variants, {224: 16}), "failed": [],
        "held": held(summary, variants),
        "landmarks": {"224": 16},
    }  # fmt: skip


def test_table_marks_the_best_and_leaves_out_what_was_not_measured():
    found = table(study(), "ordinary")
    assert found["sides"] == [16, 64]
    assert [[cell and (cell["mean"], cell["best"], cell["trained"]) for cell in r["cells"]] for r in found["rows"]] == [
        [(95.0, False, True), (55.0, False, False)],
        [(98.0, True, True), (75.0, True, False)],
        [(20.0, False, True), None],
    ]  # fmt: skip
    [resized] = table(study(), "ordinary", "resized to")["rows"]
    assert resized["protocol"] == "resized to 16" and resized["cells"][0]["mean"] == 91.0


def test_the_paper_beside_ours():
    found = beside_the_paper(study(), "ordinary")
    assert found["pairs"] == {"224": 16}
    assert [(r["variant"]["name"], [(p, own["mean"]) for p, own in r["pairs"]]) for r in found["rows"]] == [
        ("a", [(80.0, 95.0)]), ("b", [(70.0, 98.0)]),
    ]  # fmt: skip
    [sentence] = order_sentences(study(), "ordinary")
    assert sentence == "At 16 (the paper's 224) 0 of 1 pairs stand in the paper's order. Against it: b above a by 3.0."


def test_markdown():
    text = markdown(study())
    assert "| variant | 16 | 64 | at 4x its largest size | below its best |" in text
    assert "| a | 95.0 (90.0 to 99.0) | 55.0 (50.0 to 60.0) | 55.0 (64) | 40.0 |" in text
    assert "| b | **98.0** (97.0 to 99.0) | **75.0** (70.0 to 80.0) | 75.0 (64) | 23.0 |" in text
    assert "| c | 20.0 |  |  |  |" in text
    assert "| a, resized to 16 | **91.0** |" in text
    assert "| a |  | 16 | ordinary 3 | 5 | 1.23 k | 1.0 | 2.0 | 3.0 | 7 |" in text
    assert "| a | 64 | 95.0 | 55.0 (64) | 40.0 | -36.0 (64) | -36.0 (64) |" in text
    assert "| c | 16 | 20.0 | 20.0 (16) | 0.0 |  |  |" in text
    older = {name: value for name, value in study().items() if name != "held"}
    assert "most behind resizing" in text and "most behind" not in markdown(older)
    widths = [line.count("|") for line in text.splitlines() if line.startswith("| ")]
    assert len(set(widths)) <= 4  # native, resized, held and costs
