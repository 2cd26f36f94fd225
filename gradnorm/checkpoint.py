"""Memory for time: a segment of a network whose activations are thrown away and computed again when they are needed.

The recipe is one custom Function. Its forward runs the segment without a graph and keeps the inputs alone; its backward
runs the segment again, with a graph, and asks `autograd.grad` for the gradients by the inputs and the parameters (Chen
et al., *Training deep nets with sublinear memory cost* (2016), arXiv 1604.06174). What goes into it beyond that is what
makes the second run the same as the first: the random state, autocast, and the derivative of the derivative.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils._pytree import tree_flatten, tree_unflatten

from gradnorm.graph import users

Flat = Callable[..., tuple[Any, ...]]  # a function from tensors to tensors (None where there is no gradient)


class Surroundings:
    """The random state and autocast that a function runs under, to run it under them again."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self.cpu = torch.get_rng_state()
        places = {t.device for t in tensors}
        self.devices = sorted(place.index for place in places if place.type == "cuda")
        self.cuda = [torch.cuda.get_rng_state(device) for device in self.devices]
        types = {"cpu", *(place.type for place in places)}
        self.autocast = {t: (torch.is_autocast_enabled(t), torch.get_autocast_dtype(t)) for t in types}

    @contextlib.contextmanager
    def casting(self):
        """Autocast as it was, without its cache: weights cast while no graph is built must not be handed out later."""
        with contextlib.ExitStack() as stack:
            for kind, (enabled, dtype) in self.autocast.items():
                stack.enter_context(torch.autocast(kind, enabled=enabled, dtype=dtype, cache_enabled=False))
            yield

    @contextlib.contextmanager
    def again(self):
        """Random state and autocast as they were; afterwards the random state is as before."""
        with torch.random.fork_rng(self.devices), self.casting():
            torch.set_rng_state(self.cpu)
            for device, state in zip(self.devices, self.cuda, strict=True):
                torch.cuda.set_rng_state(state, device)
            yield


def gradients_of(
    run: Flat, inputs: int, wanted_outputs: Sequence[int], parameters: Sequence[Tensor], surroundings: Surroundings
) -> Flat:
    """The function (inputs …, gradients of the wanted outputs …) → gradients by the inputs and the parameters.

    It runs `run` again. It is itself a function from tensors to tensors: what is done to `run` can be done to it.
    """

    def again(*tensors: Tensor) -> tuple[Tensor | None, ...]:
        create_graph = torch.is_grad_enabled()
        with torch.enable_grad(), surroundings.again():
            # leaves of their own: no path leads from one input to another but through `run`
            given = [t if create_graph else t.detach().requires_grad_(t.requires_grad) for t in tensors[:inputs]]
            outputs = run(*given)
        pairs = [(outputs[i], g) for i, g in zip(wanted_outputs, tensors[inputs:], strict=True)]
        pairs = [(output, gradient) for output, gradient in pairs if output.requires_grad]
        sources = (*given, *parameters)
        wanted = [i for i, t in enumerate(sources) if t.requires_grad]
        found: list[Tensor | None] = [None] * len(sources)
        if pairs:
            ends, slopes = zip(*pairs, strict=True)
            refuse_unlisted(ends, sources)
            by = [sources[i] for i in wanted]
            gradients = torch.autograd.grad(ends, by, slopes, create_graph=create_graph, allow_unused=True)
            for i, gradient in zip(wanted, gradients, strict=True):
                found[i] = gradient
        return tuple(found)

    return again


class Recompute(torch.autograd.Function):
    """`run` without its activations. `tensors` are its inputs, then the parameters that it uses by closure."""

    @staticmethod
    def forward(ctx: Any, run: Flat, inputs: int, *tensors: Tensor) -> tuple[Tensor | None, ...]:
        ctx.run, ctx.inputs, ctx.surroundings = run, inputs, Surroundings(tensors)
        ctx.set_materialize_grads(False)
        versions = [t._version for t in tensors[:inputs]]
        with torch.no_grad(), ctx.surroundings.casting():
            outputs = run(*tensors[:inputs])
        if versions != [t._version for t in tensors[:inputs]]:
            raise RuntimeError(
                "the segment changes an argument in place, so that it cannot be run again: clone it first"
            )
        ctx.save_for_backward(*tensors)
        made = [output for output in outputs if output is not None]
        ctx.mark_non_differentiable(*(t for t in made if not (t.is_floating_point() or t.is_complex())))
        return outputs

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        saved = ctx.saved_tensors  # once: another checkpoint around this one hands them out a single time
        inputs, parameters = saved[: ctx.inputs], saved[ctx.inputs :]
        reached = [i for i, gradient in enumerate(output_gradients) if gradient is not None]
        gradients = gradients_of(ctx.run, ctx.inputs, reached, parameters, ctx.surroundings)
        given = (*inputs, *(g for g in output_gradients if g is not None))
        if torch.is_grad_enabled():  # create_graph: the derivative of a recomputed function is a recomputed function
            return None, None, *Recompute.apply(gradients, len(given), *given, *parameters)
        return None, None, *gradients(*given)


def refuse_unlisted(outputs: Sequence[Tensor], listed: Sequence[Tensor]) -> None:
    """Look at the leaves of a segment's graph: a trainable one that is not listed would silently get no gradient.

    Raises:
        ValueError: there is one.
    """
    # By their nodes in the graph: tensors that were saved and unpacked (save_on_cpu) are other objects.
    known = {get_gradient_edge(t).node for t in listed if t.requires_grad}
    for node in users(*outputs):
        leaf = getattr(node, "variable", None)
        if leaf is not None and node not in known:
            raise ValueError(
                f"the segment uses a tensor of shape {tuple(leaf.shape)} that requires a gradient and would get "
                "none: pass it as an argument, or, if it is a parameter, in `parameters`"
            )


def reentrant_hint(*losses: Tensor) -> str:
    """What to add to a message about a missing gradient: the cause, where a graph goes
    through torch's re-entrant checkpointing, "" where none does.

    The parameters used in it are no nodes of the graph (its backward pass builds one of
    its own), so that to `autograd.grad` nothing depends on them.
    """
    if any(node.name().endswith("CheckpointFunctionBackward") for node in users(*losses)):
        return (
            ". The cause may be torch.utils.checkpoint with use_reentrant=True, "
            "which this loss comes through: it hides the parameters used in it "
            "from the graph. Pass use_reentrant=False, or take "
            "gradnorm.checkpoint.checkpoint"
        )
    return ""


def split(tree: Any) -> tuple[tuple[Tensor, ...], Callable[[Sequence[Tensor]], Any]]:
    """The tensors in nested arguments or results, and the function that puts others in their places."""
    leaves, structure = tree_flatten(tree)
    places = [i for i, leaf in enumerate(leaves) if isinstance(leaf, Tensor)]
    rest = [None if isinstance(leaf, Tensor) else leaf for leaf in leaves]

    def join(tensors: Sequence[Tensor]) -> Any:
        given = dict(zip(places, tensors, strict=True))
        return tree_unflatten([given.get(i, leaf) for i, leaf in enumerate(rest)], structure)

    return tuple(leaves[i] for i in places), join


def checkpoint(
    function: Callable[..., Any], *args: Any, parameters: Iterable[Tensor] | None = None, **kwargs: Any
) -> Any:
    """`function(*args, **kwargs)`, whose activations are not kept but computed again in the backward pass.

    Gradients are those of the plain call, of every order, by `backward` as by `autograd.grad`. Dropout draws the same
    masks again. Arguments and results may be nested and need not be tensors; a parameter that the function does not use
    keeps its gradient None. What a forward pass changes (BatchNorm's running statistics) is changed in both.

    Args:
        function: a module, or a function of its arguments and of `parameters`.
        parameters: the leaves that it uses beside its arguments; for a module, its parameters.

    Raises:
        ValueError: one of `parameters` is computed from others; or, in the backward pass, the function used a tensor
            that requires a gradient and is neither an argument nor in `parameters`.
        RuntimeError: the function changes an argument in place.
    """
    if not torch.is_grad_enabled():
        return function(*args, **kwargs)
    if parameters is None:
        parameters = function.parameters() if isinstance(function, nn.Module) else ()
    trained = [p for p in parameters if p.requires_grad]
    if not all(p.is_leaf for p in trained):
        raise ValueError("`parameters` are leaves; pass a tensor that is computed from others as an argument")
    tensors, join = split((args, kwargs))
    joins: list[Callable[[Sequence[Tensor]], Any]] = []  # how to put the results together

    def run(*tensors: Tensor) -> tuple[Tensor, ...]:
        positional, keywords = join(tensors)
        results, join_results = split(function(*positional, **keywords))
        joins[:] = [join_results]
        return results

    results = Recompute.apply(run, len(tensors), *tensors, *trained)
    return joins[0](results)


def checkpoint_sequential(layers: nn.Sequential | Sequence[nn.Module], segments: int, x: Any) -> Any:
    """The layers one after another, in `segments` checkpointed pieces of about the same number of layers.

    Of n layers' activations n/segments are alive at once, and segments inputs: least at segments = √n. The last piece
    is kept as it is, since its backward pass comes at once.

    Raises:
        ValueError: segments is not between 1 and the number of layers.
    """
    if not 1 <= segments <= len(layers):
        raise ValueError(f"segments must be between 1 and the number of layers, {len(layers)}; got {segments}")
    ends = [round(i * len(layers) / segments) for i in range(segments + 1)]
    pieces = [nn.Sequential(*list(layers)[start:end]) for start, end in pairwise(ends)]
    for piece in pieces[:-1]:
        x = checkpoint(piece, x)
    return pieces[-1](x)
