"""Chapter 11 compares ways to differentiate through a step; here are the claims of its table that no cell shows."""

import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from gradnorm.checkpoint import checkpoint
from gradnorm.meta import adapt, sinusoid_network, sinusoids, squared_error


def test_the_best_guess_and_its_loss() -> None:
    """Without a step: E[y | x] = −(2 · 2.55 / π) cos x, by drawing tasks, and the mean squared error that is left."""
    tasks = sinusoids(200_000, shots=5, queries=1, generator=torch.Generator().manual_seed(0))
    guess = -(2 * 2.55 / math.pi) * tasks.x.cos()
    slope = (tasks.y * tasks.x.cos()).mean() / tasks.x.cos().square().mean()  # the least squares multiple of cos x
    torch.testing.assert_close(slope, torch.tensor(-2 * 2.55 / math.pi), rtol=0.015, atol=0.0)
    assert (tasks.y * tasks.x.sin()).mean().abs() < 0.02  # nothing of the other phase
    second_moment = (5**3 - 0.1**3) / (3 * 4.9)
    floor = second_moment / 2 - (2 * 2.55 / math.pi) ** 2 * (0.5 + math.sin(10) / 20)
    torch.testing.assert_close((tasks.y - guess).square().mean().item(), floor, rtol=0.015, atol=0.0)


def test_values_that_are_loaded_into_a_module_get_no_gradient() -> None:
    """The values arrive, the graph does not, and nothing raises."""
    torch.manual_seed(0)
    network, copy, x = nn.Linear(2, 1), nn.Linear(2, 1), torch.randn(5, 2)
    start = dict(network.named_parameters())
    adapted = adapt(lambda p: squared_error(network, p, x, torch.ones(5, 1)), start, 0.1)
    copy.load_state_dict(adapted)
    torch.testing.assert_close(copy.weight, adapted["weight"])
    loss = copy(x).square().mean()
    with pytest.raises(RuntimeError, match="not have been used in the graph"):  # asked for by name, it does raise
        torch.autograd.grad(loss, list(network.parameters()), retain_graph=True)
    loss.backward()
    assert all(p.grad is None for p in network.parameters())
    squared_error(network, adapted, x, torch.zeros(5, 1)).backward()
    assert all(p.grad is not None for p in network.parameters())


def test_adams_first_step_is_first_order() -> None:
    """Its first step is a sign, whose derivative is 0; and the root of a square has none at 0."""

    def step(theta: torch.Tensor) -> torch.Tensor:
        slope = grad(lambda t: (t**4).sum() / 4)(theta)
        first, second = 0.1 * slope, 0.001 * slope**2  # the moments, decays 0.9 and 0.999
        return theta - 0.1 * (first / 0.1) / ((second / 0.001).sqrt() + 1e-8)

    theta = torch.tensor([1.0, -1.5, 0.5], dtype=torch.float64)
    torch.testing.assert_close(jacrev(step)(theta), torch.eye(3, dtype=torch.float64), atol=1e-6, rtol=0.0)
    assert jacrev(step)(torch.tensor([1.0, 0.0]))[1].isnan().any()


def test_running_statistics_are_refused() -> None:
    """By `grad` and by `vmap`; without them batch normalisation works in both. Dropout has to be told about masks."""
    x = torch.randn(4, 5, 3)
    for norm in (nn.BatchNorm1d(3), nn.BatchNorm1d(3, track_running_stats=False)):
        start = {name: p.detach() for name, p in norm.named_parameters()}

        def loss(p: dict[str, torch.Tensor], x: torch.Tensor, norm: nn.Module = norm) -> torch.Tensor:
            return functional_call(norm, p, (x,)).pow(3).sum()

        for run in (lambda: grad(loss)(start, x[0]), lambda: vmap(loss, in_dims=(None, 0))(start, x)):  # noqa: B023
            if norm.track_running_stats:
                with pytest.raises(RuntimeError, match=r"in.place"):
                    run()
            else:
                run()
    with pytest.raises(RuntimeError, match="randomness"):
        vmap(nn.Dropout())(x)
    vmap(nn.Dropout(), randomness="different")(x)


def test_checkpointed_steps_have_the_same_meta_gradient() -> None:
    torch.manual_seed(0)
    network, x, y = sinusoid_network().double(), torch.randn(8, 1).double(), torch.randn(8, 1).double()
    found = []
    for wrap in (False, True):
        start = {name: p.detach().requires_grad_() for name, p in network.named_parameters()}
        adapted = start
        for _ in range(3):

            def step(p: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
                return adapt(lambda q: squared_error(network, q, x, y), p, 0.05)

            adapted = checkpoint(step, adapted) if wrap else step(adapted)
        found.append(torch.autograd.grad(squared_error(network, adapted, x, -y), list(start.values())))
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again)
        assert plain.abs().max() > 0


@pytest.mark.parametrize("edit", ["optimizer", "data"])
def test_who_notices_that_the_start_was_overwritten(edit: str) -> None:
    """Only the optimizer's edit raises, and only where the outer loss contains a loss from before it."""
    for contains_older in (False, True):
        theta = torch.tensor([1.0, -2.0], requires_grad=True)
        inner = (theta**4).sum() / 4
        (slope,) = torch.autograd.grad(inner, theta, create_graph=True)
        if edit == "optimizer":
            theta.grad = slope.detach()
            torch.optim.SGD([theta], lr=0.1).step()
        else:
            theta.data -= 0.1 * slope
        outer = theta.square().sum() + (inner if contains_older else 0.0)
        if contains_older and edit == "optimizer":
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                torch.autograd.grad(outer, theta)
        else:
            (found,) = torch.autograd.grad(outer, theta)
            first_order = 2 * theta.detach() + contains_older * theta.detach() ** 3  # at the overwritten start
            torch.testing.assert_close(found, first_order)
