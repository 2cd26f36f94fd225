"""Squared lengths of a layer's per-sample gradients, without the gradients where that is cheaper."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradnorm._typing import Float
from gradnorm.measure import wide
from gradnorm.per_sample.formulas import (
    FACTORS,
    FORMULAS,
    bias_gradient,
    factors_of,
    used_deltas,
)

SquaredNorms = dict[str, Tensor]  # "weight", "bias" → [batch]


def squares(gradient: Tensor) -> Float[Tensor, " batch"]:
    """‖g_n‖² of gradients [batch, …], real or complex; in float32 at least."""
    dtype = torch.promote_types(gradient.dtype, torch.float32)
    rows = gradient[..., None].flatten(1)  # [batch, numbers], of a single number too
    return torch.linalg.vector_norm(rows, dim=1, dtype=dtype).square()


def product_squares(
    first: Float[Tensor, "batch groups length m"], second: Float[Tensor, "batch groups length n"]
) -> Float[Tensor, " batch"]:
    """‖Δᵀ X‖² = Σ (Δ Δᵀ) ∘ (X Xᵀ): length² (m + n) multiplications where the product itself takes length · m · n.

    One position is the case ‖δ‖² ‖h‖². For convolutions this is the ghost norm of Bu, Mao and Xu (2022), arXiv
    2205.10683, with their choice of the cheaper form for each layer.
    """
    length, m, n = first.shape[2], first.shape[3], second.shape[3]
    if length * (m + n) >= m * n:
        return squares(first.mT @ second)
    return ((first @ first.mT) * (second @ second.mT)).flatten(1).sum(dim=1)


def embedding_squares(layer: nn.Embedding, x: Tensor, delta: Tensor) -> Float[Tensor, " batch"]:
    """Σ δ_l · δ_m over all pairs of positions with the same word."""
    delta = used_deltas(layer, x, delta)
    words = x.reshape(len(x), -1)
    same = words[:, :, None] == words[:, None, :]  # [batch, length, length]
    return ((delta @ delta.mT) * same).flatten(1).sum(dim=1)


def squared_norms(layer: nn.Module, x: Tensor, delta: Tensor) -> SquaredNorms:
    """Of the layer's own parameters; summed in float32 at least."""
    delta = wide(delta)
    if type(layer) in FACTORS:
        factors = factors_of(layer, x, delta)
        return {"weight": product_squares(*factors), "bias": squares(bias_gradient(layer, delta))}
    if isinstance(layer, nn.Embedding):
        return {"weight": embedding_squares(layer, x, delta)}
    return {name: squares(gradient) for name, gradient in FORMULAS[type(layer)](layer, x, delta).items()}
