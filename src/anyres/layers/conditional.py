"""Conditional positional encoding: a depthwise convolution of the tokens themselves."""

from torch import Tensor, nn

from anyres.layers.region import Region


class DepthwiseConv(nn.Conv2d):
    """Depthwise 3x3 convolution with zero padding and bias, (B, rows, cols, D) -> (B, rows, cols, D)."""

    def __init__(self, width: int, *, zero: bool = False) -> None:
        super().__init__(width, width, 3, padding=1, groups=width)
        self.zero = zero
        self.init_weights()

    def init_weights(self) -> None:
        """Zeros, or PyTorch's own initialisation."""
        if self.zero:
            nn.init.zeros_(self.weight)
            nn.init.zeros_(self.bias)  # type: ignore[arg-type]
        else:
            self.reset_parameters()

    def forward(self, tokens: Tensor) -> Tensor:
        return super().forward(tokens.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class ConditionalPosition(nn.Module):
    """Conditional encoding, CPVT's "PEG" (Chu et al., arXiv 2102.10882): tokens + depthwise 3x3 convolution of them.

    The zero padding is what tells a token where the border is. Prefix tokens pass it by. `placement="before"` puts it
    on the patch tokens before the merger (on a plain trunk: before the first block), where it meets every resolution;
    `placement="trunk"` puts it after the first block, the authors' choice, where under ViTAR it meets a constant grid.

    Args:
        width: D.
        zero: starts as the identity (not CPVT: the local part of global-local positions before the merger).
    """

    halo = 1

    def __init__(self, width: int, *, zero: bool = False) -> None:
        super().__init__()
        self.conv = DepthwiseConv(width, zero=zero)

    def init_weights(self) -> None:
        self.conv.init_weights()

    def forward(self, tokens: Tensor, keys: Tensor | None = None, region: Region | None = None) -> Tensor:
        """Adds positions to tokens (B, rows, cols, D)."""
        return tokens + self.conv(tokens)
