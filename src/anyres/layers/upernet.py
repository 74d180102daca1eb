"""The heads of UperNet (arXiv 1807.10221, as in mmsegmentation): maps of several strides -> logits of the finest one.

Parameters have the names that transformers gives them, so that heads can be exchanged.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LOGIT_STD = 0.01  # of the last layer at first (mmsegmentation)


class ConvNormAct(nn.Module):
    """Convolution without bias, batch norm, ReLU: (B, C, h, w) -> (B, C', h, w)."""

    def __init__(self, width: int, out: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, out, kernel, padding=kernel // 2, bias=False)
        self.batch_norm = nn.BatchNorm2d(out)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.batch_norm(self.conv(x)))


class UperNetHead(nn.Module):
    """Pools the coarsest map at several scales, and adds it into the finer ones from the top down.

    Args:
        widths: channels of each map, the finest first.
        channels: of the head.
        num_classes: channels of the result.
        pool_scales: rows and columns that the coarsest map is pooled to.
    """

    def __init__(
        self, widths: Sequence[int], channels: int, num_classes: int, pool_scales: Sequence[int] = (1, 2, 3, 6)
    ) -> None:
        super().__init__()
        *finer, top = widths
        self.psp_modules = nn.ModuleList(
            nn.Sequential(nn.AdaptiveAvgPool2d(scale), ConvNormAct(top, channels, 1)) for scale in pool_scales
        )
        self.bottleneck = ConvNormAct(top + len(pool_scales) * channels, channels, 3)
        self.lateral_convs = nn.ModuleList(ConvNormAct(width, channels, 1) for width in finer)
        self.fpn_convs = nn.ModuleList(ConvNormAct(channels, channels, 3) for _ in finer)
        self.fpn_bottleneck = ConvNormAct(len(widths) * channels, channels, 3)
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, maps: Sequence[Tensor]) -> Tensor:
        """Maps (B, widths[i], h_i, w_i) -> logits (B, num_classes, h_0, w_0)."""
        top = maps[-1]
        pooled = [resized(module(top), top) for module in self.psp_modules]
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps[:-1], strict=True)]
        laterals.append(self.bottleneck(torch.cat([top, *pooled], dim=1)))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + resized(laterals[i], laterals[i - 1])
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
        outputs.append(laterals[-1])
        fused = torch.cat([outputs[0], *(resized(x, outputs[0]) for x in outputs[1:])], dim=1)
        return self.classifier(self.fpn_bottleneck(fused))


class FCNHead(nn.Module):
    """One convolution and a classifier on one map: the auxiliary head, which is used in training alone."""

    def __init__(self, width: int, channels: int, num_classes: int) -> None:
        super().__init__()
        self.convs = nn.Sequential(ConvNormAct(width, channels, 3))
        self.classifier = nn.Conv2d(channels, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, width, h, w) -> logits (B, num_classes, h, w)."""
        return self.classifier(self.convs(x))


def resized(x: Tensor, like: Tensor) -> Tensor:
    """(B, C, h, w) at the height and width of another map, bilinear."""
    if x.shape[-2:] == like.shape[-2:]:
        return x
    return F.interpolate(x, size=like.shape[-2:], mode="bilinear", align_corners=False)


@torch.no_grad()
def init_convolutions(module: nn.Module) -> None:
    """Initialises the convolutions and norms of pyramids and heads, as mmsegmentation does."""
    for each in module.modules():
        if isinstance(each, nn.Conv2d):
            nn.init.kaiming_normal_(each.weight, mode="fan_out", nonlinearity="relu")
            if each.bias is not None:
                nn.init.zeros_(each.bias)
        elif isinstance(each, nn.ConvTranspose2d | nn.BatchNorm2d | nn.LayerNorm):
            each.reset_parameters()
    for each in module.modules():
        classifier = getattr(each, "classifier", None)
        if isinstance(classifier, nn.Conv2d):
            nn.init.normal_(classifier.weight, std=_LOGIT_STD)
