"""`per_sample_gradients` and `per_sample_norms`: check, choose an engine, run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from gradnorm.per_sample.batch import Batch, EngineRefusal, make_batch
from gradnorm.per_sample.engines import by_expanded_weights, by_loop, by_vmap
from gradnorm.per_sample.hooks import by_hooks, norms_by_hooks
from gradnorm.per_sample.norms import squares
from gradnorm.per_sample.support import unsupported_layers

Engine = Callable[[Batch], dict[str, Tensor]]
ENGINES: dict[str, Engine] = {
    "hooks": by_hooks,  # the fastest, and refuses what it cannot see
    "vmap": by_vmap,
    "expanded_weights": by_expanded_weights,
    "loop": by_loop,
}
# What "auto" tries, in this order. Not "expanded_weights": it is private to torch, and
# what other parts of torch do in the same process can make it wrong.
AUTO = ("hooks", "vmap", "loop")


def per_sample_gradients(
    module: nn.Module,
    inputs: Any,
    loss: Callable[..., Tensor],
    *,
    targets: Any = (),
    engine: str = "auto",
    loss_reduction: str = "sum",
    batch_first: bool = True,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """The gradient of every sample's own loss by every trainable parameter.

    The engines agree where the samples do not meet and nothing is drawn at random; each draws its own dropout masks.
    "hooks" and "expanded_weights" take the batch to be on the same axis in all layers. No `.grad` and no `grad_sample`
    is written, no hook stays, gradients do not flow back into `inputs`.

    Args:
        module: in the mode in which it is to run; in training mode BatchNorm is refused.
        inputs: a tensor, a tuple of the module's arguments, or a dict of them by name.
        loss: `loss(output, *targets)` → a scalar, for any number of samples. Everything that differs between samples
            belongs in `inputs` or `targets`, not in a closure.
        targets: a tensor or a tuple of them.
        engine: "hooks", "vmap", "expanded_weights", "loop", or "auto": the first of
            hooks, vmap and loop that can do every layer. "expanded_weights" compares
            its sum over the samples with the batch's gradient and refuses where they
            differ, for it rests on parts of torch that are private.
        loss_reduction: how `loss` joins the samples, "sum" or "mean". The gradients are the same: of the sample's own
            loss, without a factor 1/batch.
        batch_first: samples are counted by axis 0 of inputs, targets and outputs; otherwise by axis 1 (by the only one
            where there is one).
        batch_size: read off the inputs and targets if not given, in which all tensors must agree. If given, a tensor of
            another size is taken whole by every sample.

    Returns:
        The parameter's name → [batch, its shape …], in its type; zeros where the loss
        does not depend on it.

    Raises:
        EngineRefusal: the engine cannot do a layer (for "auto": no engine can); the message says which and why.
        TypeError: `module` is no module or `batch_size` no integer.
        ValueError: unknown engine or reduction, sizes that disagree or are 0, nothing trainable, or a loss that joins
            samples otherwise than `loss_reduction` says.
    """
    batch = make_batch(module, inputs, loss, targets, loss_reduction, batch_first, batch_size)
    types = {name: p.dtype for name, p in batch.parameters().items()}
    # under autocast an engine may give another type than the parameter has
    return {name: g.to(types[name]) for name, g in run(ENGINES, engine, batch).items()}


def per_sample_norms(
    module: nn.Module,
    inputs: Any,
    loss: Callable[..., Tensor],
    *,
    targets: Any = (),
    engine: str = "auto",
    loss_reduction: str = "sum",
    batch_first: bool = True,
    batch_size: int | None = None,
) -> dict[str, Tensor]:
    """The lengths of `per_sample_gradients`, by parameter: [batch] each.

    They are real, and in float32 at least. Arguments and errors are the same. With
    "hooks", which "auto" tries first, they come in closed form and the gradients are
    never made where that is cheaper. All parameters together:
    `torch.stack(list(norms.values())).norm(dim=0)`.
    """
    batch = make_batch(module, inputs, loss, targets, loss_reduction, batch_first, batch_size)

    def measured(by: Engine) -> Engine:
        return lambda batch: {name: squares(gradient).sqrt() for name, gradient in by(batch).items()}

    return run({name: measured(by) for name, by in ENGINES.items()} | {"hooks": norms_by_hooks}, engine, batch)


def run(engines: dict[str, Engine], engine: str, batch: Batch) -> dict[str, Tensor]:
    """The named engine, or the first of `AUTO` that does not refuse."""
    if engine not in ("auto", *engines):
        raise ValueError(f"engine must be 'auto' or one of {', '.join(engines)}; got {engine!r}")
    refusals = []
    for name in AUTO if engine == "auto" else (engine,):
        against = unsupported_layers(batch.module, name, batch.batch_first)
        if against:
            layers = "; ".join(f"{layer or 'the module'}: {reason}" for layer, reason in against.items())
            refusals.append(f"{name} cannot do {layers}")
            continue
        try:
            return engines[name](batch)
        except EngineRefusal as refusal:
            refusals.append(str(refusal))
    raise EngineRefusal("no per-sample gradients:\n" + "\n".join(refusals))
