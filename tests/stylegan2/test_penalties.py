"""R1 and path length against what they are made of: analytic gradients and dense Jacobians."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from stylegan2 import (
    Conv2dWeightModulate,
    Discriminator,
    DownSample,
    Generator,
    GradientPenalty,
    MiniBatchStdDev,
    PathLengthPenalty,
    UpSample,
    path_lengths,
)
from stylegan2.losses import logistic_discriminator_loss, logistic_generator_loss


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 5), side=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_r1_of_a_linear_critic_is_the_norm_of_its_weight(batch, side, seed):
    torch.manual_seed(seed)
    critic = torch.nn.Linear(3 * side * side, 1).double()
    x = torch.randn(batch, 3, side, side, dtype=torch.float64, requires_grad=True)
    penalty = GradientPenalty()(x, critic(x.flatten(1)))
    torch.testing.assert_close(penalty, critic.weight.square().sum())
    gradient, = torch.autograd.grad(penalty, critic.weight)
    torch.testing.assert_close(gradient, 2 * critic.weight)


def test_r1_of_a_quadratic_critic():
    """D(x) = a·‖x‖²/2 per sample: ‖∇D‖² = a²‖x‖², averaged over the samples."""
    x, a = torch.randn(4, 1, 2, 2, dtype=torch.float64, requires_grad=True), torch.tensor(3.0, dtype=torch.float64)
    penalty = GradientPenalty()(x, a * x.square().sum(dim=(1, 2, 3)).unsqueeze(1) / 2)
    torch.testing.assert_close(penalty, 9 * x.square().sum(dim=(1, 2, 3)).mean())


def test_r1_wants_images_with_a_gradient():
    with pytest.raises(ValueError, match="requires_grad_"):
        GradientPenalty()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1))


def jacobian_lengths(generator, w, y):
    """‖Jᵀy‖ from the dense Jacobian of each sample alone."""
    lengths = []
    for i in range(w.shape[1]):
        jacobian = torch.autograd.functional.jacobian(lambda v: generator(v[:, None], None)[0], w[:, i])
        product = torch.einsum("chwld,chw->ld", jacobian, y[i])
        lengths.append(product.square().sum(dim=1).mean().sqrt())
    return torch.stack(lengths)


@pytest.mark.parametrize("length", [2, 4])
def test_path_lengths_equal_the_dense_jacobian(length):
    torch.manual_seed(0)
    generator = Generator(3, 5, 4, 4).double()
    w = torch.randn(length, 3, 5, dtype=torch.float64, requires_grad=True)
    x = generator(w, None)
    y = torch.randn_like(x) / math.sqrt(64)
    lengths = path_lengths(w, x, y)
    assert lengths.shape == (3,)  # one per sample, not one per block
    torch.testing.assert_close(lengths, jacobian_lengths(generator, w, y))


def test_the_random_images_have_variance_one_over_the_pixels():
    """For x = w·1 (each pixel a copy of the scalar w): Jᵀy = Σ y, of variance pixels·1/pixels·channels = 3."""
    torch.manual_seed(0)
    w = torch.zeros(1, 2000, 1, dtype=torch.float64, requires_grad=True)
    x = w[0, :, :, None, None].expand(-1, 3, 4, 4)
    assert path_lengths(w, x).square().mean().item() == pytest.approx(3, rel=0.1)


def test_path_length_penalty_and_its_gradient_through_the_mean():
    """x = θ·w: the lengths are θ·l; with mean a: P = mean(θl − ((1−β)·mean(θl) + β·a))², differentiated by hand."""
    torch.manual_seed(0)
    theta = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    penalty = PathLengthPenalty(beta=0.9).double()
    penalty.mean_length.fill_(0.3)
    w = torch.randn(1, 6, 12, dtype=torch.float64, requires_grad=True)
    x = theta * w[0].reshape(6, 3, 2, 2)
    torch.manual_seed(1)
    value = penalty(w, x)
    torch.manual_seed(1)
    length = (torch.randn(6, 3, 2, 2, dtype=torch.float64) / 2).flatten(1).norm(dim=1)
    mean = 0.1 * (2 * length).mean() + 0.9 * 0.3
    torch.testing.assert_close(value, (2 * length - mean).square().mean())
    torch.testing.assert_close(penalty.mean_length, mean)
    gradient, = torch.autograd.grad(value, theta)
    torch.testing.assert_close(gradient, (2 * (2 * length - mean) * (length - 0.1 * length.mean())).mean())
    assert not penalty.mean_length.requires_grad


def test_path_lengths_want_w_with_a_gradient():
    with pytest.raises(ValueError, match="w does not require a gradient"):
        path_lengths(torch.zeros(2, 1, 4), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("layer", [UpSample(), DownSample(), MiniBatchStdDev(2)])
def test_second_derivatives_of_layers(layer):
    torch.manual_seed(0)
    layer = layer.double()
    # Minibatch std works in float32: check the formula's derivatives with the cast taken out.
    if isinstance(layer, MiniBatchStdDev):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", lambda self: self)
            x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
            assert gradcheck(layer, (x,))
            assert gradgradcheck(layer, (x,))
        return
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer, (x,))
    assert gradgradcheck(layer, (x,))


@pytest.mark.parametrize("form", ["scale_weights", "scale_activations"])
@pytest.mark.parametrize("up", [False, True])
def test_second_derivatives_of_modulated_convolution(form, up):
    torch.manual_seed(0)
    conv = Conv2dWeightModulate(2, 2, 3, up=up).double()
    x = torch.randn(2, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    s = (torch.rand(2, 2, dtype=torch.float64) + 0.5).requires_grad_()
    assert gradcheck(getattr(conv, form), (x, s))
    assert gradgradcheck(getattr(conv, form), (x, s))


def test_r1_gradient_through_the_whole_discriminator():
    """d/dθ of R1 against finite differences along a random direction of all weights."""
    torch.manual_seed(0)
    discriminator = Discriminator(3, 4, 4).double()
    x = torch.randn(4, 3, 8, 8, dtype=torch.float64, requires_grad=True)

    def r1():
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.Tensor, "float", lambda self: self)  # the score is given out in float32
            return GradientPenalty()(x, discriminator(x))

    parameters = list(discriminator.parameters())
    gradients = torch.autograd.grad(r1(), parameters, materialize_grads=True, allow_unused=True)
    direction = [torch.randn_like(p) for p in parameters]
    slope = sum((g * d).sum() for g, d in zip(gradients, direction, strict=True)).item()
    step, values = 1e-6, []
    for sign in (1, -1):
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += sign * step * d
        values.append(r1().item())
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p -= sign * step * d
    assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5)


def test_losses_are_the_logistic_ones():
    real, fake = torch.randn(7, 1, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    sigmoid = torch.sigmoid
    torch.testing.assert_close(logistic_discriminator_loss(real, fake),
                               -sigmoid(real).log().mean() - (1 - sigmoid(fake)).log().mean())
    torch.testing.assert_close(logistic_generator_loss(fake), -sigmoid(fake).log().mean())
    assert math.isfinite(logistic_generator_loss(torch.tensor([[-1e4]])).item())
