"""Modulated convolution: its two forms, and each against a derivation of its own."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2 import Conv2dWeightModulate, ToRGB


def make(in_features, out_features, kernel_size, **options):
    return Conv2dWeightModulate(in_features, out_features, kernel_size, **options).double()


@settings(max_examples=25, deadline=None)
@given(batch=st.integers(1, 4), in_features=st.integers(1, 9), out_features=st.integers(1, 9),
       kernel_size=st.sampled_from([1, 3, 5]), height=st.integers(3, 9), width=st.integers(3, 9),
       demodulate=st.booleans(), up=st.booleans(), seed=st.integers(0, 2**31))
def test_two_forms_are_equal(batch, in_features, out_features, kernel_size, height, width, demodulate, up, seed):
    torch.manual_seed(seed)
    conv = make(in_features, out_features, 3 if up else kernel_size, demodulate=demodulate, up=up)
    x = torch.randn(batch, in_features, height, width, dtype=torch.float64, requires_grad=True)
    s = torch.randn(batch, in_features, dtype=torch.float64, requires_grad=True)
    outputs = [conv.scale_weights(x, s), conv.scale_activations(x, s)]
    torch.testing.assert_close(*outputs, rtol=1e-10, atol=1e-10)
    y = torch.randn_like(outputs[0])
    gradients = [torch.autograd.grad(out, [x, s, conv.weight], y) for out in outputs]
    for a, b in zip(*gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8)


def test_forward_follows_equation_3_written_out():
    torch.manual_seed(0)
    conv = make(3, 4, 3)
    x, s = torch.randn(2, 3, 5, 5, dtype=torch.float64), torch.rand(2, 3, dtype=torch.float64) + 0.5
    for sample in range(2):
        for o in range(4):
            w = conv.weight[o] * s[sample][:, None, None]
            w = w / (w.pow(2).sum() + 1e-8) ** 0.5
            expected = F.conv2d(x[sample:sample + 1], w[None], padding=1)[0, 0]
            torch.testing.assert_close(conv(x, s)[sample, o], expected)


def test_demodulated_output_has_unit_std():
    torch.manual_seed(0)
    conv = Conv2dWeightModulate(64, 64, 3)
    out = conv(torch.randn(8, 64, 34, 34), torch.rand(8, 64) * 4)[..., 1:-1, 1:-1]  # the border sees padded zeros
    assert out.std().item() == pytest.approx(1, abs=0.05)


def test_a_common_factor_of_the_style_cancels():
    torch.manual_seed(0)
    conv = make(5, 6, 3)
    x, s = torch.randn(2, 5, 4, 4, dtype=torch.float64), torch.rand(2, 5, dtype=torch.float64) + 0.5
    torch.testing.assert_close(conv(x, s), conv(x, 7 * s))


def test_eps_acts_on_raw_weight():
    """A style so small that ε matters: Σ s²w² over N(0, 1) weights, not over weights scaled by 1/√fan_in."""
    torch.manual_seed(0)
    conv = make(2, 3, 3)
    x, s = torch.randn(1, 2, 4, 4, dtype=torch.float64), torch.full((1, 2), 1e-4, dtype=torch.float64)
    sigma2 = (conv.weight * 1e-4).square().sum(dim=(1, 2, 3))
    expected = F.conv2d(x, conv.weight * 1e-4, padding=1) / (sigma2 + 1e-8).sqrt()[:, None, None]
    torch.testing.assert_close(conv(x, s), expected)
    assert ((sigma2 + 1e-8) / sigma2).min() > 1.01


def test_up_matches_zero_insertion():
    """Doubling = zeros between the pixels, the flipped kernel as a plain convolution, then the filter with gain 4."""
    torch.manual_seed(0)
    conv = make(2, 3, 3, demodulate=False, up=True)
    x, s = torch.randn(1, 2, 4, 4, dtype=torch.float64), torch.ones(1, 2, dtype=torch.float64)
    zeros = torch.zeros(1, 2, 7, 7, dtype=torch.float64)
    zeros[..., ::2, ::2] = x
    y = F.conv2d(zeros, conv.weight.flip(2, 3), padding=2) / (2 * 9) ** 0.5
    taps = torch.tensor([1.0, 3, 3, 1], dtype=torch.float64)
    kernel = torch.outer(taps, taps)[None, None] / 64 * 4
    expected = torch.cat([F.conv2d(y[:, i:i + 1], kernel, padding=1) for i in range(3)], dim=1)
    assert expected.shape == (1, 3, 8, 8)
    torch.testing.assert_close(conv(x, s), expected)


def test_to_rgb_is_linear_and_not_demodulated():
    torch.manual_seed(0)
    to_rgb = ToRGB(d_latent=4, features=6)
    x, w = torch.randn(2, 6, 3, 3), torch.randn(2, 4)
    torch.testing.assert_close(to_rgb(3 * x, w), 3 * to_rgb(x, w))  # no activation, bias 0 at the start
    s = to_rgb.to_style(w)
    expected = torch.einsum("oi,bi,bihw->bohw", to_rgb.conv.weight[:, :, 0, 0], s / 6**0.5, x)
    torch.testing.assert_close(to_rgb(x, w), expected)


def test_bf16_inputs_stay_bf16():
    conv = Conv2dWeightModulate(4, 4, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(torch.randn(1, 4, 4, 4).bfloat16(), torch.ones(1, 4)).dtype == torch.bfloat16


@pytest.mark.parametrize("up", [False, True])
def test_the_gain_is_a_factor_in_both_forms(up):
    torch.manual_seed(0)
    plain = Conv2dWeightModulate(5, 4, 3, up=up).double()
    torch.manual_seed(0)
    with_gain = Conv2dWeightModulate(5, 4, 3, up=up, gain=1.7).double()
    x, s = torch.randn(2, 5, 6, 6).double(), torch.randn(2, 5).double()
    for form in ("scale_weights", "scale_activations"):
        torch.testing.assert_close(getattr(with_gain, form)(x, s), 1.7 * getattr(plain, form)(x, s))
