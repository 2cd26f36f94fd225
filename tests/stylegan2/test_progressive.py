"""Progressive GAN: the networks against plain functions of their weights, and growing against its two ends."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd import gradcheck, gradgradcheck

from stylegan2.discriminator import LeakyReLU
from stylegan2.mapping import MappingNetwork
from stylegan2.progressive import (
    GrowingDiscriminator,
    PixelNorm,
    ProgressiveDiscriminator,
    ProgressiveGenerator,
    images_at_stage,
    split_stage,
)
from stylegan2.stylegan1 import AdaINBlock, GrowingGenerator

GENERATORS = {
    "progressive": lambda: ProgressiveGenerator(4, 6, 4, 8).double(),
    "demodulation": lambda: GrowingGenerator(4, 6, 4, 8).double(),
    "adain": lambda: GrowingGenerator(4, 6, 4, 8, AdaINBlock).double(),
}
DISCRIMINATORS = {
    "progressive": lambda: ProgressiveDiscriminator(4, 4, 8).double(),
    "filtered": lambda: GrowingDiscriminator(4, 4, 8).double(),
}


def repeat_pixels(x):
    return x.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)


def average_pixels(x):
    return (x[..., ::2, ::2] + x[..., 1::2, ::2] + x[..., ::2, 1::2] + x[..., 1::2, 1::2]) / 4


def at(network, stage, *inputs):
    network.stage = stage
    return network(*inputs)


@pytest.mark.parametrize(("stage", "expected"), [(0, (0, 1)), (0.25, (1, 0.25)), (1, (1, 1)), (2.5, (3, 0.5)),
                                                 (3.0, (3, 1))])
def test_a_stage_is_a_resolution_and_a_weight(stage, expected):
    assert split_stage(stage, 4) == pytest.approx(expected)


@pytest.mark.parametrize("stage", [-0.1, 3.01, math.nan])
@pytest.mark.parametrize("network", [ProgressiveGenerator(5, 4, 2, 4), GrowingGenerator(5, 4, 2, 4),
                                     ProgressiveDiscriminator(5, 2, 4)])
def test_a_stage_that_does_not_exist(network, stage):
    first = torch.zeros(4, 3, 32, 32) if isinstance(network, ProgressiveDiscriminator) else torch.zeros(4, 1, 4)
    with pytest.raises(ValueError, match=r"from 0 \(4 × 4\) to 3 \(32 × 32\)"):
        at(network, stage, first)


@pytest.mark.parametrize("name", GENERATORS)
@pytest.mark.parametrize("resolution", [1, 2])
def test_a_generator_fades_in_from_the_doubled_image_to_the_next(name, resolution):
    torch.manual_seed(0)
    generator = GENERATORS[name]()
    w = torch.randn(generator.n_layers, 2, 6, dtype=torch.float64)
    low = repeat_pixels(at(generator, resolution - 1, w, None))
    high = at(generator, resolution, w, None)
    assert high.shape == low.shape == (2, 3, 4 << resolution, 4 << resolution)
    assert not torch.allclose(low, high)
    for alpha in (1e-9, 0.25, 0.5):
        faded = at(generator, resolution - 1 + alpha, w, None)
        torch.testing.assert_close(faded, (1 - alpha) * low + alpha * high, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", DISCRIMINATORS)
@pytest.mark.parametrize("resolution", [1, 2])
def test_a_discriminator_fades_in_from_the_halved_image(name, resolution):
    torch.manual_seed(0)
    discriminator = DISCRIMINATORS[name]()
    x = torch.randn(4, 3, 4 << resolution, 4 << resolution, dtype=torch.float64)
    before = at(discriminator, resolution - 1, average_pixels(x))
    torch.testing.assert_close(at(discriminator, resolution - 1 + 1e-9, x), before, rtol=1e-6, atol=1e-6)
    after = at(discriminator, resolution, x)
    torch.testing.assert_close(at(discriminator, resolution - 1e-9, x), after, rtol=1e-6, atol=1e-6)
    assert not torch.allclose(before, after)


@pytest.mark.parametrize(("generator", "discriminator"), [("progressive", "progressive"), ("adain", "filtered")])
def test_nothing_jumps_when_a_resolution_begins(generator, discriminator):
    """Repeating pixels and averaging them are inverse: a new resolution starts with the scores of the old."""
    torch.manual_seed(0)
    g, d = GENERATORS[generator](), DISCRIMINATORS[discriminator]()
    w = torch.randn(g.n_layers, 4, 6, dtype=torch.float64)
    for stage in (0, 1):
        scores = [at(d, s, at(g, s, w, None)) for s in (stage, stage + 1e-9)]
        torch.testing.assert_close(*scores, rtol=1e-6, atol=1e-6)


@settings(max_examples=20, deadline=None)
@given(stage=st.floats(0, 3), seed=st.integers(0, 2**31))
def test_real_images_fade_as_generated_ones_do(stage, seed):
    images = torch.randn(2, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    pyramid = [images]
    while pyramid[0].shape[-1] > 4:
        pyramid.insert(0, average_pixels(pyramid[0]))
    top = math.ceil(stage)
    expected = pyramid[top]
    if stage != top:
        expected = (top - stage) * repeat_pixels(pyramid[top - 1]) + (stage - top + 1) * expected
    torch.testing.assert_close(images_at_stage(images, stage), expected)


def test_images_of_another_stage():
    discriminator = ProgressiveDiscriminator(4, 4, 8)
    with pytest.raises(ValueError, match="16 × 16; this discriminator takes 8 × 8"):
        at(discriminator, 0.5, torch.zeros(4, 3, 16, 16))


def test_layers_that_are_not_on_get_no_gradient():
    generator = GENERATORS["progressive"]()
    at(generator, 0.5, torch.randn(1, 2, 6, dtype=torch.float64)).sum().backward()
    got = {name for name, p in generator.named_parameters() if p.grad is not None}
    assert {name for name in got if name.startswith("blocks")} == {
        name for name, _ in generator.named_parameters() if name.startswith("blocks.0")}
    assert not any(name.startswith("to_rgb.layers.2") for name in got)


# The networks as the paper's table 2 lists them, written without a module.

def conv(x, state, name, gain):
    weight = state[f"{name}.weight.weight"]
    y = F.conv2d(x, weight * (gain / math.sqrt(weight[0].numel())), padding=weight.shape[-1] // 2)
    return y + gain * state[f"{name}.bias"][:, None, None]


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x)


def pixel_norm(x):
    return x / (x.pow(2).mean(dim=1, keepdim=True) + 1e-8).sqrt()


def with_biases(network):
    """Biases start at 0, where no test sees them."""
    for name, parameter in network.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter)
    return network


@torch.no_grad()
def test_the_generator_is_that_of_table_2():
    torch.manual_seed(0)
    generator = with_biases(GENERATORS["progressive"]())
    state, z = generator.state_dict(), torch.randn(3, 6, dtype=torch.float64)
    latent = z / z.pow(2).mean(dim=1, keepdim=True).sqrt()
    dense = state["dense.0.weight.weight"]
    x = latent @ dense.T * math.sqrt(2 / 6) + math.sqrt(2) * state["dense.0.bias"]
    x = pixel_norm(leaky(x).reshape(3, 8, 4, 4))
    x = pixel_norm(leaky(conv(x, state, "conv.0", math.sqrt(2))))
    for i in range(2):
        x = repeat_pixels(x)
        x = pixel_norm(leaky(conv(x, state, f"blocks.{i}.1.0", math.sqrt(2))))
        x = pixel_norm(leaky(conv(x, state, f"blocks.{i}.2.0", math.sqrt(2))))
    assert x.shape == (3, 4, 16, 16)
    mapping = MappingNetwork(6, n_layers=0).double()
    torch.testing.assert_close(generator(mapping(z)[None]), conv(x, state, "to_rgb.layers.2", 1))


@torch.no_grad()
def test_the_critic_is_that_of_table_2():
    torch.manual_seed(0)
    critic = with_biases(DISCRIMINATORS["progressive"]())
    state, image, root2 = critic.state_dict(), torch.randn(4, 3, 16, 16, dtype=torch.float64), math.sqrt(2)
    x = leaky(conv(image, state, "from_rgb.0.0", root2))
    for i in range(2):
        x = leaky(conv(x, state, f"blocks.{i}.0", root2))
        x = average_pixels(leaky(conv(x, state, f"blocks.{i}.2", root2)))
    std = (x.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
    x = torch.cat([x, std.expand(4, 1, 4, 4)], dim=1)
    x = leaky(conv(x, state, "conv.0", root2)).flatten(1)
    x = leaky(x @ state["final.0.weight.weight"].T * math.sqrt(2 / 128) + root2 * state["final.0.bias"])
    x = x @ state["final.2.weight.weight"].T / math.sqrt(8) + state["final.2.bias"]
    torch.testing.assert_close(critic(image), x)


def test_pixel_norm():
    x = torch.randn(2, 5, 3, 3, dtype=torch.float64) * 10
    torch.testing.assert_close(PixelNorm()(x).square().mean(dim=1), torch.ones(2, 3, 3, dtype=torch.float64))
    assert PixelNorm()(torch.ones(1, 2, 1, 1, dtype=torch.bfloat16)).dtype == torch.bfloat16
    assert PixelNorm()(torch.zeros(1, 2, 1, 1)).abs().sum() == 0


def test_every_layer_starts_at_unit_scale():
    torch.manual_seed(0)
    generator, critic, scales = ProgressiveGenerator(5, 64, 32, 64), ProgressiveDiscriminator(5, 32, 64), []
    for module in (*generator.modules(), *critic.modules()):
        if isinstance(module, (PixelNorm, LeakyReLU)):
            module.register_forward_hook(lambda m, args, out: scales.append(out.square().mean().sqrt().item()))
    with torch.no_grad():
        generator(MappingNetwork(64, 0)(torch.randn(16, 64))[None])
        critic(torch.randn(16, 3, 32, 32))
    assert len(scales) == 2 * 8 + 1 + 6 + 2
    assert all(0.4 < scale < 1.4 for scale in scales), scales  # padding and the mean of 4 pixels take some


def test_second_derivatives():
    torch.manual_seed(0)
    x = torch.randn(1, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert gradcheck(PixelNorm(), (x,))
    assert gradgradcheck(PixelNorm(), (x,))
    critic = ProgressiveDiscriminator(3, 2, 2).double()
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64, requires_grad=True)
    critic.stage = 0.5
    assert gradcheck(critic, (image,), fast_mode=True)
    assert gradgradcheck(critic, (image,), fast_mode=True)
