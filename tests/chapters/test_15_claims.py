"""Chapter 15 says what the min-norm direction promises over features, under division, and under noise."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradnorm.pareto import common_descent, min_norm_point


def test_features_may_break_the_promise() -> None:
    """The direction found at features lowers every loss there; through an invertible Jacobian it raises one."""
    jacobian = torch.tensor([[1.0, 0.0], [1.5, 1.3]])
    theta = torch.zeros(2, requires_grad=True)
    z = jacobian @ theta
    losses = [z[0] + z[1], z[0] - z[1]]
    found = common_descent(losses, z)
    z.backward(*found.direction, retain_graph=True)
    assert theta.grad is not None
    at_features = torch.stack([torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in losses])
    at_parameters = torch.stack([torch.autograd.grad(loss, theta, retain_graph=True)[0] for loss in losses])
    assert (at_features @ found.direction[0] > 0).all()
    assert (at_parameters @ theta.grad)[1] < 0
    exact = common_descent(losses, theta)
    assert (at_parameters @ exact.direction[0] >= exact.squared_norm * (1 - 1e-6)).all()


def rates(rows: Tensor, weights: Tensor) -> Tensor:
    """⟨g_i, d⟩ for d = Σ w_i g_i."""
    return rows @ (weights.double() @ rows)


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 6), st.integers(0, 1000))
def test_what_division_promises(tasks: int, seed: int) -> None:
    """By the loss: equal relative decrease. By the length: equal cosines. For all that have a share."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(tasks, 20, dtype=torch.float64, generator=generator)
    theta = nn.Parameter(torch.zeros(20, dtype=torch.float64))
    values = torch.logspace(-1, 2, tasks, dtype=torch.float64)
    losses = [row @ theta + value for row, value in zip(rows, values, strict=True)]

    by_loss = common_descent([loss / loss.detach() for loss in losses], theta)
    relative = rows @ by_loss.direction[0] / values
    shared = by_loss.weights > 1e-9
    torch.testing.assert_close(relative[shared], relative[shared][:1].expand(int(shared.sum())), rtol=1e-6, atol=0.0)
    assert (relative >= relative[shared][0] * (1 - 1e-6)).all()

    by_length = common_descent(losses, theta, max_norm=1e-3)
    cosines = rates(rows, by_length.weights) / rows.norm(dim=1)
    shared = by_length.weights > 1e-9
    torch.testing.assert_close(cosines[shared], cosines[shared][:1].expand(int(shared.sum())), rtol=1e-6, atol=0.0)


@pytest.mark.parametrize("batch", [4, 64])
def test_noise_adds_its_trace_to_the_diagonal(batch: int) -> None:
    truth = torch.tensor([[1.0, 0.0, 0.0], [-0.5, 0.9, 0.0]])
    noise = torch.randn(20_000, 2, 3, generator=torch.Generator().manual_seed(0)) / batch**0.5
    noisy = truth + noise
    mean = (noisy @ noisy.mT).mean(0)
    torch.testing.assert_close(mean, truth @ truth.T + 3 / batch * torch.eye(2), rtol=0.0, atol=0.02)


def test_a_loss_without_a_share_does_not_train_its_head() -> None:
    """Descending Σ α_i L_i with everything leaves the head of a loss with share 0 where it is."""
    torch.manual_seed(0)
    trunk, heads = nn.Linear(3, 4), nn.ModuleList(nn.Linear(4, 1) for _ in range(2))
    z = trunk(torch.ones(1, 3))
    losses = [1e-3 * heads[0](z).sum(), 1e3 * heads[0](z).sum() + heads[1](z).sum()]
    found = common_descent(losses, trunk)
    assert found.weights.tolist() == [1, 0]
    (found.weights * torch.stack(losses)).sum().backward()
    assert heads[0].weight.grad.abs().max() > 0
    assert not heads[1].weight.grad.any()


def test_the_gap_bounds_the_excess_of_any_shares() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(50):
        rows = torch.randn(5, 8, dtype=torch.float64, generator=generator)
        gram = rows @ rows.T
        shares = torch.rand(5, dtype=torch.float64, generator=generator)
        shares = shares / shares.sum()
        value = shares @ gram @ shares
        gap = 2 * (value - (gram @ shares).min())
        assert 0 <= value - min_norm_point(gram).squared_norm <= gap
