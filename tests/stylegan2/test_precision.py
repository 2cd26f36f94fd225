"""What is computed in which precision, and that what was set is found again."""

import pytest
import torch

from stylegan2.metrics.path_length import path_lengths
from stylegan2.precision import exact_float32, float32_settings, has_bfloat16
from stylegan2.training import Settings
from stylegan2.training.players import Players
from stylegan2.training.step import Step

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


def test_auto_asks_for_it(monkeypatch):
    players = Players(Settings(**TINY))
    seen = []
    players.generator.style_block.conv.register_forward_hook(lambda *given: seen.append(given[-1].dtype))
    latents = Step(players).draw(4)[0]
    for has in (False, True):
        monkeypatch.setattr("stylegan2.training.players.has_bfloat16", lambda device, has=has: has)
        players.generate(latents)
    assert seen == [torch.float32, torch.bfloat16]


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
