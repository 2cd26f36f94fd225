"""What is computed in which precision, and that what was set is found again."""

import pytest
import torch

from stylegan2.equalized import EqualizedConv2d
from stylegan2.metrics.path_length import path_lengths
from stylegan2.modulation import Conv2dWeightModulate
from stylegan2.precision import dtype_of_main_phases, exact_float32, float32_settings, has_bfloat16
from stylegan2.training import Settings
from stylegan2.training.players import Players
from stylegan2.training.step import Step
from stylegan2.training.trainer import Trainer

TINY = {"resolution": 8, "batch_size": 4, "n_features": 4, "max_features": 8, "d_latent": 8, "mapping_layers": 2}


@pytest.fixture(autouse=True)
def settings_of_torch():
    """Put back whatever a test changes."""
    before = float32_settings()
    yield
    for (place, name), value in before.items():
        setattr(place, name, value)


@pytest.mark.parametrize(("capability", "has"), [((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 9), True),
                                                 ((9, 0), True), ((12, 0), True)])
def test_bfloat16_is_what_the_device_in_use_has(capability, has, monkeypatch):
    """A T4 has 7.5. torch itself says that it supports bfloat16, by emulation; and asks the first card, not the one
    that is used.
    """
    asked = []
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, **__: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: asked.append(device) or capability)
    assert has_bfloat16(torch.device("cuda:1")) == has
    assert asked == [torch.device("cuda:1")]
    assert not has_bfloat16(torch.device("cpu"))


@pytest.mark.parametrize(("capability", "dtype"), [
    ((6, 1), torch.float32), ((7, 0), torch.float16), ((7, 5), torch.float16), ((8, 0), torch.bfloat16),
    ((9, 0), torch.bfloat16)])
def test_auto_is_what_the_card_has_matrix_units_for(capability, dtype, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    card = torch.device("cuda:0")
    assert dtype_of_main_phases("auto", card, 128) == dtype
    assert dtype_of_main_phases("auto", card, 64) == torch.float32, "a step at 64² is bound by its launches"
    assert dtype_of_main_phases("auto", torch.device("cpu"), 1024) == torch.float32
    for name, named in {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}.items():
        assert dtype_of_main_phases(name, card, 4) == named


def small(resolution=128, **changes):
    """Six resolutions, of which four are computed in float16."""
    torch.manual_seed(1)
    return Players(Settings(**{**TINY, "resolution": resolution, "n_features": 2, "max_features": 4, **changes}))


@pytest.mark.parametrize("architectures", [("skip", "residual"), ("residual", "skip")])
def test_float16_is_for_the_four_highest_resolutions(architectures):
    """Of both networks; and the image and the scores are float32."""
    players = small(precision="fp16", generator=architectures[0], discriminator=architectures[1])
    seen = []
    for network in (players.generator, players.discriminator):
        for module in network.modules():
            if isinstance(module, (Conv2dWeightModulate, EqualizedConv2d)):
                module.register_forward_hook(
                    lambda _, given, out: seen.append((given[0].shape[-1], out.shape[-1], out.dtype)))
    _, images = players.generate(Step(players).draw(4)[0])
    n_of_generator = len(seen)
    scores = players.score(images, None)
    assert images.dtype == scores.dtype == torch.float32
    for i, (side_in, side_out, dtype) in enumerate(seen):
        # A block works at the resolution that the generator's give out, and that the discriminator's take in.
        side = side_out if i < n_of_generator else side_in
        if side & (side - 1) or side == 8:
            continue  # behind a filter; at 8² there are a shortcut of the block of 16² and the block of 8²
        assert dtype == (torch.float16 if side >= 16 else torch.float32), (i, side_in, side_out)
    assert {side_out for _, side_out, _ in seen} >= {4, 8, 16, 32, 64, 128}


@pytest.mark.parametrize(("precision", "bound"), [("fp16", 0.004), ("bf16", 0.03)])
def test_half_precision_is_float32_up_to_its_rounding(precision, bound):
    """Images and scores, and the gradient of either: relative to the largest. float16 keeps 11 bits, bfloat16 8."""
    exact, found = [], []
    for name, results in (("fp32", exact), (precision, found)):
        players = small(precision=name)
        latents = Step(players).draw(8)[0]
        _, images = players.generate(latents)
        scores = players.score(images, None)
        parameters = [players.generator.initial_constant, *players.discriminator.parameters()]
        gradients = torch.autograd.grad(torch.nn.functional.softplus(-scores).mean(), parameters)
        results += [images, scores, torch.cat([g.flatten() for g in gradients])]
    for ours, expected in zip(found, exact, strict=True):
        assert ours.isfinite().all()
        assert (ours - expected).abs().max() < 8 * bound * expected.abs().max()
        assert 0 < (ours - expected).square().mean().sqrt() < bound * expected.abs().max()


@pytest.mark.parametrize("up", [False, True])
def test_no_style_and_no_weight_is_too_large_for_float16(up):
    """Demodulation takes any size out again. Without the normalisation before it, these sums are infinite."""
    torch.manual_seed(0)
    layer = Conv2dWeightModulate(64, 8, 3, up=up)
    layer.weight.data.mul_(300)
    x, s = 256 * torch.randn(2, 64, 8, 8).clamp(-1, 1), 1000 * torch.randn(2, 64)
    with torch.autocast("cpu", torch.float16):
        found = layer.scale_activations(x.half(), s)
    expected = layer.scale_activations(x, s).detach()
    torch.testing.assert_close(found.float(), expected, atol=0.004 * float(expected.abs().max()), rtol=0)
    naive = torch.nn.functional.conv2d((x * s[:, :, None, None]).half(), layer.weight.half())
    assert not naive.isfinite().all()


def test_activations_in_float16_are_limited():
    """Biases of 10,000 would add up to more than float16 holds."""
    players = small(precision="fp16")
    for name, parameter in (*players.generator.named_parameters(), *players.discriminator.named_parameters()):
        if name.endswith("bias") and not any(part in name for part in ("to_style", "to_rgb", "final")):
            parameter.data.fill_(10_000)
    _, images = players.generate(Step(players).draw(4)[0])
    assert players.score(images, None).isfinite().all()


def test_plain_networks_have_no_float16(monkeypatch):
    with pytest.raises(ValueError, match="fp16 needs a generator and a discriminator"):
        Settings(generator="plain", precision="fp16")
    monkeypatch.setattr("stylegan2.training.players.dtype_of_main_phases", lambda *_: torch.float16)
    assert not small(generator="plain").precision(penalty=False)._enabled


def flags():
    return torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize("change", ["nothing", "matmul", "no convolutions", "newer names", "for all"])
def test_exact_float32_puts_back_what_was_set(change):
    backends = torch.backends
    if change in ("newer names", "for all") and not hasattr(backends.cudnn, "conv"):
        return  # before torch 2.9 there is one set of names
    if change == "matmul":
        backends.cuda.matmul.allow_tf32 = True
    elif change == "no convolutions":
        backends.cudnn.allow_tf32 = False
    elif change == "newer names":
        backends.cudnn.conv.fp32_precision, backends.cudnn.rnn.fp32_precision = "tf32", "ieee"
    elif change == "for all":
        backends.cuda.matmul.fp32_precision = backends.cudnn.conv.fp32_precision = "tf32"
    before = float32_settings()

    def inside():
        with exact_float32():
            assert not any(value in (True, "tf32") for value in float32_settings().values())
            raise RuntimeError("on the way")

    with pytest.raises(RuntimeError, match="on the way"):
        inside()
    assert float32_settings() == before


@pytest.mark.parametrize("interval", [1, 2])
def test_penalties_are_exact_forward_and_backward(interval):
    """Main phases are not, so that a GPU is as fast as it can be."""
    torch.backends.cuda.matmul.allow_tf32 = True
    players = Players(Settings(**TINY, r1_interval=interval, path_length_interval=interval))
    step, seen = Step(players), []

    def note(phase):
        def run(*part):
            loss = phase(*part)
            seen.append((phase.__name__, "forward", flags()))
            loss.register_hook(lambda _: seen.append((phase.__name__, "backward", flags())))
            return loss
        return run

    for name in ("real_loss", "fake_loss", "discriminator_penalty", "generator_loss", "generator_penalty"):
        setattr(step.phases, name, note(getattr(step.phases, name)))
    step(0, torch.rand(4, 3, 8, 8))
    assert len(seen) == 10
    for name, _, found in seen:
        assert found == ((False, False) if "penalty" in name else (True, True)), name
    assert flags() == (True, True)


def test_measured_path_lengths_are_exact():
    seen = []

    def images(w):
        seen.append(flags())
        return w[:, :, None, None].expand(-1, -1, 3, 3)

    path_lengths(lambda z: z, images, lambda a, b: (a - b).square().sum(dim=(1, 2, 3)), torch.randn(2, 4, 3),
                 torch.zeros(4))
    assert seen == [(False, False)] * 2


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_what_much_depends_on_stays_in_float32(dtype):
    """w, styles, the sum of RGB images, and the score of given features: the same bits with autocast as without."""
    torch.manual_seed(0)
    players = Players(Settings(**{**TINY, "resolution": 16, "labels": True}), n_classes=3)
    z, labels = torch.randn(4, 8), torch.tensor([0, 1, 2, 0])
    features, w = torch.randn(4, 8, 4, 4), torch.randn(4, 8)
    small, block = torch.randn(4, 3, 8, 8), players.generator.blocks[0]

    def computed():
        d = players.discriminator
        yield players.mapping(z, labels)
        yield block.style_block1.to_style(w)
        yield d.score(features, labels)

    exact = [value.detach() for value in computed()]
    rgb = []
    players.generator.up_sample.register_forward_hook(lambda *given: rgb.append(given[-1]))
    with torch.autocast("cpu", dtype):
        for value, expected in zip(computed(), exact, strict=True):
            assert value.dtype == torch.float32
            assert torch.equal(value, expected)
        image = players.generator(players.mapping(z, labels).expand(players.generator.n_layers, -1, -1), None)
        assert block.style_block1.conv(features, block.style_block1.to_style(w)).dtype == dtype, "the rest is not"
    assert image.dtype == torch.float32
    assert {part.dtype for part in rgb} == {torch.float32}
    assert len(rgb) == 2
    torch.testing.assert_close(players.generator.up_sample(small), players.generator.up_sample(small.double()).float())


@pytest.mark.parametrize("growing", [False, True])
def test_cudnn_tries_its_algorithms_where_shapes_stand_still_and_only_while_training(growing, tmp_path, monkeypatch):
    settings = Settings(**TINY, images=8, growing=growing, grow_from=4, grow_images=4,
                        **({"generator": "plain", "discriminator": "plain"} if growing else {}))
    trainer, seen = Trainer(tmp_path / "run", settings), []
    monkeypatch.setattr(trainer, "step", lambda *args, step=trainer.step: (
        seen.append(torch.backends.cudnn.benchmark), step(*args))[1])
    monkeypatch.setattr(trainer, "save", lambda: None)
    trainer.train()
    assert seen == [not growing] * 2
    assert not torch.backends.cudnn.benchmark
