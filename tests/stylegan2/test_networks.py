"""The generators and the discriminators as wholes."""

import inspect
import math

import jaxtyping
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from stylegan2 import Discriminator, Generator, MappingNetwork, StyleBlock
from stylegan2.discriminator import LeakyReLU, SkipDiscriminator
from stylegan2.generator import ResidualGenerator, features_of_blocks
from stylegan2.losses import logistic_generator_loss
from stylegan2.progressive import GrowingDiscriminator, ProgressiveDiscriminator, ProgressiveGenerator
from stylegan2.stylegan1 import AdaINBlock, GrowingGenerator

STYLED = [Generator, ResidualGenerator, GrowingGenerator]
DISCRIMINATORS = [Discriminator, SkipDiscriminator, GrowingDiscriminator, ProgressiveDiscriminator]


@pytest.fixture
def unchecked_shapes():
    """As for a user: without the hook that checks annotations in the tests before we do."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


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


@settings(max_examples=40, deadline=None)
@given(build=st.sampled_from([*((g, style) for g in STYLED for style in (StyleBlock, AdaINBlock)),
                              (ProgressiveGenerator, None)]),
       judge=st.sampled_from(DISCRIMINATORS), log_resolution=st.integers(2, 4), n_features=st.integers(1, 4),
       max_features=st.integers(1, 8), d_latent=st.integers(1, 5), n_classes=st.integers(0, 3),
       groups=st.integers(1, 2), per_layer=st.booleans(), noise=st.sampled_from(["random", "const", None]))
def test_every_generator_learns_from_every_discriminator(
        build, judge, log_resolution, n_features, max_features, d_latent, n_classes, groups, per_layer, noise):
    make, style = build
    sizes = (log_resolution, d_latent, n_features, max_features)
    generator = make(*sizes) if style is None else make(*sizes, style)
    discriminator = judge(log_resolution, n_features, max_features, 2, n_classes)
    mapping = MappingNetwork(d_latent, 2, n_classes=n_classes)
    batch = 2 * groups
    labels = torch.randint(n_classes, [batch]) if n_classes else None
    length = generator.n_layers if per_layer else generator.n_blocks
    w = mapping(torch.randn(batch, d_latent), labels).expand(length, -1, -1)
    images = generator(w, noise)
    assert images.shape == (batch, 3, 2**log_resolution, 2**log_resolution)
    scores = discriminator(images, labels)
    assert scores.shape == (batch, 1)
    logistic_generator_loss(scores).backward()
    unused = {"to_rgb.layers", "from_rgb."}  # a grown network does not look at the lower images
    for network in (mapping, generator, discriminator):
        for name, parameter in network.named_parameters():
            if noise is None and "noise_strength" in name:
                continue
            if parameter.grad is None:
                assert any(name.startswith(part) for part in unused), name
            else:
                assert parameter.grad.isfinite().all(), name


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


# The published networks (StyleGAN2-ADA's parameterisation), as plain functions of their weights in float64.

FIR = torch.outer(torch.tensor([1.0, 3, 3, 1]), torch.tensor([1.0, 3, 3, 1])).double()[None, None] / 64


def fir(x, pad, gain=1.0):  # pad: left, right, top, bottom
    return torch.cat([F.conv2d(F.pad(channel, pad), FIR * gain) for channel in x.split(1, dim=1)], dim=1)


def zeros_between(x):
    wide = torch.zeros(*x.shape[:2], 2 * x.shape[2], 2 * x.shape[3], dtype=x.dtype)
    wide[..., ::2, ::2] = x
    return wide


def leaky(x):
    return torch.where(x > 0, x, 0.2 * x) * math.sqrt(2)


def affine(w, state, name):
    return w @ state[f"{name}.weight.weight"].T / math.sqrt(w.shape[1]) + state[f"{name}.bias"]


def styled(x, w, noise, state, name, up=False):
    """One sample after the other."""
    s, out = affine(w, state, f"{name}.to_style"), []
    for sample, style in zip(x, s, strict=True):
        kernel = state[f"{name}.conv.weight"] * style[:, None, None]
        kernel = kernel / (kernel.pow(2).sum(dim=(1, 2, 3), keepdim=True) + 1e-8).sqrt()
        if up:  # a transposed convolution is a plain one with the flipped kernel over zeros between the pixels
            wide = F.pad(zeros_between(sample[None])[..., :-1, :-1], (2, 2, 2, 2))
            out.append(fir(F.conv2d(wide, kernel.flip(2, 3)), (1, 1, 1, 1), gain=4))
        else:
            out.append(F.conv2d(sample[None], kernel, padding=1))
    x = torch.cat(out) + noise * state[f"{name}.noise_strength"] + state[f"{name}.bias"][:, None, None]
    return leaky(x)


def to_rgb(x, w, state, name):
    s = affine(w, state, f"{name}.to_style") / math.sqrt(x.shape[1])
    return (torch.einsum("oi,bi,bihw->bohw", state[f"{name}.conv.weight"][:, :, 0, 0], s, x)
            + state[f"{name}.bias"][:, None, None])


def conv(x, state, name, gain, **options):
    weight = state[f"{name}.weight.weight"]
    y = F.conv2d(x, weight * (gain / math.sqrt(weight[0].numel())), **options)
    return y + gain * state[f"{name}.bias"][:, None, None] if f"{name}.bias" in state else y


def shaken(network):
    """In float64, with biases and noise strengths, which start at 0, where no test sees them."""
    for name, parameter in network.named_parameters():
        if name.endswith("noise_strength"):
            assert parameter.shape == ()  # one number per layer
        if name.endswith(("noise_strength", "bias")) and "to_style" not in name:
            assert parameter.eq(0).all()
            torch.nn.init.normal_(parameter)
        if name.endswith("to_style.bias"):
            assert parameter.eq(1).all()
    return network.double()


@torch.no_grad()
def test_the_generator_is_the_published_one():
    torch.manual_seed(0)
    generator = shaken(Generator(4, 6, 4, 8))
    state, w = generator.state_dict(), torch.randn(6, 2, 6, dtype=torch.float64)
    noise = [tuple(torch.randn(2, 1, 4 << i, 4 << i, dtype=torch.float64) for _ in range(2)) for i in range(3)]
    x = styled(state["initial_constant"].expand(2, -1, -1, -1), w[0], noise[0][1], state, "style_block")
    image = to_rgb(x, w[1], state, "to_rgb")
    for i in range(2):
        x = styled(x, w[2 * i + 1], noise[i + 1][0], state, f"blocks.{i}.style_block1", up=True)
        x = styled(x, w[2 * i + 2], noise[i + 1][1], state, f"blocks.{i}.style_block2")
        image = fir(zeros_between(image), (2, 1, 2, 1), gain=4) + to_rgb(x, w[2 * i + 3], state, f"blocks.{i}.to_rgb")
    assert x.shape == (2, 4, 16, 16)
    torch.testing.assert_close(generator(w, noise), image)


@torch.no_grad()
def test_a_residual_generator():
    """Blocks with a 1×1 shortcut, √½ on the sum, toRGB at the end only."""
    torch.manual_seed(0)
    generator = shaken(ResidualGenerator(4, 6, 4, 8))
    state, w = generator.state_dict(), torch.randn(6, 2, 6, dtype=torch.float64)
    x = styled(state["initial_constant"].expand(2, -1, -1, -1), w[0], 0, state, "style_block")
    for i in range(2):
        y = styled(x, w[2 * i + 1], 0, state, f"blocks.{i}.style_block1", up=True)
        y = styled(y, w[2 * i + 2], 0, state, f"blocks.{i}.style_block2")
        shortcut = conv(fir(zeros_between(x), (2, 1, 2, 1), gain=4), state, f"blocks.{i}.residual.0", 1)
        x = (y + shortcut) / math.sqrt(2)
    torch.testing.assert_close(generator(w, None), to_rgb(x, w[5], state, "to_rgb"))


def tail(x, state):
    """Minibatch standard deviation in groups of 4, a convolution, two linear layers."""
    groups = len(x) // 4
    std = [(x[g::groups].var(dim=0, unbiased=False) + 1e-8).sqrt().mean() for g in range(groups)]
    channel = torch.stack([std[i % groups] for i in range(len(x))])[:, None, None, None].expand(-1, 1, 4, 4)
    x = leaky(conv(torch.cat([x, channel], dim=1), state, "conv.0", 1, padding=1)).flatten(1)
    return affine(leaky(affine(x, state, "final.0")), state, "final.2")


@torch.no_grad()
def test_the_discriminator_is_the_published_one():
    torch.manual_seed(0)
    discriminator = shaken(Discriminator(4, 4, 8))
    state, image = discriminator.state_dict(), torch.randn(8, 3, 16, 16, dtype=torch.float64)
    x = leaky(conv(image, state, "from_rgb.0", 1))
    for i in range(2):
        shortcut = conv(fir(x, (1, 1, 1, 1))[..., ::2, ::2], state, f"blocks.{i}.residual.1", 1)
        x = leaky(conv(x, state, f"blocks.{i}.block.0", 1, padding=1))
        x = leaky(conv(fir(x, (2, 2, 2, 2)), state, f"blocks.{i}.block.3", 1, stride=2))
        x = (x + shortcut) * math.sqrt(0.5)
    torch.testing.assert_close(discriminator(image), tail(x, state))


@torch.no_grad()
def test_a_skip_discriminator_sees_the_image_at_every_resolution():
    torch.manual_seed(0)
    discriminator = shaken(SkipDiscriminator(4, 4, 8))
    state, image = discriminator.state_dict(), torch.randn(4, 3, 16, 16, dtype=torch.float64)
    x = leaky(conv(image, state, "from_rgb.0.0", 1))
    expected = image
    for i in range(2):
        x = leaky(conv(x, state, f"blocks.{i}.0", 1, padding=1))
        x = leaky(conv(fir(x, (2, 2, 2, 2)), state, f"blocks.{i}.3", 1, stride=2))
        expected = fir(expected, (1, 1, 1, 1))[..., ::2, ::2]
        x = x + leaky(conv(expected, state, f"from_rgb.{i + 1}.0", 1))
    torch.testing.assert_close(discriminator(image), tail(x, state))


@torch.no_grad()
@pytest.mark.parametrize("label_layers", [0, 2])
def test_the_score_of_an_image_and_its_label_is_a_projection(label_layers):
    torch.manual_seed(0)
    discriminator = shaken(Discriminator(2, 8, 8, n_classes=3, label_layers=label_layers))
    state, image = discriminator.state_dict(), torch.randn(4, 3, 4, 4, dtype=torch.float64)
    labels = torch.tensor([2, 0, 2, 1])
    features = tail(leaky(conv(image, state, "from_rgb.0", 1)), state)
    assert features.shape == (4, 8)
    weight, bias = state["embedding.0.linear.weight.weight"], state["embedding.0.linear.bias"]
    embedded = weight.T[labels] / math.sqrt(3) + bias
    embedded = embedded / (embedded.pow(2).mean(dim=1, keepdim=True) + 1e-8).sqrt()
    for i in range(label_layers):
        weight, bias = state[f"embedding.1.{i}.weight.weight"], state[f"embedding.1.{i}.bias"]
        embedded = leaky(embedded @ weight.T * (0.01 / math.sqrt(8)) + bias * 0.01)
    expected = torch.stack([f @ e for f, e in zip(features, embedded, strict=True)]) / math.sqrt(8)
    torch.testing.assert_close(discriminator(image, labels), expected[:, None])


@pytest.mark.parametrize("network", [
    lambda labels, n: MappingNetwork(4, 2, n_classes=n)(torch.randn(2, 4), labels),
    lambda labels, n: Discriminator(2, 4, 4, n_classes=n)(torch.randn(2, 3, 4, 4), labels),
    lambda labels, n: SkipDiscriminator(2, 4, 4, n_classes=n)(torch.randn(2, 3, 4, 4), labels),
    lambda labels, n: GrowingDiscriminator(2, 4, 4, n_classes=n)(torch.randn(2, 3, 4, 4), labels)])
@pytest.mark.parametrize(("labels", "n_classes", "message"), [
    (None, 3, "labels are missing: this network was built with n_classes=3; give it one label per sample, 0 to 2"),
    ([0, 1], 0, "without classes: build it with n_classes=…, or leave the labels out"),
    ([0, 3], 3, "from 0 to 3: .* between 0 and 2"), ([-1, 2], 3, "from -1 to 2")])
def test_labels_that_do_not_fit(network, labels, n_classes, message):
    with pytest.raises(ValueError, match=message):
        network(None if labels is None else torch.tensor(labels), n_classes)


@pytest.mark.parametrize("kind", DISCRIMINATORS)
def test_a_score_depends_on_its_own_label(kind):
    torch.manual_seed(0)
    discriminator, x = kind(3, 8, 8, n_classes=2), torch.randn(4, 3, 8, 8)
    zeros, mixed = discriminator(x, torch.tensor([0, 0, 0, 0])), discriminator(x, torch.tensor([0, 1, 0, 0]))
    assert (zeros != mixed).flatten().tolist() == [False, True, False, False]


@torch.no_grad()
def test_a_style_block_starts_at_unit_scale():
    """Demodulated to variance 1; then E lrelu(x)² = (1 + 0.2²)/2, and the gain √2 makes 1.04 of it."""
    torch.manual_seed(0)
    block = StyleBlock(64, 64, 64, resolution=34)
    out = block(torch.randn(16, 64, 34, 34), torch.randn(16, 64), None)[..., 1:-1, 1:-1]  # the border sees zeros
    assert out.square().mean().item() == pytest.approx(1.04, rel=0.05)


@torch.no_grad()
@pytest.mark.parametrize("build", [*STYLED, *DISCRIMINATORS])
def test_no_layer_of_a_network_starts_far_from_unit_scale(build):
    """Padding, filters, correlations and sums move it; but nothing may vanish or explode with depth. (A forgotten √2
    halves the second moment in every layer of a discriminator, nine times.)
    """
    torch.manual_seed(0)
    network, scales = build(6, 64, 64, 64) if build in STYLED else build(6, 64, 64), []
    for module in network.modules():
        if isinstance(module, (StyleBlock, LeakyReLU)):
            module.register_forward_hook(lambda m, args, out: scales.append(out.square().mean().item()))
    if build in STYLED:
        network(MappingNetwork(64, 8)(torch.randn(8, 64)).expand(5, -1, -1), None)
    else:
        network(torch.randn(8, 3, 1, 1).expand(-1, -1, 64, 64))
    assert len(scales) >= 9
    assert 0.1 < min(scales) < max(scales) < 20, scales


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


@pytest.mark.parametrize(("call", "message"), [
    (lambda: MappingNetwork(8, 2)(torch.randn(2, 3, 8)), r"z is \[2, 3, 8\]: .* takes \[batch, 8\]"),
    (lambda: MappingNetwork(8, 2)(torch.randn(2, 7)), r"takes \[batch, 8\]"),
    (lambda: MappingNetwork(0, 2), "1 feature or more"), (lambda: MappingNetwork(8, -1), "0 layers"),
    (lambda: Generator(3, 8)(torch.randn(4, 8)), r"w is \[4, 8\]: .* \[blocks or layers, batch, 8\]"),
    (lambda: Generator(3, 8)(torch.randn(4, 2, 7)), "blocks or layers, batch, 8"),
    (lambda: Generator(3, 8, n_features=0), "one channel or more"),
    (lambda: Discriminator(3)(torch.randn(0, 3, 8, 8)), "the batch is empty")])
def test_what_fits_by_accident_or_not_at_all_is_refused(call, message, unchecked_shapes):
    with pytest.raises(ValueError, match=message):
        call()
