"""The generator and the discriminator as wholes."""

import inspect
import math

import pytest
import torch
import torch.nn.functional as F

from stylegan2 import Discriminator, Generator, MappingNetwork
from stylegan2.generator import features_of_blocks


@pytest.mark.parametrize("log_resolution", [2, 3, 5, 6])
def test_shapes(log_resolution):
    generator, discriminator = Generator(log_resolution, 16, 4, 16), Discriminator(log_resolution, 4, 16)
    side = 2**log_resolution
    assert generator.n_blocks == log_resolution - 1
    assert generator.n_layers == 2 * log_resolution - 2
    for length in (generator.n_blocks, generator.n_layers):
        images = generator(torch.randn(length, 4, 16), "random")
        assert images.shape == (4, 3, side, side)
    assert discriminator(images).shape == (4, 1)


def test_channels_follow_the_published_rule():
    """min(channel_base / resolution, channel_max), with n_features = channel_base / the highest resolution."""
    for log_resolution, base, most in ((5, 16384, 512), (8, 16384, 512), (10, 32768, 512), (5, 1024, 256)):
        expected = [min(base // 2**k, most) for k in range(2, log_resolution + 1)]
        assert features_of_blocks(log_resolution, base // 2**log_resolution, most) == expected


@pytest.mark.parametrize("seed", range(4))
def test_images_depend_on_z_at_the_start(seed):
    torch.manual_seed(seed)
    mapping, generator = MappingNetwork(256, 8), Generator(5, 256, 32, 256)
    with torch.no_grad():
        images = generator(mapping(torch.randn(64, 256)).expand(generator.n_blocks, -1, -1), "const")
    across_z = images.std(dim=0).mean()
    assert across_z >= 0.5 * images.std()


def test_one_w_per_block_is_one_w_per_layer_where_they_agree():
    """Every layer of block i takes w[i]; as the paper has it, layers 2i − 1, 2i and toRGB 2i + 1 do."""
    torch.manual_seed(0)
    generator = Generator(4, 8, 4, 8).double()
    w = torch.randn(1, 2, 8, dtype=torch.float64)
    torch.testing.assert_close(generator(w.expand(3, -1, -1), None), generator(w.expand(6, -1, -1), None))
    # The last layer's w only reaches the last toRGB; the first block's toRGB shares its w with the next block.
    per_layer = w.expand(6, -1, -1).clone().requires_grad_()
    generator(per_layer, None).square().sum().backward()
    assert all(per_layer.grad[i].abs().sum() > 0 for i in range(6))


def test_which_layer_reads_which_w():
    torch.manual_seed(0)
    generator = Generator(3, 8, 4, 8)
    seen = {}
    names = {"first": generator.style_block, "first_rgb": generator.to_rgb, "up": generator.blocks[0].style_block1,
             "second": generator.blocks[0].style_block2, "rgb": generator.blocks[0].to_rgb}
    for name, module in names.items():
        module.to_style.register_forward_hook(lambda m, args, out, name=name: seen.__setitem__(name, args[0]))
    per_layer = torch.randn(4, 1, 8)
    generator(per_layer, None)
    layer = {name: next(i for i in range(4) if torch.equal(w, per_layer[i])) for name, w in seen.items()}
    assert layer == {"first": 0, "first_rgb": 1, "up": 1, "second": 2, "rgb": 3}
    per_block = torch.randn(2, 1, 8)
    generator(per_block, None)
    block = {name: next(i for i in range(2) if torch.equal(w, per_block[i])) for name, w in seen.items()}
    assert block == {"first": 0, "first_rgb": 0, "up": 1, "second": 1, "rgb": 1}


def test_noise_forms():
    torch.manual_seed(0)
    generator = Generator(4, 8, 4, 8)
    for block in [generator, *generator.blocks]:
        for name in ("style_block", "style_block1", "style_block2"):
            if hasattr(block, name):
                torch.nn.init.ones_(getattr(block, name).noise_strength)
    w = torch.randn(3, 2, 8)
    stored = [(None, generator.style_block.noise_const)] + [
        (b.style_block1.noise_const, b.style_block2.noise_const) for b in generator.blocks]
    torch.testing.assert_close(generator(w, stored), generator(w, "const"))
    nothing = [(None, None)] * 3
    torch.testing.assert_close(generator(w, nothing), generator(w, None))
    assert not torch.allclose(generator(w, "random"), generator(w, "random"))
    assert not torch.allclose(generator(w, "const"), generator(w, None))


def test_noise_does_nothing_at_the_start():
    generator, w = Generator(4, 8, 4, 8), torch.randn(3, 2, 8)
    torch.testing.assert_close(generator(w, "random"), generator(w, None))


def test_a_skip_generator_sums_upsampled_images():
    torch.manual_seed(0)
    generator = Generator(3, 8, 4, 8)
    w, rgbs = torch.randn(2, 1, 8), []
    for to_rgb in (generator.to_rgb, generator.blocks[0].to_rgb):
        to_rgb.register_forward_hook(lambda m, args, out: rgbs.append(out))
    image = generator(w, None)
    torch.testing.assert_close(image, generator.up_sample(rgbs[0]) + rgbs[1])


def test_residual_block_keeps_variance():
    """Both branches carry √½, so a sum of two independent branches of unit variance has unit variance."""
    torch.manual_seed(0)
    discriminator = Discriminator(5, 32, 32)
    block = discriminator.blocks[0]
    x = torch.randn(16, 32, 32, 32)
    inner = block.residual[1](x).std().item()  # 1×1 with gain √½, before any filter
    assert inner == pytest.approx(math.sqrt(0.5), rel=0.05)
    branch = F.leaky_relu(block.block[0](x), 0.2)
    assert branch.square().mean().sqrt().item() == pytest.approx(math.sqrt(1 + 0.2**2), rel=0.05)


@pytest.mark.parametrize("length", [1, 2, 5, 7])
def test_w_of_the_wrong_length(length):
    with pytest.raises(ValueError, match=rf"length {length}.*per block \(3\).*per layer \(6\)"):
        Generator(4, 8, 4, 8)(torch.zeros(length, 1, 8), None)


@pytest.mark.parametrize(("noise", "message"), [
    ([(None, None)], "1 pairs; this generator has 3"), ("rnadom", "'rnadom'")])
def test_noise_of_the_wrong_form(noise, message):
    generator = Generator(4, 8, 4, 8)
    unchecked = inspect.unwrap(generator.noise_of_blocks)  # the type checker of the tests would refuse it first
    with pytest.raises(ValueError, match=message):
        unchecked(generator, noise)


@pytest.mark.parametrize("build", [lambda: Generator(1, 8), lambda: Discriminator(0)])
def test_log_resolution_below_2(build):
    with pytest.raises(ValueError, match="log_resolution is"):
        build()


def test_images_of_another_side():
    with pytest.raises(ValueError, match="8 × 8; this discriminator takes 16 × 16"):
        Discriminator(4, 4, 8)(torch.zeros(4, 3, 8, 8))
