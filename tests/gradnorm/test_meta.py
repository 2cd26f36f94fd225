"""Gradients through updates: a quadratic worked out by hand, finite differences, and the sinusoids."""

import pytest
import torch
from torch import nn

from gradnorm.meta import (
    adapt,
    adaptation_curve,
    losses_after_adapting,
    sinusoid_network,
    sinusoids,
    squared_error,
    train_sinusoids,
)

DOUBLE = torch.float64


def quadratic():
    """Inner L = ½ θᵀ A θ − bᵀ θ, outer ½ ‖θ − c‖²: θ_k = θ* + (1 − ηA)ᵏ (θ − θ*), and ∂θ_k/∂θ = (1 − ηA)ᵏ."""
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(3, 3, dtype=DOUBLE, generator=generator)
    a = root @ root.T + torch.eye(3, dtype=DOUBLE)
    return (a, *torch.randn(3, 3, dtype=DOUBLE, generator=generator).unbind())


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 2, 5])
def test_quadratic_by_hand(steps, first_order):
    a, b, c, theta = quadratic()
    rate = 0.1
    theta.requires_grad_()
    adapted = adapt(
        lambda p: p["w"] @ a @ p["w"] / 2 - b @ p["w"], {"w": theta}, rate, steps=steps, first_order=first_order
    )["w"]
    factor = torch.linalg.matrix_power(torch.eye(3, dtype=DOUBLE) - rate * a, steps)
    best = torch.linalg.solve(a, b)
    torch.testing.assert_close(adapted, best + factor @ (theta - best))
    (found,) = torch.autograd.grad((adapted - c).square().sum() / 2, theta)
    expected = (adapted - c).detach() if first_order else factor.T @ (adapted - c).detach()
    torch.testing.assert_close(found, expected)
    if steps:  # the two forms differ, or nothing was told apart
        assert (factor.T @ (adapted - c) - (adapted - c)).abs().max() > 1e-2


@pytest.mark.parametrize("transform", ["autograd", "func"])
def test_network_against_finite_differences(transform):
    """Three inner steps of a tanh network, by a random direction in the parameters."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    x, y, x_query, y_query = (torch.randn(6, n, dtype=DOUBLE) for n in (2, 1, 2, 1))

    def after(parameters):
        adapted = adapt(lambda p: squared_error(network, p, x, y), parameters, 0.1, steps=3)
        return squared_error(network, adapted, x_query, y_query)

    parameters = {name: p.detach() for name, p in network.named_parameters()}
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}
    if transform == "func":
        slopes = torch.func.grad(after)(parameters)
    else:
        leaves = {name: p.clone().requires_grad_() for name, p in parameters.items()}
        slopes = dict(zip(leaves, torch.autograd.grad(after(leaves), list(leaves.values())), strict=True))
    moved = [after({name: p + s * 1e-5 * direction[name] for name, p in parameters.items()}) for s in (1, -1)]
    expected = (moved[0] - moved[1]) / 2e-5
    torch.testing.assert_close(sum((slopes[n] * direction[n]).sum() for n in slopes), expected, rtol=1e-7, atol=1e-9)
    assert all(not hasattr(p, "grad") or p.grad is None for p in network.parameters())


def test_retain_graph_alone_is_silently_first_order():
    """The trap: without create_graph the inner gradients are constants, and nobody says so. `adapt` is told."""
    a, b, c, theta = quadratic()
    theta.requires_grad_()
    inner = theta @ a @ theta / 2 - b @ theta
    (slope,) = torch.autograd.grad(inner, theta, retain_graph=True)
    (trapped,) = torch.autograd.grad((theta - 0.1 * slope - c).square().sum() / 2, theta)

    def meta_gradient(first_order):
        adapted = adapt(lambda p: p["w"] @ a @ p["w"] / 2 - b @ p["w"], {"w": theta}, 0.1, first_order=first_order)
        return torch.autograd.grad((adapted["w"] - c).square().sum() / 2, theta)[0]

    torch.testing.assert_close(trapped, meta_gradient(first_order=True))
    assert (trapped - meta_gradient(first_order=False)).abs().max() > 1e-2


def test_tasks_at_once_are_tasks_one_by_one():
    network, batch = sinusoid_network(), sinusoids(4, generator=torch.Generator().manual_seed(0))
    together = losses_after_adapting(network, batch, 0.01, 2)
    for i in range(4):
        copy = sinusoid_network()
        copy.load_state_dict(network.state_dict())
        for _ in range(2):
            loss = (copy(batch.x[i]) - batch.y[i]).square().mean()
            for p, g in zip(copy.parameters(), torch.autograd.grad(loss, list(copy.parameters())), strict=True):
                p.data.sub_(0.01 * g)
        torch.testing.assert_close((copy(batch.x_query[i]) - batch.y_query[i]).square().mean(), together[i])


def test_sinusoids_are_what_the_paper_says():
    batch = sinusoids(2000, generator=torch.Generator().manual_seed(0))
    assert batch.x.min() >= -5
    assert batch.x.max() <= 5
    assert batch.y.abs().max() <= 5
    for x, y in ((batch.x, batch.y), (batch.x_query, batch.y_query)):  # A sin(x − φ) = p sin x + q cos x
        basis = torch.cat((x.sin(), x.cos()), dim=-1).double()
        solution = torch.linalg.lstsq(basis, y.double()).solution
        torch.testing.assert_close(basis @ solution, y.double(), rtol=1e-4, atol=1e-4)
        amplitude, phase = solution.norm(dim=1), torch.atan2(-solution[:, 1], solution[:, 0])
        assert 0.1 - 1e-3 <= amplitude.min() < 0.2 < 4.8 < amplitude.max() <= 5 + 1e-3
        assert -1e-2 <= phase.min() < 0.1 < 3.0 < phase.max() <= 3.1416 + 1e-2
    torch.testing.assert_close(batch.y.square().mean(), torch.tensor(4.35), rtol=0.05, atol=0.0)  # ½ E[A²] = 4.34


def test_trained_network_adapts_better_than_a_plain_one():
    """A tiny run; `benchmarks/recipes_meta.py` makes the paper's picture."""
    size = {"tasks": 10, "outer_rate": 5e-3}
    meta = adaptation_curve(train_sinusoids(80, **size), steps=1, tasks=100)
    plain = adaptation_curve(train_sinusoids(80, inner_steps=0, **size), steps=1, tasks=100)
    assert meta[1] < 0.95 * meta[0]
    assert meta[1] < plain[1]


def test_negative_steps_are_refused():
    with pytest.raises(ValueError, match="0 or more, got -1"):
        adapt(lambda p: p["w"].sum(), {"w": torch.ones(1)}, 0.1, steps=-1)


def test_a_module_in_place_of_its_parameters(plain_types):
    with pytest.raises(TypeError, match=r"dict\(module\.named_parameters\(\)\); got Linear"):
        adapt(lambda p: p["weight"].sum(), torch.nn.Linear(1, 1), 0.1)


@pytest.mark.parametrize("first_order", [False, True])
def test_complex_parameters(first_order):
    """As their real and imaginary parts: the steps, and the gradient through them."""
    torch.manual_seed(0)
    a, w = (
        torch.randn(3, 3, dtype=torch.complex128),
        torch.randn(3, dtype=torch.complex128),
    )
    parts = torch.view_as_real(w).clone().requires_grad_()
    w.requires_grad_()

    def loss(p):
        return (a @ p["w"] - 1).abs().pow(3).sum()

    def loss_of_parts(p):
        return loss({"w": torch.view_as_complex(p["w"])})

    after = adapt(loss, {"w": w}, 1e-3, steps=3, first_order=first_order)
    same = adapt(loss_of_parts, {"w": parts}, 1e-3, steps=3, first_order=first_order)
    torch.testing.assert_close(torch.view_as_real(after["w"]), same["w"])
    (found,) = torch.autograd.grad(after["w"].abs().sum(), w)
    (expected,) = torch.autograd.grad(
        torch.view_as_complex(same["w"]).abs().sum(), parts
    )
    torch.testing.assert_close(torch.view_as_real(found), expected)
