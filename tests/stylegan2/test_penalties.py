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
    Smooth,
    UpSample,
    path_lengths,
)
from stylegan2.generator import ResidualGenerator
from stylegan2.losses import (
    hinge_discriminator_loss,
    logistic_discriminator_loss,
    logistic_generator_loss,
    wasserstein_discriminator_loss,
    wasserstein_generator_loss,
)
from stylegan2.penalties import WassersteinGradientPenalty, interpolates
from stylegan2.stylegan1 import AdaINBlock, GrowingGenerator


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


@pytest.mark.parametrize("penalty", [GradientPenalty(), WassersteinGradientPenalty()])
def test_penalties_want_images_with_a_gradient(penalty):
    with pytest.raises(ValueError, match="requires_grad_"):
        penalty(torch.zeros(2, 3, 4, 4), torch.zeros(2, 1))


@settings(max_examples=10, deadline=None)
@given(batch=st.integers(1, 5), side=st.integers(1, 4), seed=st.integers(0, 2**31))
def test_wgan_gp_of_a_linear_critic(batch, side, seed):
    """D(x) = v·x: the gradient is v everywhere, the penalty (|v| − 1)², its gradient 2(|v| − 1)·v/|v|."""
    torch.manual_seed(seed)
    critic = torch.nn.Linear(3 * side * side, 1).double()
    real, fake = torch.randn(2, batch, 3, side, side, dtype=torch.float64)
    x = interpolates(real, fake)
    penalty = WassersteinGradientPenalty()(x, critic(x.flatten(1)))
    length = critic.weight.norm()
    torch.testing.assert_close(penalty, (length - 1).square())
    gradient, = torch.autograd.grad(penalty, critic.weight)
    torch.testing.assert_close(gradient, 2 * (length - 1) * critic.weight / length)


def test_wgan_gp_takes_one_length_per_sample():
    """D(x) = |x|²/2 per sample: the gradient is x, so the penalty is the mean of (|x| − 1)²."""
    x = torch.randn(4, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    penalty = WassersteinGradientPenalty()(x, x.square().sum(dim=(1, 2, 3)).unsqueeze(1) / 2)
    torch.testing.assert_close(penalty, (x.flatten(1).norm(dim=1) - 1).square().mean())


def test_interpolates_lie_between_at_one_place_per_sample():
    torch.manual_seed(0)
    real, fake = torch.randn(2, 500, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    x = interpolates(real, fake)
    t = ((x - real) / (fake - real)).flatten(1).detach()
    torch.testing.assert_close(t, t[:, :1].expand_as(t))
    assert 0 <= t.min() < 0.02 < 0.98 < t.max() <= 1
    assert t.mean().item() == pytest.approx(0.5, abs=0.05)
    assert x.requires_grad
    assert x.is_leaf


def test_a_critic_that_sees_nothing_is_pushed_and_not_made_nan():
    """The gradient of √ at 0 is infinite: a constant critic, and a generator without styles, must give numbers."""
    weight = torch.zeros(12, dtype=torch.float64, requires_grad=True)
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    penalty = WassersteinGradientPenalty()(x, (x.flatten(1) * weight).sum(dim=1, keepdim=True))
    assert penalty.item() == 1
    assert torch.autograd.grad(penalty, weight)[0].isfinite().all()


def test_path_length_of_an_image_that_does_not_depend_on_w():
    theta = torch.zeros([], dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 3, 12, dtype=torch.float64, requires_grad=True)
    x = theta * w.sum(dim=0).reshape(3, 3, 2, 2)
    penalty = PathLengthPenalty().double()
    penalty.mean_length.fill_(1.0)
    value = penalty(w, x)
    assert value.item() == pytest.approx(0.99**2)
    assert torch.autograd.grad(value, theta)[0].isfinite()
    partly = torch.tensor([0.0, 1, 2], dtype=torch.float64)[:, None, None, None] * w.sum(dim=0).reshape(3, 3, 2, 2)
    lengths = path_lengths(w, partly, torch.ones_like(partly))
    torch.testing.assert_close(lengths, torch.tensor([0.0, 1, 2], dtype=torch.float64) * math.sqrt(12))


def jacobian_lengths(generator, w, y):
    """‖Jᵀy‖ from the dense Jacobian of each sample alone."""
    lengths = []
    for i in range(w.shape[1]):
        jacobian = torch.autograd.functional.jacobian(lambda v: generator(v[:, None], None)[0], w[:, i],
                                                          vectorize=True)
        product = torch.einsum("chwld,chw->ld", jacobian, y[i])
        lengths.append(product.square().sum(dim=1).mean().sqrt())
    return torch.stack(lengths)


@pytest.mark.parametrize(("build", "length"), [(Generator, 2), (Generator, 4), (ResidualGenerator, 4),
                                               (lambda *sizes: GrowingGenerator(*sizes, AdaINBlock), 4)])
def test_path_lengths_equal_the_dense_jacobian(build, length):
    torch.manual_seed(0)
    generator = build(3, 5, 4, 4).double()
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


@pytest.mark.parametrize("layer", [UpSample(), DownSample(), Smooth(padding=2), MiniBatchStdDev(2)])
def test_second_derivatives_of_layers(layer):
    torch.manual_seed(0)
    x = torch.randn(4, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(layer.double(), (x,))
    assert gradgradcheck(layer, (x,))


def test_second_derivatives_of_the_projection_head():
    torch.manual_seed(0)
    discriminator, labels = Discriminator(2, 2, 2, n_classes=2).double(), torch.tensor([0, 1])
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert gradcheck(discriminator, (x, labels), fast_mode=True)
    assert gradgradcheck(discriminator, (x, labels), fast_mode=True)


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


def test_losses():
    real, fake = torch.randn(7, 1, dtype=torch.float64), torch.randn(5, 1, dtype=torch.float64)
    sigmoid = torch.sigmoid
    torch.testing.assert_close(logistic_discriminator_loss(real, fake),
                               -sigmoid(real).log().mean() - (1 - sigmoid(fake)).log().mean())
    torch.testing.assert_close(logistic_generator_loss(fake), -sigmoid(fake).log().mean())
    assert math.isfinite(logistic_generator_loss(torch.tensor([[-1e4]])).item())
    r, f = real.flatten().tolist(), fake.flatten().tolist()
    assert hinge_discriminator_loss(real, fake).item() == pytest.approx(
        sum(max(0, 1 - a) for a in r) / 7 + sum(max(0, 1 + b) for b in f) / 5)
    assert wasserstein_discriminator_loss(real, fake).item() == pytest.approx(
        sum(f) / 5 - sum(r) / 7 + 0.001 * sum(a * a for a in r) / 7)
    assert wasserstein_generator_loss(fake).item() == pytest.approx(-sum(f) / 5)
