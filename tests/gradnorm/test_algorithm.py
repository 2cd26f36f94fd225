"""The paper's algorithm: each line against numpy, and what must hold whatever the numbers are."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses
from gradnorm.algorithm import SMALLEST_WEIGHT, adam_direction, balance_step, gradnorm_targets, lgrad_gradient
from gradnorm.measure import gradient_lengths

positive = st.floats(1e-12, 1e12)


class LinearTasks(nn.Module):
    """L_i = mean_n (a_i · W x_n − y_in)², in float64: ∇_W L_i = 2 mean_n (residual) a_i x_nᵀ by hand."""

    def __init__(self, tasks: int, seed: int = 0):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)

        def normal(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator, dtype=torch.float64)

        self.shared = nn.Parameter(normal(3, 5))
        self.heads = normal(tasks, 3) * torch.logspace(-0.5, 0.5, tasks, dtype=torch.float64)[:, None]
        self.inputs, self.targets = normal(16, 5), normal(tasks, 16)

    def forward(self) -> list[torch.Tensor]:
        outputs = self.heads @ self.shared @ self.inputs.T  # [tasks, batch]
        return list((outputs - self.targets).square().mean(dim=1).unbind())

    def by_hand(self) -> tuple[np.ndarray, np.ndarray]:
        """L_i and ‖∇_W L_i‖, in numpy."""
        shared, heads = self.shared.detach().numpy(), self.heads.numpy()
        inputs, targets = self.inputs.numpy(), self.targets.numpy()
        residuals = heads @ shared @ inputs.T - targets  # [tasks, batch]
        gradients = [2 * np.outer(a, r @ inputs / len(inputs)) for a, r in zip(heads, residuals, strict=True)]
        return (residuals**2).mean(axis=1), np.array([np.sqrt((g**2).sum()) for g in gradients])


def updated_by_hand(w, lengths, losses, initial, alpha, rate):
    """One update, from the paper's Algorithm 1."""
    norms = w * lengths
    relative = (losses / initial) / np.mean(losses / initial)
    slopes = np.where(norms > norms.mean() * relative**alpha, lengths, -lengths)
    w = w - rate * slopes
    return w / w.sum() * len(w)


@pytest.mark.parametrize("alpha", [0.0, 0.12, 1.5])
@pytest.mark.parametrize("tasks", [2, 5])
def test_updates_equal_the_paper_by_hand(tasks, alpha):
    network, rate = LinearTasks(tasks), 1e-4
    weighter = GradNormLossWeighter(
        num_losses=tasks, learning_rate=rate, restoring_force_alpha=alpha, grad_norm_parameters=network.shared
    ).double()
    w = np.ones(tasks)
    initial, _ = network.by_hand()
    for _ in range(5):
        losses, lengths = network.by_hand()
        network.shared.grad = None
        result = weighter(network())
        np.testing.assert_allclose([float(n) for n in result.norms.values()], w * lengths, rtol=1e-12)
        np.testing.assert_allclose(float(result.total), w @ losses, rtol=1e-12)
        w = updated_by_hand(w, lengths, losses, initial, alpha, rate)
        np.testing.assert_allclose(weighter.loss_weights.numpy(), w, rtol=1e-12)
        with torch.no_grad():
            network.shared -= 1e-3 * network.shared.grad
    assert np.ptp(w) > 1e-3, "the weights hardly moved: nothing was compared"


def test_first_update_written_out():
    """Two tasks with gradients of length 6 and 2, α = 0: mean 4, so w₁ falls by 6η and w₂ rises by 2η; η = 0.1."""
    w = torch.zeros(1, dtype=torch.float64, requires_grad=True)
    weighter = GradNormLossWeighter(num_losses=2, learning_rate=0.1, grad_norm_parameters=nn.Parameter(w)).double()
    shared = weighter.grad_norm_parameters[0]
    result = weighter([6 * shared.sum() + 1, 2 * shared.sum() + 1])
    assert [float(n) for n in result.norms.values()] == [6, 2]
    assert [float(t) for t in result.targets.values()] == [4, 4]
    torch.testing.assert_close(weighter.loss_weights, torch.tensor([0.4, 1.2], dtype=torch.float64) / 0.8)


def test_closed_form_equals_double_backward():
    """∂L_grad/∂w by autograd through ‖∇_W w_i L_i‖, targets constant, against sign · length."""
    network, alpha = LinearTasks(4), 0.7
    w = torch.rand(4, dtype=torch.float64) + 0.5
    w.requires_grad_()
    losses = network()
    norms = torch.stack(
        [
            torch.autograd.grad(wi * loss, network.shared, create_graph=True)[0].norm()
            for wi, loss in zip(w, losses, strict=True)
        ]
    )
    values = torch.stack(losses).detach()
    targets = gradnorm_targets(norms.detach(), values, torch.ones_like(values), alpha)
    (slow,) = torch.autograd.grad((norms - targets).abs().sum(), w)
    lengths = gradient_lengths({str(i): loss for i, loss in enumerate(losses)}, [network.shared])
    torch.testing.assert_close(lgrad_gradient(norms.detach(), targets, lengths), slow, rtol=1e-12, atol=0)


def test_lengths_over_several_parameters_are_one_vectors():
    network = MockNetworkWithMultipleLosses(6, 2)
    losses = dict(zip("ab", network(torch.randn(4, 6)), strict=True))
    shared = [network.backbone_parameter, network.get_parameter("backbone.0.weight")]
    expected = [
        torch.cat([g.flatten() for g in torch.autograd.grad(loss, shared, retain_graph=True)]).norm()
        for loss in losses.values()
    ]
    torch.testing.assert_close(gradient_lengths(losses, shared), torch.stack(expected))


@pytest.mark.parametrize("alpha", [0.12, 1.0, 3.0])
def test_slow_task_gains_weight(alpha):
    """Two tasks with equal gradients; the first has kept all of its loss, the second a tenth."""
    shared = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(
        num_losses=2, learning_rate=0.01, restoring_force_alpha=alpha, grad_norm_parameters=shared
    )
    weighter([shared.sum() + 1, shared.sum() + 1])
    assert weighter.loss_weights.tolist() == [1, 1]
    for _ in range(3):
        result = weighter([shared.sum() + 1, shared.sum() + 0.1])
    assert weighter.loss_weights[0] > 1.02 > 0.98 > weighter.loss_weights[1]
    assert result.targets["0"] > result.targets["1"]


def test_without_restoring_force_losses_do_not_matter():
    shared = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(num_losses=2, grad_norm_parameters=shared)
    for values in ((1, 1), (1, 1e-3), (-1, 0)):
        weighter([shared.sum() + value for value in values])
        assert weighter.loss_weights.tolist() == [1, 1]


def test_gradients_come_into_balance():
    """Where the gradients' lengths stay put (linear losses), the weights go to 1/length, to within a step."""
    shared, scales, rate = nn.Parameter(torch.zeros(1)), torch.tensor([1.0, 2.0, 4.0]), 1e-3
    weighter = GradNormLossWeighter(num_losses=3, learning_rate=rate, grad_norm_parameters=shared)
    for _ in range(1000):
        result = weighter([scale * shared.sum() for scale in scales])
    torch.testing.assert_close(weighter.loss_weights, 3 / scales / (1 / scales).sum(), rtol=0, atol=3 * 4 * rate)
    norms = torch.stack(list(result.norms.values()))
    assert norms.max() - norms.min() < 0.1, "1 to 4 at the start"


@settings(deadline=None, max_examples=100)
@given(
    optimizer=st.sampled_from(["plain", "adam"]),
    tasks=st.lists(st.tuples(positive, positive, st.floats(-1e18, 1e18)), min_size=2, max_size=6),
    rate=st.floats(0, 1e300),
    alpha=st.floats(0, 100),
)
def test_weights_are_positive_and_sum_to_the_count(optimizer, tasks, rate, alpha):
    """Any learning rate, any α, any positive losses, any gradients, over four updates."""
    first, second, slopes = (torch.tensor(column) for column in zip(*tasks, strict=True))
    shared = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(
        num_losses=len(tasks),
        learning_rate=rate,
        restoring_force_alpha=alpha,
        grad_norm_parameters=shared,
        optimizer=optimizer,
    )
    for values in (first, second, second, first):
        weighter([slope * shared.sum() + value for slope, value in zip(slopes, values, strict=True)])
        assert (weighter.loss_weights > 0).all()
        assert weighter.loss_weights.isfinite().all()
        assert float(weighter.loss_weights.sum()) == pytest.approx(len(tasks), rel=1e-5)


@pytest.mark.parametrize("optimizer", ["plain", "adam"])
def test_the_sum_does_not_drift(optimizer):
    shared = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(
        num_losses=7, learning_rate=0.01, grad_norm_parameters=shared, optimizer=optimizer
    )
    lengths = torch.rand(7, generator=torch.Generator().manual_seed(0)) + 0.5
    for _ in range(1_000):
        weighter([length * shared.sum() + 1 for length in lengths])
    assert float(weighter.loss_weights.double().sum()) == pytest.approx(7, rel=3e-7)


def test_adam_is_torchs():
    """Without the rescaling, that is: the same slopes, some of them for some of the weights only."""
    generator = torch.Generator().manual_seed(0)
    weights = nn.Parameter(torch.ones(3, dtype=torch.float64))
    reference = torch.optim.Adam([weights], lr=0.025)
    ours, moments = torch.ones(3, dtype=torch.float64), torch.zeros(2, 3, dtype=torch.float64)
    for update in range(1, 30):
        weights.grad = torch.randn(3, generator=generator, dtype=torch.float64)
        direction, moments = adam_direction(weights.grad, moments, torch.full((3,), update))
        ours = ours - 0.025 * direction
        reference.step()
    torch.testing.assert_close(ours, weights.detach(), rtol=1e-12, atol=0)


def test_adam_counts_each_weights_own_updates():
    """A weight that joins late, by its mask, starts as one that joined at once did: its first step is η long."""
    shared = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    weighter = GradNormLossWeighter(
        num_losses=3, learning_rate=0.025, grad_norm_parameters=shared, optimizer="adam"
    ).double()
    losses = [factor * shared.sum() + 1 for factor in (1.0, 2.0, 4.0)]
    for mask in ([True, True, False],) * 5 + ([False, True, True],):
        before = weighter.loss_weights.clone()
        weighter(losses, loss_mask=mask, retain_graph=True)
    assert weighter.updates.tolist() == [5, 6, 1]
    assert weighter.loss_weights[0] == before[0]
    assert weighter.moments[0, 2] == pytest.approx(0.1 * 4, rel=1e-6), "one slope of 4, with weight 1 − β"


def test_a_weight_comes_back_from_its_stop():
    weights = balance_step(torch.ones(2), torch.tensor([1.0, -1.0]), learning_rate=5.0)
    assert 0 < weights[0] < 10 * SMALLEST_WEIGHT
    assert balance_step(weights, torch.tensor([-1.0, 1.0]), learning_rate=0.5)[0] > 0.3


def test_a_target_that_overflows_asks_for_nothing():
    """r^α is infinite in float32 and the mean length 0: their product is no number, and the weights stay."""
    shared = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(num_losses=4, restoring_force_alpha=100.0, grad_norm_parameters=shared)
    for values in ((1, 1, 1, 1), (1e6, 1, 1, 1)):
        result = weighter([0 * shared.sum() + value for value in values])
    assert result.targets["0"].isnan()
    assert weighter.loss_weights.tolist() == [1, 1, 1, 1]
