"""Chapter 1: what its text says of losses and of steps, and no cell of it shows."""

import math

import pytest
import torch
from torch.autograd import grad

from stylegan2.losses import hinge_discriminator_loss, logistic_generator_loss, wasserstein_discriminator_loss


def test_a_hinge_rests_where_a_wasserstein_loss_pulls():
    found_out = torch.full((4, 1), -3.0, requires_grad=True)  # scores of fakes
    real = torch.full((4, 1), 3.0)
    (hinge,) = grad(hinge_discriminator_loss(real, found_out), found_out)
    (wasserstein,) = grad(wasserstein_discriminator_loss(real, found_out), found_out)
    assert not hinge.any()
    assert torch.equal(wasserstein, torch.full((4, 1), 0.25))


def test_even_players_have_the_losses_that_the_text_names():
    assert logistic_generator_loss(torch.zeros(3, 1)).item() == pytest.approx(math.log(2))


def test_a_logistic_loss_of_probabilities_is_infinite_where_the_softplus_is_not():
    score = torch.tensor([[-20.0]])
    assert torch.isinf((1 - torch.sigmoid(-score)).log()).all()
    assert logistic_generator_loss(score).item() == pytest.approx(20, rel=1e-6)


@pytest.mark.parametrize("eta_c", [0.01, 0.2, 1.0, 1.9])
def test_alternating_steps_neither_grow_nor_decay(eta_c):
    """The step on (θ, ψ): first ψ − ηc θ, then θ + ηc ψ; with simultaneous steps both see the old state."""
    alternating = torch.tensor([[1 - eta_c**2, eta_c], [-eta_c, 1.0]], dtype=torch.float64)
    assert alternating.det().item() == pytest.approx(1)
    torch.testing.assert_close(torch.linalg.eigvals(alternating).abs(), torch.ones(2, dtype=torch.float64))
    simultaneous = torch.tensor([[1.0, eta_c], [-eta_c, 1.0]], dtype=torch.float64)
    expected = torch.full((2,), math.sqrt(1 + eta_c**2), dtype=torch.float64)
    torch.testing.assert_close(torch.linalg.eigvals(simultaneous).abs(), expected)


@pytest.mark.parametrize("eta", [0.05, 0.2, 0.5])
def test_momentum_drives_out_and_negative_momentum_brakes(eta):
    """Alternating heavy-ball steps of the bilinear game on (θ, ψ, v_θ, v_ψ)."""

    def longest(beta):
        v_psi = torch.tensor([-1.0, 0, 0, beta], dtype=torch.float64)
        psi = torch.tensor([0, 1.0, 0, 0], dtype=torch.float64) + eta * v_psi
        v_theta = torch.tensor([0, 0, beta, 0], dtype=torch.float64) + psi
        theta = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64) + eta * v_theta
        return torch.linalg.eigvals(torch.stack([theta, psi, v_theta, v_psi])).abs().max().item()

    assert longest(-0.3) < longest(0.0) < longest(0.1) < longest(0.5) < longest(0.9)
    assert longest(0.0) == pytest.approx(1)
