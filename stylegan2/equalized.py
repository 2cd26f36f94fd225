"""Equalized learning rate: weights are stored as N(0, 1) and scaled where they are used, or all at once.

Source: Karras et al., Progressive Growing of GANs (arXiv 1710.10196), section 4.1; the learning-rate multiplier is from
StyleGAN (arXiv 1812.04948), section C.
"""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.precision import without_autocast


class EqualizedWeight(nn.Module):
    """A weight stored as N(0, 1)/`lr_mul` and returned as `weight · gain · lr_mul / √fan_in`.

    Adam moves every stored number by about the learning rate, whatever its gradient. Because the stored numbers all
    have the same size, every layer changes at the same relative speed: that is what is equalized.

    Args:
        shape: `[out, in, …]`; fan_in is the product of all but the first.
        gain: factor of the activation that follows. Leaky ReLU is positively homogeneous, gain·lrelu(x) =
            lrelu(gain·x), so the factor costs nothing when the weight carries it.
        lr_mul: how much slower than the rest these weights learn (0.01 in the mapping network).
    """

    def __init__(self, shape: Sequence[int], gain: float = 1.0, lr_mul: float = 1.0):
        super().__init__()
        self.scale = gain * lr_mul / math.sqrt(math.prod(shape[1:]))
        self.weight = nn.Parameter(torch.randn(*shape) / lr_mul)

    def forward(self) -> Float[Tensor, "out in *kernel"]:
        return times(self.weight, self.scale)


class EqualizedLinear(nn.Module):
    """A linear layer with an equalized weight, in float32 at least, also under autocast.

    Args:
        in_features, out_features: sizes.
        bias: the value at which every bias starts (1 for the affine map that makes styles, else 0).
        gain, lr_mul: as in `EqualizedWeight`; both act on the bias too.
    """

    def __init__(self, in_features: int, out_features: int, bias: float = 0.0, gain: float = 1.0, lr_mul: float = 1.0):
        super().__init__()
        self.weight = EqualizedWeight([out_features, in_features], gain, lr_mul)
        self.bias = nn.Parameter(torch.full([out_features], bias / lr_mul))
        self.bias_scale = gain * lr_mul

    def forward(self, x: Float[Tensor, "*batch in_features"]) -> Float[Tensor, "*batch out_features"]:
        with without_autocast(x):  # w, styles and scores are few numbers, and much depends on each
            return F.linear(at_least_float32(x), self.weight(), times(self.bias, self.bias_scale))


class EqualizedConv2d(nn.Module):
    """A convolution with an equalized weight.

    Args:
        in_features, out_features, kernel_size, padding, stride: as in `torch.nn.Conv2d`.
        bias: whether there is one (it starts at 0).
        gain: as in `EqualizedWeight`; acts on the bias too.
    """

    def __init__(self, in_features: int, out_features: int, kernel_size: int, padding: int = 0, stride: int = 1,
                 bias: bool = True, gain: float = 1.0):
        super().__init__()
        self.weight = EqualizedWeight([out_features, in_features, kernel_size, kernel_size], gain)
        self.bias = nn.Parameter(torch.zeros(out_features)) if bias else None
        self.bias_scale = gain
        self.padding, self.stride = padding, stride

    def forward(self, x: Float[Tensor, "batch in_features h w"]) -> Float[Tensor, "batch out_features h2 w2"]:
        bias = None if self.bias is None else times(self.bias, self.bias_scale)
        return F.conv2d(x, self.weight(), bias, stride=self.stride, padding=self.padding)


def times(parameter: Float[Tensor, "*shape"], scale: float) -> Float[Tensor, "*shape"]:
    """The product, or the parameter itself where there is nothing to do: inside `scaled_at_once`."""
    return parameter if scale == 1 else parameter * scale


SCALES = {"weight": "scale", "bias": "bias_scale"}


@contextlib.contextmanager
def scaled_at_once(network: nn.Module) -> Iterator[None]:
    """Inside, a network's equalized parameters are scaled already, by one operation for all of them; afterwards the
    gradients that were collected inside are those of the stored parameters, by one more.

    On a GPU a small operation costs what its launch costs, and scaling where a weight is used is a third of all
    launches in a training step. The numbers are the same up to rounding. Inside, `backward` must have the parameters'
    gradients as its goal (`torch.autograd.grad` of the stored parameters finds nothing).
    """
    places = [(module, name, scale, parameter) for module in network.modules() for name, scale in SCALES.items()
              if vars(module).get(scale, 1) != 1 and (parameter := module._parameters.get(name)) is not None]
    if not places:
        yield
        return
    scales = [vars(module)[scale] for module, _, scale, _ in places]
    with torch.no_grad():
        copies = torch._foreach_mul([parameter for *_, parameter in places], scales)
    for (module, name, scale, parameter), copy in zip(places, copies, strict=True):
        # What stands in __dict__ is found before what nn.Module keeps in _parameters.
        vars(module).update({name: copy.requires_grad_(parameter.requires_grad), scale: 1.0})
    try:
        yield
    finally:
        for (module, name, scale, _), value in zip(places, scales, strict=True):
            del vars(module)[name]
            vars(module)[scale] = value
    met = [(parameter, copy.grad, factor) for (*_, parameter), copy, factor in zip(places, copies, scales, strict=True)
           if copy.grad is not None]
    if met:
        parameters, gradients, factors = zip(*met, strict=True)
        for parameter, gradient in zip(parameters, torch._foreach_mul(gradients, list(factors)), strict=True):
            parameter.grad = gradient if parameter.grad is None else parameter.grad + gradient


def at_least_float32(x: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """bfloat16 and float16 as float32, for statistics, images and scores; float32 and float64 stay as they are."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
