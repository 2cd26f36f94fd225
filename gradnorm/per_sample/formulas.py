"""Per-sample gradients of a layer from two things: what went in, and ∂L/∂(what came out).

Every formula takes `x` and `delta` with the batch first, and gives the gradients of the layer's `weight` and `bias`.
All are derived for real numbers; complex ones would need conjugates.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradnorm._typing import Float, Int

Gradients = dict[str, Tensor]  # "weight", "bias" → [batch, *the parameter's shape]


def linear_factors(
    layer: nn.Linear, x: Float[Tensor, "batch *positions in"], delta: Float[Tensor, "batch *positions out"]
) -> tuple[Float[Tensor, "batch 1 length out"], Float[Tensor, "batch 1 length in"]]:
    """Δ and X with ∂L_n/∂W = Δᵀ X: one row for every position at which the weight was used."""
    batch = len(x)
    return delta.reshape(batch, 1, -1, layer.out_features), x.reshape(batch, 1, -1, layer.in_features)


def windows(
    x: Float[Tensor, "batch channels *side"],
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
) -> Float[Tensor, "batch channels *positions_and_kernel"]:
    """Every patch that a convolution looks at, as a view: the positions' axes, then the kernel's."""
    for axis, (k, s, d) in enumerate(zip(kernel, stride, dilation, strict=True), start=2):
        x = x.unfold(axis, d * (k - 1) + 1, s)[..., ::d]
    return x


def conv_factors(
    layer: nn.Conv1d | nn.Conv2d | nn.Conv3d,
    x: Float[Tensor, "batch in *side"],
    delta: Float[Tensor, "batch out *positions"],
) -> tuple[Float[Tensor, "batch groups length out_of_group"], Float[Tensor, "batch groups length in_of_group"]]:
    """A convolution is a linear layer on its windows, once for every position of the output."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    padded = F.pad(x, layer._reversed_padding_repeated_twice, mode=mode)
    patches = windows(padded, layer.kernel_size, layer.stride, layer.dilation)
    return group_rows(delta, layer.groups, 0), group_rows(patches, layer.groups, len(layer.kernel_size))


def transposed_factors(
    layer: nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d,
    x: Float[Tensor, "batch in *positions"],
    delta: Float[Tensor, "batch out *side"],
) -> tuple[Float[Tensor, "batch groups length in_of_group"], Float[Tensor, "batch groups length out_of_group"]]:
    """The same with the roles exchanged: x stands at the positions, delta is looked at through windows."""
    padded = F.pad(delta, layer._reversed_padding_repeated_twice)
    patches = windows(padded, layer.kernel_size, layer.stride, layer.dilation)
    for axis, length in enumerate(x.shape[2:], start=2):  # output_padding adds windows that no input stands at
        patches = patches.narrow(axis, 0, length)
    return group_rows(x, layer.groups, 0), group_rows(patches, layer.groups, len(layer.kernel_size))


def group_rows(x: Tensor, groups: int, kernel_axes: int) -> Float[Tensor, "batch groups length features"]:
    """[batch, channels, *positions, *kernel] → a row for every position, of a group's channels × the kernel."""
    batch, channels = x.shape[:2]
    x = x.reshape(batch, groups, channels // groups, *x.shape[2:])
    last = x.ndim - kernel_axes
    axes = (0, 1, *range(3, last), 2, *range(last, x.ndim))  # channels next to the kernel
    length = math.prod(x.shape[3:last])
    return x.permute(axes).reshape(batch, groups, length, -1)


def bias_gradient(layer: nn.Module, delta: Tensor) -> Float[Tensor, "batch channels"]:
    """The sum over positions; the channels are last for linear layers and second for convolutions."""
    if isinstance(layer, nn.Linear):
        return delta.reshape(len(delta), -1, delta.shape[-1]).sum(dim=1)
    return delta.flatten(2).sum(dim=2)


def factors_of(layer: Any, x: Tensor, delta: Tensor) -> tuple[Tensor, Tensor]:
    """Δ and X in one type: under autocast a layer's output, so Δ, may be narrower."""
    first, second = FACTORS[type(layer)](layer, x, delta)
    dtype = torch.promote_types(first.dtype, second.dtype)
    return first.to(dtype), second.to(dtype)


def from_factors(layer: Any, x: Tensor, delta: Tensor) -> Gradients:
    """∂L_n/∂W = Δᵀ X for the layers that have factors."""
    first, second = factors_of(layer, x, delta)
    weight = (first.mT @ second).reshape(len(x), *layer.weight.shape)
    return {"weight": weight, "bias": bias_gradient(layer, delta)}


def embedding(
    layer: nn.Embedding, x: Int[Tensor, "batch ..."], delta: Float[Tensor, "batch *positions features"]
) -> Gradients:
    """Every position adds its delta to the row of its word."""
    batch, (words, features) = len(x), layer.weight.shape
    row = x.reshape(batch, -1) + words * torch.arange(batch, device=x.device)[:, None]
    gradient = delta.new_zeros(batch * words, features)
    gradient.index_add_(0, row.flatten(), used_deltas(layer, x, delta).flatten(0, 1))
    return {"weight": gradient.view(batch, words, features)}


def used_deltas(layer: nn.Embedding, x: Tensor, delta: Tensor) -> Float[Tensor, "batch length features"]:
    """The deltas in one line for every sample, 0 at the padding word, which is not trained."""
    delta = delta.reshape(len(x), -1, delta.shape[-1])
    return delta if layer.padding_idx is None else delta * (x != layer.padding_idx).reshape(len(x), -1, 1)


def affine(layer: Any, x: Tensor, delta: Tensor) -> Gradients:
    """y = a x̂ + b: ∂/∂a = Σ δ x̂, ∂/∂b = Σ δ over the positions. x̂ is the layer's output without a and b."""
    normalized = NORMALIZED[type(layer)](layer, x)
    if isinstance(layer, nn.LayerNorm | nn.RMSNorm):
        positions = tuple(range(1, x.ndim - len(layer.normalized_shape)))
    else:
        positions = tuple(range(2, x.ndim))

    def over_positions(y: Tensor) -> Tensor:
        return y.sum(dim=positions) if positions else y

    return {"weight": over_positions(delta * normalized), "bias": over_positions(delta)}


def prelu(layer: nn.PReLU, x: Float[Tensor, "batch ..."], delta: Float[Tensor, "batch ..."]) -> Gradients:
    """y = a min(x, 0) where x < 0: one a for all, or one for every channel."""
    slope = delta * x.clamp(max=0)
    if layer.num_parameters == 1:
        return {"weight": slope.flatten(1).sum(dim=1, keepdim=True)}
    return {"weight": slope.flatten(2).sum(dim=2) if x.ndim > 2 else slope}


FACTORS: dict[type[nn.Module], Callable[..., tuple[Tensor, Tensor]]] = {
    nn.Linear: linear_factors,
    **dict.fromkeys((nn.Conv1d, nn.Conv2d, nn.Conv3d), conv_factors),
    **dict.fromkeys((nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d), transposed_factors),
}
NORMALIZED: dict[type[nn.Module], Callable[[Any, Tensor], Tensor]] = {
    nn.LayerNorm: lambda n, x: F.layer_norm(x, n.normalized_shape, eps=n.eps),
    nn.RMSNorm: lambda n, x: F.rms_norm(x, n.normalized_shape, eps=n.eps),
    nn.GroupNorm: lambda n, x: F.group_norm(x, n.num_groups, eps=n.eps),
    **dict.fromkeys(
        (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        lambda n, x: F.instance_norm(
            x, n.running_mean, n.running_var, use_input_stats=n.training or not n.track_running_stats, momentum=0.0,
            eps=n.eps,
        ),
    ),
    **dict.fromkeys(
        (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d),
        lambda n, x: F.batch_norm(x, n.running_mean, n.running_var, training=False, eps=n.eps),
    ),
}  # fmt: skip
FORMULAS: dict[type[nn.Module], Callable[..., Gradients]] = {
    **dict.fromkeys(FACTORS, from_factors),
    **dict.fromkeys(NORMALIZED, affine),
    nn.Embedding: embedding,
    nn.PReLU: prelu,
}
