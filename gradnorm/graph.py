"""The one walk over autograd's graph that everything in the package takes."""

from __future__ import annotations

from torch import Tensor
from torch.autograd.graph import Node


def users(*tensors: Tensor) -> dict[Node, list[Node]]:
    """The graph behind some tensors, upside down: each node with those that use its
    result, once for each use.

    A leaf's node has the leaf as `variable`. The nodes of the tensors themselves are
    there too, with no users where no other of the tensors comes through them.
    """
    found: dict[Node, list[Node]] = {
        t.grad_fn: [] for t in tensors if t.grad_fn is not None
    }
    waiting = list(found)
    while waiting:
        node = waiting.pop()
        for used, _ in node.next_functions:
            if used is None:
                continue
            if used not in found:
                found[used] = []
                waiting.append(used)
            found[used].append(node)
    return found
