"""The JavaScript of docs/deploy.md, run by onnxruntime-node where there are Node and its packages."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch

import anyres

PAGE = Path(__file__).resolve().parents[2] / "docs" / "deploy.md"


@pytest.mark.slow
def test_the_snippet_gives_the_model_s_logits(tmp_path):
    if not (shutil.which("node") and shutil.which("npm")):
        pytest.skip("there is no Node")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", "onnxruntime-node"]
    without_gpu = {**os.environ, "ONNXRUNTIME_NODE_INSTALL": "skip"}
    done = subprocess.run(install, cwd=tmp_path, env=without_gpu, capture_output=True, text=True, timeout=300)
    if done.returncode:
        pytest.skip(f"npm: {done.stderr[-300:]}")
    model = anyres.create_model("anyres_tiny_patch16", width=24, depth=1, heads=2, grid=(3, 3), num_classes=4).eval()
    anyres.export(model, tmp_path / "model.onnx", largest=400, verify=0)
    [code] = re.findall(r"```js\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
    (tmp_path / "predict.mjs").write_text(code)
    done = subprocess.run(["node", "predict.mjs"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    found = [float(number) for number in re.findall(r"-?\d+\.\d+(?:e-?\d+)?", done.stdout)]
    image = torch.from_numpy(np.sin(np.arange(3 * 97 * 333)).astype(np.float32)).reshape(1, 3, 97, 333)
    with torch.inference_mode():
        np.testing.assert_allclose(found, model(image)[0].numpy(), atol=1e-5)
