"""StyleGAN: AdaIN, its block, and the growing generator, each against a derivation of its own."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from stylegan2 import StyleBlock, UpSample
from stylegan2.modulation import AdaIN
from stylegan2.stylegan1 import AdaINBlock, GrowingGenerator, SmoothUpConv2d

BLUR = torch.outer(torch.tensor([1.0, 2, 1]), torch.tensor([1.0, 2, 1])).double()[None, None] / 16


def blur(x):
    return torch.cat([F.conv2d(channel, BLUR, padding=1) for channel in x.split(1, dim=1)], dim=1)


def repeat_pixels(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


@settings(max_examples=20, deadline=None)
@given(batch=st.integers(1, 3), features=st.integers(1, 5), height=st.integers(2, 7), width=st.integers(2, 7),
       scale=st.floats(0.1, 100), shift=st.floats(-100, 100), seed=st.integers(0, 2**31))
def test_adain_gives_every_map_the_statistics_of_its_style(batch, features, height, width, scale, shift, seed):
    torch.manual_seed(seed)
    adain = AdaIN(4, features).double()
    x = scale * torch.randn(batch, features, height, width, dtype=torch.float64) + shift
    w = torch.randn(batch, 4, dtype=torch.float64)
    out, y_s = adain(x, w), w @ adain.to_scale.weight.weight.T / 2 + 1
    y_b = w @ adain.to_shift.weight.weight.T / 2
    torch.testing.assert_close(out.mean(dim=(2, 3)), y_b, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(out.std(dim=(2, 3), unbiased=False), y_s.abs(), rtol=1e-3, atol=1e-4)
    # A map keeps its shape: it is an affine map of what it was.
    normal = (x - x.mean(dim=(2, 3), keepdim=True)) / x.std(dim=(2, 3), keepdim=True, unbiased=False)
    expected = normal * y_s[..., None, None] + y_b[..., None, None]
    torch.testing.assert_close(out, expected, rtol=1e-3, atol=1e-3)


def test_adain_of_bf16_measures_in_float32():
    """8 bits hold 300 ± 1 as 300 or 302: the mean and the deviation must not be rounded on the way."""
    torch.manual_seed(0)
    adain, w = AdaIN(4, 2), torch.randn(1, 4)
    x = (torch.randn(1, 2, 32, 32) * 8 + 300).bfloat16()
    out = adain(x, w)
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), adain(x.float(), w), rtol=0.01, atol=0.01)


def test_up_is_nearest_then_convolution_then_blur():
    """The order in which StyleGAN doubles; the zeros outside the image are added at other places, so inside only."""
    torch.manual_seed(0)
    layer = SmoothUpConv2d(3, 4).double()
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    expected = blur(F.conv2d(repeat_pixels(x), layer.weight().flip(2, 3), padding=1))
    assert layer(x).shape == expected.shape == (2, 4, 16, 16)
    torch.testing.assert_close(layer(x)[..., 2:-2, 2:-2], expected[..., 2:-2, 2:-2])


def test_nearest_then_blur_is_bilinear_is_the_filter_of_stylegan2():
    x = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    bilinear = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
    for up in (blur(repeat_pixels(x)), UpSample().double()(x)):
        torch.testing.assert_close(up[..., 1:-1, 1:-1], bilinear[..., 1:-1, 1:-1])


@pytest.mark.parametrize("up", [False, True])
def test_the_order_in_a_block(up):
    """Convolution, noise times a scale per map, bias, leaky ReLU, AdaIN."""
    torch.manual_seed(0)
    block = AdaINBlock(5, 3, 4, resolution=8, up=up).double()
    torch.nn.init.normal_(block.noise_strength)
    torch.nn.init.normal_(block.bias)
    side = 4 if up else 8
    x, w = torch.randn(2, 3, side, side, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64)
    noise = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    y = block.conv(x) if up else F.conv2d(x, block.conv.weight.weight / math.sqrt(27), padding=1)
    y = y + noise * block.noise_strength[:, None, None] + block.bias[:, None, None]
    y = torch.where(y > 0, y, 0.2 * y) * math.sqrt(2)
    y = y - y.mean(dim=(2, 3), keepdim=True)
    y = y / (y.pow(2).mean(dim=(2, 3), keepdim=True) + 1e-8).sqrt()
    y_s, y_b = block.adain.to_scale(w), block.adain.to_shift(w)
    torch.testing.assert_close(block(x, w, noise), y * y_s[..., None, None] + y_b[..., None, None])


def test_noise_has_a_scale_per_map_that_starts_at_0():
    torch.manual_seed(0)
    block = AdaINBlock(5, 3, 4, resolution=8)
    x, w = torch.randn(2, 3, 8, 8), torch.randn(2, 5)
    torch.testing.assert_close(block(x, w, "random"), block(x, w, None))
    with torch.no_grad():
        block.noise_strength[2] = 1
    changed = (block(x, w, "const") - block(x, w, None)).abs().amax(dim=(0, 2, 3)) > 1e-4
    assert changed.tolist() == [False, False, True, False]


def test_which_layer_reads_which_w_and_which_noise():
    torch.manual_seed(0)
    generator, seen = GrowingGenerator(3, 8, 4, 8, AdaINBlock), {}
    layers = [generator.style_constant, generator.style_block, generator.blocks[0].style_block1,
              generator.blocks[0].style_block2]
    for i, layer in enumerate(layers):
        layer.register_forward_hook(lambda m, args, out, i=i: seen.__setitem__(i, args[-2:]))
    noise = [(torch.randn(1, 1, side, side), torch.randn(1, 1, side, side)) for side in (4, 8)]
    w = torch.randn(4, 1, 8)
    generator(w, noise)
    for i, expected in enumerate([noise[0][0], noise[0][1], noise[1][0], noise[1][1]]):
        assert torch.equal(seen[i][0], w[i])
        assert seen[i][1] is expected
    generator(w[:2], None)
    assert [int(torch.equal(seen[i][0], w[1])) for i in range(4)] == [0, 0, 1, 1]


def test_layers_of_the_published_size():
    """StyleGAN at 1024² has 18 layers; with demodulation the constant is not styled."""
    assert GrowingGenerator(10, 2, 1, 1, AdaINBlock).n_layers == 18
    generator, seen = GrowingGenerator(3, 8, 4, 8, StyleBlock), {}
    assert generator.n_layers == 3
    assert generator.style_constant is None
    for i, layer in enumerate([generator.style_block, *generator.blocks[0].children()]):
        layer.register_forward_hook(lambda m, args, out, i=i: seen.__setitem__(i, args[1]))
    w = torch.randn(3, 1, 8)
    generator(w, None)
    assert all(torch.equal(seen[i], w[i]) for i in range(3))
    with pytest.raises(ValueError, match=r"per block \(2\).*per layer \(3\)"):
        generator(torch.zeros(4, 1, 8), None)


def test_the_constant_starts_at_1_and_colours_are_linear():
    generator = GrowingGenerator(3, 8, 4, 8, AdaINBlock)
    assert generator.initial_constant.eq(1).all()
    to_rgb, x = generator.to_rgb, torch.randn(1, 4, 8, 8)
    image = to_rgb(x, x, 1, 1.0)
    torch.testing.assert_close(to_rgb(-x, -x, 1, 1.0), -image)
    weight = to_rgb.layers[1].weight.weight / math.sqrt(4)
    torch.testing.assert_close(image, torch.einsum("oi,bihw->bohw", weight[:, :, 0, 0], x))


def test_second_derivatives():
    torch.manual_seed(0)
    adain = AdaIN(2, 2).double()
    x = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(1, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(adain, (x, w))
    assert gradgradcheck(adain, (x, w))
    up = SmoothUpConv2d(2, 1).double()
    assert gradcheck(up, (x,))
    assert gradgradcheck(up, (x,))


@pytest.mark.parametrize("style_block", [StyleBlock, AdaINBlock])
def test_second_derivatives_of_a_fading_generator(style_block):
    torch.manual_seed(0)
    generator = GrowingGenerator(3, 2, 2, 2, style_block).double()
    generator.stage = 0.5
    with torch.no_grad():  # what 1 everywhere would hide
        generator.initial_constant.normal_()
    w = torch.randn(2, 1, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda w: generator(w, "const"), (w,), fast_mode=True)
    assert gradgradcheck(lambda w: generator(w, "const"), (w,), fast_mode=True)
