"""Styles that scale feature maps: AdaIN, which measures each map first, and weight demodulation, which does not.

Sources: adaptive instance normalisation from StyleGAN (arXiv 1812.04948), equation 1; modulation and demodulation from
StyleGAN2 (arXiv 1912.04958), section 2.2, equations 1-3.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.equalized import EqualizedLinear, at_least_float32, times
from stylegan2.precision import without_autocast
from stylegan2.resample import Smooth


class AdaIN(nn.Module):
    """Adaptive instance normalisation: y_s·(x − μ)/σ + y_b, with μ and σ measured on every map of every sample.

    The style y = (y_s, y_b) is an affine map of w; y_s starts around 1, y_b around 0.

    Args:
        d_latent: size of w.
        features: channels.
        eps: added to the variance.
    """

    def __init__(self, d_latent: int, features: int, eps: float = 1e-8):
        super().__init__()
        self.to_scale = EqualizedLinear(d_latent, features, bias=1.0)
        self.to_shift = EqualizedLinear(d_latent, features)
        self.eps = eps

    def forward(self, x: Float[Tensor, "batch features h w"],
                w: Float[Tensor, "batch d_latent"]) -> Float[Tensor, "batch features h w"]:
        y_s, y_b = self.to_scale(w)[:, :, None, None], self.to_shift(w)[:, :, None, None]
        wide = at_least_float32(x)
        centred = wide - wide.mean(dim=(2, 3), keepdim=True)
        variance = centred.square().mean(dim=(2, 3), keepdim=True)  # biased; [batch, features, 1, 1]
        return (centred * (y_s * torch.rsqrt(variance + self.eps)) + y_b).to(x.dtype)


class Conv2dWeightModulate(nn.Module):
    """A convolution whose input channels are scaled by a style, and whose output is brought back to unit variance.

    Equation 1 scales the weights, w′[o, i, k] = s[i]·w[o, i, k]; equation 3 divides by the norm that they then have,
    w″ = w′ / √(Σ_{i,k} w′² + ε). Because a convolution is linear in its input and in its output, the same numbers come
    out when the *activations* are scaled: by s before a plain convolution, by 1/√(…) after it. `forward` takes the
    form that is faster for the shape; `scale_weights` and `scale_activations` are equal up to rounding.

    The stored weight is N(0, 1) without a factor: with demodulation any factor cancels, but for ε. Without
    demodulation (toRGB) it is divided by √fan_in where it is used, as in `EqualizedWeight`.

    Args:
        in_features, out_features: channels.
        kernel_size: odd.
        demodulate: whether to normalise.
        eps: ε of equation 3.
        up: double the resolution with a transposed convolution of stride 2, followed by the low-pass filter.
        gain: standard deviation after demodulation: what the activation that follows is to be multiplied by, as in
            `EqualizedWeight`.
    """

    def __init__(self, in_features: int, out_features: int, kernel_size: int,
                 demodulate: bool = True, eps: float = 1e-8, up: bool = False,
                 gain: float = 1.0):
        super().__init__()
        shape = (out_features, in_features, kernel_size, kernel_size)
        self.weight = nn.Parameter(torch.randn(shape))
        self.demodulate, self.eps, self.gain = demodulate, eps, gain
        self.scale = 1.0 if demodulate else 1 / math.sqrt(math.prod(shape[1:]))
        self.smooth = Smooth(padding=1, gain=4.0) if up else None

    def forward(self, x: Float[Tensor, "batch in h w"],
                s: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out h2 w2"]:
        if weights_are_smaller(x, self.weight):
            return self.scale_weights(x, s)
        return self.scale_activations(x, s)

    def scale_activations(self, x: Float[Tensor, "batch in h w"],
                          s: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out h2 w2"]:
        """s on the way in, σ⁻¹ on the way out; the weight is shared by the batch."""
        weight: Tensor = self.weight
        if self.demodulate and x.dtype == torch.float16:
            # What is demodulated may have any size: one at which no sum overflows.
            s, weight = s / s.abs().amax(dim=1, keepdim=True).clamp(min=self.eps), to_unit_norm(weight)
        x = convolve(x * s[:, :, None, None].to(x.dtype), times(weight, self.scale), self.smooth)
        if self.demodulate:
            scale = self.gain * inverse_std(weight, s, self.eps)  # [batch, out]
            x = x * scale[:, :, None, None].to(x.dtype)
        return x

    def scale_weights(self, x: Float[Tensor, "batch in h w"],
                      s: Float[Tensor, "batch in"]) -> Float[Tensor, "batch out h2 w2"]:
        """One weight per sample, applied to the whole batch as a convolution with a group per sample."""
        batch = x.shape[0]
        weight = times(self.weight, self.scale) * s[:, None, :, None, None]  # [batch, out, in, k, k]
        if self.demodulate:
            energy = weight.square().sum(dim=(2, 3, 4))  # [batch, out]
            scale = self.gain * torch.rsqrt(energy + self.eps)
            weight = weight * scale[:, :, None, None, None]
        x = x.reshape(1, -1, *x.shape[2:])  # [1, batch·in, h, w]
        weight = weight.flatten(0, 1).to(x.dtype)  # [batch·out, in, k, k]
        x = convolve(x, weight, self.smooth, groups=batch)
        return x.reshape(batch, -1, *x.shape[2:])  # from [1, batch·out, h2, w2]


def convolve(x: Float[Tensor, "batch channels h w"], weight: Float[Tensor, "out in k k"],
             smooth: Smooth | None, groups: int = 1) -> Float[Tensor, "batch out_2 h2 w2"]:
    """To the same size; or to twice the size, where there is a filter to smooth that with."""
    if smooth is None:
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=groups)
    # conv_transpose2d wants [groups·in, out, k, k].
    weight = weight.unflatten(0, (groups, -1)).transpose(1, 2).flatten(0, 1)
    return smooth(F.conv_transpose2d(x, weight, stride=2, groups=groups))


def to_unit_norm(weight: Float[Tensor, "out in k k"]) -> Float[Tensor, "out in k k"]:
    """Every output channel's weights divided by the root of the sum of their squares."""
    return weight / weight.square().sum(dim=(1, 2, 3), keepdim=True).sqrt()


def inverse_std(weight: Float[Tensor, "out in k k"], s: Float[Tensor, "batch in"],
                eps: float) -> Float[Tensor, "batch out"]:
    """1/√(Σ_{i,k} (s_i·w_oik)² + ε) of equation 3, without building a weight per sample: Σ_i s_i²·(Σ_k w_oik²)."""
    with without_autocast(s):  # a sum of squares wants more than bfloat16's 8 bits
        energy = weight.square().sum(dim=(2, 3))  # [out, in]
        return torch.rsqrt(F.linear(s.to(weight.dtype).square(), energy) + eps)


def weights_are_smaller(x: Float[Tensor, "batch in h w"],
                        weight: Float[Tensor, "out in k k"]) -> bool:
    """Whether one weight per sample is less to write than the scaled activations, on a device that runs groups well.

    A CPU does not: there scaled activations win or tie for the shapes of these networks (benchmarks/README.md).
    """
    # Per sample: the maps that come in and those that go out.
    activations = sum(weight.shape[:2]) * x.shape[2] * x.shape[3]
    return x.device.type != "cpu" and weight.numel() < activations
