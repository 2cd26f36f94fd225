"""Smooth, half and double: one low-pass filter, outer([1, 3, 3, 1])/64, three ways.

The filter is what keeps the layers from aliasing (Zhang, arXiv 1904.11486; StyleGAN2, arXiv 1912.04958, appendix B).
It is applied as a depthwise convolution. The obvious form, one channel over batch × channels images, takes tens of
times as long on a CPU (benchmarks/layers.py).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


class Smooth(nn.Module):
    """The low-pass filter at full resolution; a constant image keeps its value times `gain`.

    Args:
        padding: zeros on each side. The filter has 4 taps, so the size grows by 2·padding − 3.
        gain: 4 after zeros were inserted (a transposed convolution), where only a quarter of the pixels carry signal.
    """

    kernel: Tensor

    def __init__(self, padding: int, gain: float = 1.0):
        super().__init__()
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("kernel", gain * torch.outer(taps, taps)[None, None] / 64, persistent=False)
        self.padding = padding

    def depthwise(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "channels 1 4 4"]:
        """The same filter once per channel of x, in x's precision."""
        return self.kernel.to(x.dtype).expand(x.shape[1], 1, 4, 4)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h2 w2"]:
        return F.conv2d(x, self.depthwise(x), padding=self.padding, groups=x.shape[1])


class DownSample(Smooth):
    """Filter, then keep every second pixel: [h, w] → [h/2, w/2]."""

    def __init__(self) -> None:
        super().__init__(padding=1)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h2 w2"]:
        return F.conv2d(x, self.depthwise(x), stride=2, padding=1, groups=x.shape[1])


class UpSample(Smooth):
    """Insert zeros between the pixels, then filter with gain 4: [h, w] → [2h, 2w].

    Both at once are a transposed convolution, which never touches the inserted zeros.
    """

    def __init__(self) -> None:
        super().__init__(padding=1, gain=4.0)

    def forward(self, x: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch channels h2 w2"]:
        return F.conv_transpose2d(x, self.depthwise(x), stride=2, padding=1, groups=x.shape[1])
