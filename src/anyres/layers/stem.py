"""From pixels to patch tokens, (B, C, H, W) -> (B, rows, cols, D), for any height and width from one pixel up."""

import torch.nn.functional as F
from torch import Tensor, nn


def complete_patches(images: Tensor, patch_size: int) -> Tensor:
    """Completes the last row and column of patches by repeating the edge pixels: (B, C, H, W)."""
    bottom, right = -images.shape[-2] % patch_size, -images.shape[-1] % patch_size
    return F.pad(images, (0, right, 0, bottom), mode="replicate") if bottom or right else images


class PatchStem(nn.Module):
    """Non-overlapping patches through one linear layer, written as a reshape and one matrix product.

    The weight is that of timm's and DeiT's stride-p convolution with its last three axes flattened, (D, C * p * p).
    """

    halo = 0  # patches beyond its own that a token depends on

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.proj = nn.Linear(in_channels * patch_size**2, width)

    def init_weights(self) -> None:
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, images: Tensor, is_visible: Tensor | None = None) -> Tensor:
        """Tokens (B, rows, cols, D); with `is_visible` (B, rows, cols) those patches alone, (n, D), in their order."""
        patch = self.patch_size
        images = complete_patches(images, patch)  # (B, C, rows * p, cols * p)
        patches = images.unflatten(3, (-1, patch)).unflatten(2, (-1, patch)).permute(0, 2, 4, 1, 3, 5)
        if is_visible is not None:
            return self.proj(patches[is_visible].flatten(1))  # of (n, C, p, p)
        return self.proj(patches.flatten(3))  # of (B, rows, cols, C, p, p)


def stage_factors(patch_size: int) -> list[int]:
    """The strides of the convolutional stem: the prime factors of the patch size, twos first."""
    factors, rest, prime = [], patch_size, 2
    while rest > 1:
        while rest % prime == 0:
            factors.append(prime)
            rest //= prime
        prime += 1
    return factors


class ConvStem(nn.Module):
    """Convolutional stem after Xiao et al. 2021 ("Early convolutions help transformers see better").

    For patches of 16: 3x3 convolutions of stride 2 to D/16, D/8, D/4 and D/2 channels, a LayerNorm over channels and
    GELU after each, then 1x1 to D. This shape, with LayerNorm, reproduces the ViTAR paper's printed costs. Other patch
    sizes use one convolution of stride f and kernel 2f - 1 for each prime factor f. A token sees its own patch and less
    than one patch above and to the left.
    """

    halo = 1

    def __init__(self, in_channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        factors = stage_factors(patch_size)
        self.patch_size = patch_size
        self.widths = [max(width >> (len(factors) - stage), 1) for stage in range(len(factors))]
        inputs = [in_channels, *self.widths]
        self.convs = nn.ModuleList(
            nn.Conv2d(inputs[stage], self.widths[stage], 2 * factor - 1, stride=factor, padding=factor - 1)
            for stage, factor in enumerate(factors)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(channels, eps=1e-6) for channels in self.widths)
        self.proj = nn.Linear(inputs[-1], width)

    def init_weights(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        nn.init.xavier_uniform_(self.proj.weight)
        nn.init.zeros_(self.proj.bias)

    def forward(self, images: Tensor) -> Tensor:
        x = complete_patches(images, self.patch_size)
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = conv(x)  # (B, channels, h, w)
            x = F.gelu(norm(x.permute(0, 2, 3, 1))).permute(0, 3, 1, 2)  # channels stay last in memory
        return self.proj(x.permute(0, 2, 3, 1))  # (B, rows, cols, D)
