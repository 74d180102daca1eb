"""A seeded loss trace as text: a change that alters training shows here, whatever else still passes.

After a deliberate change: ANYRES_WRITE_TRACES=1 python -m pytest tests/training/test_trace.py
"""

import os
from pathlib import Path

import pytest

from anyres.training import train
from anyres.training.runlog import STEPS, read_rows

OPTIONS = {"patch_size": 4, "grid": (3, 3), "width": 16, "depth": 2, "heads": 2}
RUNS = {
    "vitar": {"model_options": {**OPTIONS, "drop_path_rate": 0.2}},
    "aspect": {"model_options": OPTIONS | {"grid_shape": "aspect"}, "aspect": (0.5, 2.0)},
    "deit": {"model": "deit_tiny_patch16", "model_options": OPTIONS, "sizes": ("12",)},
}


@pytest.mark.parametrize("name", RUNS)
def test_losses_follow_the_trace(plain, name):
    config = plain(steps=12, layer_decay=0.9, **RUNS[name])
    train(config)
    rows = read_rows(config.out / STEPS)
    path = Path(__file__).with_name(f"trace_{name}.txt")
    if os.environ.get("ANYRES_WRITE_TRACES"):
        lines = [f"{r['step']} {r['size'][0]}x{r['size'][1]} {r['loss']:.6f} {r['grad_norm']:.6f}\n" for r in rows]
        path.write_text("step size loss grad_norm\n" + "".join(lines))
    expected = [line.split() for line in path.read_text().splitlines()[1:]]
    assert len(rows) == len(expected) == 12
    for row, (step, size, loss, norm) in zip(rows, expected, strict=True):
        assert (row["step"], row["size"]) == (int(step), [int(side) for side in size.split("x")])
        assert row["loss"] == pytest.approx(float(loss), rel=1e-3), f"step {step}"
        assert row["grad_norm"] == pytest.approx(float(norm), rel=1e-2), f"step {step}"
