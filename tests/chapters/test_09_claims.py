"""Chapter 9 compares ways to checkpoint in a table; here are the claims in it that no cell of the chapter shows."""

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.checkpoint import CheckpointPolicy, create_selective_checkpoint_contexts
from torch.utils.checkpoint import checkpoint as torch_checkpoint

from gradnorm.checkpoint import checkpoint


@pytest.mark.parametrize("reentrant", [True, False])
def test_torch_finds_a_weight_by_closure(reentrant: bool) -> None:
    weight, x = nn.Parameter(torch.ones(3)), torch.arange(6.0).reshape(2, 3).requires_grad_()
    torch_checkpoint(lambda x: x * weight, x, use_reentrant=reentrant).sum().backward()
    assert weight.grad is not None
    assert torch.equal(weight.grad, x.detach().sum(0))


def test_integers_alone_end_the_graph_of_torchs_reentrant_form() -> None:
    words, index = nn.Embedding(5, 4), torch.tensor([1, 2])
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        assert not torch_checkpoint(words, index, use_reentrant=True).requires_grad
    assert torch_checkpoint(words, index, use_reentrant=False).requires_grad
    assert checkpoint(words, index).requires_grad


def test_torchs_reentrant_form_replays_random_numbers_and_autocast() -> None:
    x, seen = torch.ones(1000, requires_grad=True), []

    def segment(x: Tensor) -> Tensor:
        seen.append(torch.is_autocast_enabled("cpu"))
        return x * torch.rand(1000)

    with torch.autocast("cpu", dtype=torch.bfloat16):
        y = torch_checkpoint(segment, x, use_reentrant=True)
    y.sum().backward()
    assert torch.equal(x.grad, y.detach())
    assert seen == [True, True]


class Counting(nn.Module):
    """Counts its runs."""

    runs = 0

    def forward(self, x: Tensor) -> Tensor:
        """x, unchanged."""
        self.runs += 1
        return x * 1


@pytest.mark.parametrize(("form", "runs"), [("not reentrant", 1), ("reentrant", 2), ("ours", 2)])
def test_who_stops_early(form: str, runs: int) -> None:
    """After the tanh nothing is saved: a run that is needed for saved tensors alone may end before the last layer."""
    last = Counting()
    segment, x = nn.Sequential(nn.Linear(3, 3), nn.Tanh(), last), torch.ones(2, 3, requires_grad=True)
    forms = {
        "ours": lambda: checkpoint(segment, x),
        "reentrant": lambda: torch_checkpoint(segment, x, use_reentrant=True),
        "not reentrant": lambda: torch_checkpoint(segment, x, use_reentrant=False),
    }
    forms[form]().sum().backward()
    assert last.runs == runs


def test_selective_checkpointing_keeps_the_products() -> None:
    """With a policy that keeps matrix products, fewer are computed, and the gradient is the same."""
    products: list[str] = []

    class Count(TorchDispatchMode):
        def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            products.extend(["product"] * (operation is torch.ops.aten.mm.default))
            return operation(*args, **(kwargs or {}))

    def policy(context: object, operation: object, *args: object, **kwargs: object) -> CheckpointPolicy:
        keep = operation is torch.ops.aten.mm.default
        return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

    def segment(x: Tensor) -> Tensor:
        return (x @ weight).tanh() @ weight

    def run(**options: Any) -> tuple[int, Tensor]:
        products.clear()
        with Count():
            y = torch_checkpoint(segment, x, use_reentrant=False, **options)
            (gradient,) = torch.autograd.grad(y.sum(), weight)
        return len(products), gradient

    x, weight = torch.randn(5, 4), torch.randn(4, 4, requires_grad=True)
    all_again, expected = run()
    selective, found = run(context_fn=partial(create_selective_checkpoint_contexts, policy))
    torch.testing.assert_close(found, expected)
    assert selective < all_again
