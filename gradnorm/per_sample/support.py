"""Which layers an engine cannot do, and why: known before anything is computed."""

from __future__ import annotations

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from gradnorm.per_sample.formulas import FORMULAS

EXPANDED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Embedding, nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d,
            nn.InstanceNorm2d, nn.InstanceNorm3d, nn.RNN, nn.LSTM, nn.GRU)  # fmt: skip


def unsupported_layers(module: nn.Module, engine: str, batch_first: bool = True) -> dict[str, str]:
    """The layers of `module` that `engine` cannot give per-sample gradients of: the layer's name → the reason.

    Empty: nothing is known against it. What only shows in running (a parameter used outside of its layer, control flow
    that depends on data) is found in running.

    Raises:
        ValueError: no such engine. "auto" is none: it tries each.
    """
    if engine not in REASONS:
        raise ValueError(f"engine must be one of {', '.join(REASONS)}; got {engine!r}")
    if engine == "expanded_weights" and not batch_first:
        return {"": "ExpandedWeights reads the batch off axis 0 of every layer's input"}
    found = {}
    for name, layer in module.named_modules():
        reason = mixes_samples(layer) or REASONS[engine](layer)
        if reason:
            found[name] = f"{type(layer).__name__}: {reason}"
    return found


def mixes_samples(layer: nn.Module) -> str:
    """Batch statistics make every sample's loss a function of all samples: no engine can tell them apart."""
    if isinstance(layer, _BatchNorm) and (layer.training or layer.running_mean is None):
        return "its statistics mix the samples, so that a sample has no gradient of its own; use eval() or GroupNorm"
    return ""


def own_parameters(layer: nn.Module) -> dict[str, nn.Parameter]:
    """The trainable parameters of the layer itself, not of modules in it."""
    return {name: p for name, p in layer.named_parameters(recurse=False) if p.requires_grad}


def hooks_reason(layer: nn.Module) -> str:
    own = own_parameters(layer)
    if any(p.is_complex() for p in own.values()):
        return (
            "the formulas are derived for real numbers, and it has complex ones; "
            "'vmap' and 'loop' take these"
        )
    if own and (type(layer) not in FORMULAS or not own.keys() <= {"weight", "bias"}):
        return f"there is no formula for its {', '.join(own)}"
    if isinstance(layer, nn.Embedding) and (layer.max_norm is not None or layer.scale_grad_by_freq):
        return "max_norm and scale_grad_by_freq look at the whole batch"
    return ""


def expanded_reason(layer: nn.Module) -> str:
    own = own_parameters(layer)
    if any(p.is_complex() for p in own.values()):
        return (
            "ExpandedWeights leaves out the conjugates that complex numbers need; "
            "'vmap' and 'loop' take these"
        )
    if own and type(layer) not in EXPANDED:
        return f"ExpandedWeights has no rule for its {', '.join(own)}"
    if isinstance(layer, nn.Embedding) and (layer.padding_idx, layer.max_norm, layer.scale_grad_by_freq) != (
        None,
        None,
        False,
    ):
        return "ExpandedWeights ignores padding_idx, max_norm and scale_grad_by_freq, silently"
    if isinstance(layer, nn.RNNBase) and not layer.batch_first:
        return "ExpandedWeights needs batch_first=True in recurrent layers, or the layers after take time for the batch"
    if isinstance(layer, nn.RNNBase) and drops_inside(layer):
        return (
            "ExpandedWeights draws other dropout masks in it than torch does, and its "
            "sums cannot be checked"
        )
    return ""


def drops_inside(layer: nn.RNNBase) -> bool:
    """Whether a recurrent layer draws masks, as it does between its layers."""
    return layer.training and layer.dropout > 0 and layer.num_layers > 1


def vmap_reason(layer: nn.Module) -> str:
    if isinstance(layer, nn.RNNBase):
        return "vmap has no batching rule for the fused recurrence"
    if isinstance(layer, nn.Embedding) and layer.max_norm is not None:
        return "max_norm changes the weight in place"
    return loop_reason(layer)


def loop_reason(layer: nn.Module) -> str:
    if isinstance(layer, _InstanceNorm) and layer.training and layer.track_running_stats:
        return "it would update its running statistics once for every sample"
    return ""


REASONS = {"hooks": hooks_reason, "expanded_weights": expanded_reason, "vmap": vmap_reason, "loop": loop_reason}
