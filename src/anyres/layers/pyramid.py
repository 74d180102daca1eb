"""Maps of several strides from a plain backbone, whose blocks all work at one stride."""

from collections.abc import Sequence

from timm.layers import LayerNorm2d
from torch import Tensor, nn

from anyres.layers.options import doublings


class SimpleFeaturePyramid(nn.Module):
    """The pyramid of ViTDet (arXiv 2203.16527, as in detectron2): every map is made of the last map alone.

    (B, D, rows, cols) -> a list of (B, out_channels, h, w), one for each stride. Finer maps are exactly so many times
    as large as the given one; coarser ones are rounded up where it does not divide. Wherever detectron2 normalises it
    is over channels, so that nothing depends on the rest of a batch.

    Args:
        width: D.
        stride: of the map that is given, in pixels.
        strides: of the maps to make; each a power of two times or parts of `stride`.
        out_channels: of every map.

    Raises:
        ValueError: a stride that cannot be reached by halving or doubling.
    """

    def __init__(
        self, width: int, *, stride: int = 16, strides: Sequence[int] = (4, 8, 16, 32), out_channels: int = 256
    ) -> None:
        super().__init__()
        self.stride, self.strides, self.out_channels = stride, tuple(strides), out_channels
        levels = []
        for wanted in self.strides:
            steps = doublings(stride / wanted)
            channels = width if steps <= 0 else max(width >> steps, 1)
            levels.append(
                nn.Sequential(
                    rescale(width, steps, halve=True),
                    nn.Conv2d(channels, out_channels, 1, bias=False),
                    LayerNorm2d(out_channels),
                    nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                    LayerNorm2d(out_channels),
                )
            )
        self.levels = nn.ModuleList(levels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, D, rows, cols) -> (B, out_channels, h, w) for each stride."""
        return [level(x) for level in self.levels]


class TapPyramid(nn.Module):
    """Maps of one stride, tapped at several blocks, as maps of several: BEiT's Feature2Pyramid, the width kept.

    Each (B, D, rows, cols) becomes (B, D, h, w) at its own scale, rounded up where it does not divide. Normalises over
    channels where BEiT normalises over the batch, so that an image does not depend on the others.

    Args:
        width: D.
        scales: of each map, powers of two.

    Raises:
        ValueError: a scale that is no power of two.
    """

    def __init__(self, width: int, scales: Sequence[float] = (4, 2, 1, 0.5)) -> None:
        super().__init__()
        self.scales = tuple(scales)
        self.levels = nn.ModuleList(rescale(width, doublings(scale), halve=False) for scale in self.scales)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """As many maps (B, D, rows, cols) as there are scales -> each at its scale."""
        return [level(x) for level, x in zip(self.levels, maps, strict=True)]


def rescale(width: int, steps: int, *, halve: bool) -> nn.Module:
    """Doubles maps by transposed convolutions, each halving the width if asked to, or halves them by pooling."""
    if steps <= 0:
        return nn.MaxPool2d(2**-steps, ceil_mode=True) if steps else nn.Identity()
    layers: list[nn.Module] = []
    for _ in range(steps):
        if layers:
            layers += [LayerNorm2d(width), nn.GELU()]
        out = max(width // 2, 1) if halve else width
        layers.append(nn.ConvTranspose2d(width, out, 2, stride=2))
        width = out
    return nn.Sequential(*layers)
