"""ResFormer from our parts against its forward pass as the authors have it (github.com/ruitian12/resformer)."""

import math

import pytest
import torch
import torch.nn.functional as F

import anyres


def global_positions(weights, rows, cols, width):
    y = torch.ones(rows, cols).cumsum(0) / (rows + 1e-6) * 2 * math.pi
    x = torch.ones(rows, cols).cumsum(1) / (cols + 1e-6) * 2 * math.pi
    divisor = 10000 ** (2 * torch.div(torch.arange(width // 2), 2, rounding_mode="floor") / (width // 2))
    parts = []
    for place in (y, x):
        angle = place[..., None] / divisor
        parts.append(torch.stack((angle[..., 0::2].sin(), angle[..., 1::2].cos()), dim=-1).flatten(-2))
    waves = torch.cat(parts, dim=-1).permute(2, 0, 1)[None]
    conv = F.conv2d(waves, weights["position.conv.weight"], weights["position.conv.bias"], padding=1, groups=width)
    return conv.flatten(2).transpose(1, 2)


def block(x, weights, prefix, heads, rows, cols):
    def linear(name, y):
        return F.linear(y, weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"])

    def norm(name, y):
        return F.layer_norm(
            y, y.shape[-1:], weights[f"{prefix}.{name}.weight"], weights[f"{prefix}.{name}.bias"], eps=1e-6
        )

    batch, count, width = x.shape
    qkv = linear("attn.qkv", norm("norm1", x)).reshape(batch, count, 3, heads, width // heads).permute(2, 0, 3, 1, 4)
    attended = (qkv[0] @ qkv[1].transpose(-2, -1) / (width // heads) ** 0.5).softmax(-1) @ qkv[2]
    for head in range(heads):
        values = qkv[2][:, head, 1:].transpose(1, 2).reshape(batch, -1, rows, cols)
        filters, bias = weights[f"{prefix}.attn.position.weight"], weights[f"{prefix}.attn.position.bias"]
        local = F.conv2d(values, filters, bias, padding=1, groups=width // heads)
        attended[:, head, 1:] += local.flatten(2).transpose(1, 2)
    x = x + linear("attn.proj", attended.transpose(1, 2).reshape(batch, count, width))
    return x + linear("mlp.fc2", F.gelu(linear("mlp.fc1", norm("norm2", x))))


def resformer(images, weights, depth, heads):
    width = weights["trunk.norm.weight"].shape[0]
    kernel = weights["stem.proj.weight"].view(width, 3, 16, 16)
    x = F.conv2d(images, kernel, weights["stem.proj.bias"], stride=16)
    rows, cols = x.shape[2:]
    x = x.flatten(2).transpose(1, 2) + global_positions(weights, rows, cols, width)
    x = torch.cat([weights["trunk.prefix"].expand(len(x), 1, -1), x], dim=1)
    for index in range(depth):
        x = block(x, weights, f"trunk.blocks.{index}", heads, rows, cols)
    x = F.layer_norm(x, (width,), weights["trunk.norm.weight"], weights["trunk.norm.bias"], eps=1e-6)
    return F.linear(x[:, 0], weights["head.weight"], weights["head.bias"])


@torch.no_grad()
@pytest.mark.parametrize("size", [(224, 224), (16, 16), (96, 160), (16, 80)])
def test_equal_to_the_authors_forward_pass(size):
    torch.manual_seed(0)
    model = anyres.create_model("resformer_tiny_patch16", depth=3, num_classes=7).eval()
    for name, parameter in model.named_parameters():
        if "position" in name or name == "head.weight":
            parameter.normal_(std=0.3)
    images = torch.randn(2, 3, *size)
    expected = resformer(images, model.state_dict(), 3, 3)
    torch.testing.assert_close(model(images), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", ["tiny", "small", "base"])
def test_parameters_are_deits_with_convolutions_for_the_table(size):
    """Ten weights for each channel of the global, and of one head of each local, depthwise convolution."""
    with torch.device("meta"):
        ours, deit = (anyres.create_model(f"{name}_{size}_patch16") for name in ("resformer", "deit"))
    counts = [sum(p.numel() for p in model.parameters()) for model in (ours, deit)]
    width = ours.config.width
    assert counts[0] == counts[1] - 14 * 14 * width + 10 * width + 12 * 10 * 64
    assert ours.config.pool == "token" and ours.trunk.norm.eps == ours.trunk.blocks[0].norm1.eps == 1e-6
    assert {"trunk.prefix", "position.conv.weight", "trunk.blocks.11.attn.position.weight"} <= ours.no_weight_decay()
