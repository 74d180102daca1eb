"""Draws the results of the other benchmarks: python benchmarks/plots.py [--results FOLDER] [--out docs/images]."""

import argparse
import json
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

OURS, THEIRS = "#1f77b4", "#d95f02"


def forward(results: dict, path: Path) -> None:
    """Seconds against side, with the share of the ceiling beside them."""
    figure, (times, shares) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    rows = [row for row in results["rows"] if row["precision"] == "bfloat16" and row["batch"] == 1]
    sides = [row["side"] for row in rows]
    times.plot(sides, [row["vitar"]["median"] for row in rows], "o-", color=OURS, label="ViTAR-B/16")
    both = [row for row in rows if "timm" in row]
    times.plot(
        [row["side"] for row in both],
        [row["timm"]["median"] for row in both],
        "s-",
        color=THEIRS,
        label="timm ViT-B/16",
    )
    times.set(xlabel="side, pixels", ylabel="seconds an image", xscale="log", yscale="log", title="bfloat16, one image")
    times.set_xticks(sides, [str(side) for side in sides], rotation=60, fontsize=8)
    times.minorticks_off()
    times.legend(frameon=False)
    for precision, colour in (("bfloat16", OURS), ("float32", THEIRS)):
        for batch, style in ((1, "o-"), (8, "s--")):
            some = [row for row in results["rows"] if row["precision"] == precision and row["batch"] == batch]
            label = f"{precision}, {batch} image{'s' * (batch > 1)}"
            shares.plot([row["side"] for row in some], [row["share"] for row in some], style, color=colour, label=label)
    shares.set(xlabel="side, pixels", ylabel="share of the matrix-product ceiling", xscale="log", ylim=(0, None))
    shares.set_title("products of the plain structure")
    shares.set_xticks(sides, [str(side) for side in sides], rotation=60, fontsize=8)
    shares.minorticks_off()
    shares.legend(frameon=False, fontsize=8)
    finish(figure, path)


def stream(results: dict, path: Path) -> None:
    """Memory above the model against side, and pixels per second."""
    figure, (memory, speed) = plt.subplots(1, 2, figsize=(11, 4.2), layout="constrained")
    rows = [row for row in results["rows"] if row["height"] == row["width"]]
    sides = [row["height"] for row in rows]
    memory.plot(sides, [row["peak_megabytes"] for row in rows], "o-", color=OURS, label="anyres.stream")
    memory.plot(sides, [3 * side**2 / 1e6 for side in sides], ":", color=THEIRS, label="the image itself, 8 bits")
    memory.set(xlabel="side, pixels", ylabel="MB above the loaded model", xscale="log", yscale="log")
    memory.legend(frameon=False)
    speed.plot(sides, [row["megapixels_per_second"] for row in rows], "o-", color=OURS)
    speed.set(xlabel="side, pixels", ylabel="megapixels a second", xscale="log", ylim=(0, None))
    for axes in (memory, speed):
        axes.set_xticks(sides, [f"{side // 1024}k" for side in sides])
        axes.minorticks_off()
    finish(figure, path)


def finish(figure: plt.Figure, path: Path) -> None:
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    plt.close(figure)
    print(path)


def main() -> None:
    here = Path(__file__).parent
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results", type=Path, default=here / "results")
    parser.add_argument("--out", type=Path, default=here.parent / "docs" / "images")
    options = parser.parse_args()
    for draw in (forward, stream):
        source = options.results / f"{draw.__name__}.json"
        if source.exists():
            draw(json.loads(source.read_text()), options.out / f"performance-{draw.__name__}.png")


if __name__ == "__main__":
    main()
