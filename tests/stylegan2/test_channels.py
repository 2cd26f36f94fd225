"""Grey and transparent pictures, from the file to the grid."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2.augment import AdaptiveAugment, colour
from stylegan2.cli import parse
from stylegan2.commands.explore import read_image
from stylegan2.data import channels_of, open_source
from stylegan2.discriminator import Discriminator
from stylegan2.files import load_tensors
from stylegan2.images import tile, to_float, to_rgb, to_uint8
from stylegan2.metrics import load_classifier
from stylegan2.metrics.features import extract
from stylegan2.training import Settings
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.players import Players, sample
from stylegan2.training.presets import PRESETS
from stylegan2.training.trainer import Trainer
from stylegan2.weights import load

TINY = {"resolution": 8, "batch_size": 4, "n_features": 4, "max_features": 8, "d_latent": 8,
        "mapping_layers": 2}
FLAGS = [word for name, value in TINY.items()
         for word in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture
def pictures(tmp_path):
    """Folders of the same noise, grey in several dresses, in colour, and cut out."""
    rng = np.random.default_rng(0)
    for i in range(8):
        grey = rng.integers(0, 256, (8, 8), np.uint8)
        rgb = rng.integers(0, 256, (8, 8, 3), np.uint8)
        alpha = rng.integers(0, 2, (8, 8, 1), np.uint8) * 255
        rgba = np.concatenate([rgb, alpha], axis=2)
        for name, pixels in {"grey": grey, "as_rgb": np.repeat(grey[..., None], 3, 2),
                             "rgb": rgb, "rgba": rgba}.items():
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
        (tmp_path / "jpeg").mkdir(exist_ok=True)
        big = Image.fromarray(grey).resize((64, 64)).convert("RGB")
        big.save(tmp_path / "jpeg" / f"{i}.jpg", quality=80)
        (tmp_path / "mixed").mkdir(exist_ok=True)
        Image.fromarray(rgb if i == 5 else grey).save(tmp_path / "mixed" / f"{i}.png")
    return tmp_path


def test_grey_is_found_whatever_it_is_stored_as(pictures):
    found = {name: channels_of(str(pictures / name))
             for name in ("grey", "as_rgb", "jpeg", "rgb", "rgba", "mixed")}
    assert found == {"grey": 1, "as_rgb": 1, "jpeg": 1, "rgb": 3, "rgba": 3, "mixed": 3}
    assert (channels_of("fashion-mnist"), channels_of("cifar10"), channels_of("toyfaces")) == (1, 3, 3)


def test_the_command_line_says_and_takes_it(pictures, capsys):
    command = parse(["train", "--data", str(pictures / "jpeg"), *FLAGS])
    assert command.settings.channels == 1
    assert parse(["train", "--data", str(pictures / "jpeg"), *FLAGS, "--channels", "3"]).settings.channels == 3
    assert parse(["train", "--data", str(pictures / "rgba"), *FLAGS, "--channels", "4"]).settings.channels == 4
    with pytest.raises(SystemExit):
        parse(["train", "--channels", "2"])


def test_pixels_of_every_kind(pictures):
    def pixels(name, channels, **more):
        source = open_source(pictures / name, 8, channels=channels, **more)
        return source.images(torch.arange(8))

    grey, rgba = pixels("grey", 1), pixels("rgba", 4)
    assert grey.shape == (8, 1, 8, 8)
    assert torch.equal(pixels("grey", 3), grey.expand(-1, 3, -1, -1))
    assert torch.equal(pixels("as_rgb", 1), grey)
    files = [np.asarray(Image.open(pictures / "rgba" / f"{i}.png")) for i in range(8)]
    stored = torch.from_numpy(np.stack(files)).permute(0, 3, 1, 2)
    seen = stored[:, 3] > 0
    assert torch.equal(rgba[:, 3], stored[:, 3])
    assert torch.equal(rgba[:, :3].movedim(1, 0)[:, seen], stored[:, :3].movedim(1, 0)[:, seen])
    assert (rgba[:, :3].movedim(1, 0)[:, ~seen] == 255).all()  # no arbitrary colour
    composited = pixels("rgba", 3, background=(10, 20, 30)).movedim(1, -1)
    assert (composited[~seen] == torch.tensor([10, 20, 30])).all()
    luma = pixels("rgb", 3).double().movedim(1, -1) @ torch.tensor([0.299, 0.587, 0.114]).double()
    assert (pixels("rgb", 1)[:, 0] - luma).abs().max() <= 1


@pytest.mark.parametrize(("shape", "channels", "expected"), [
    ((6, 8, 8), 1, 1), ((6, 8, 8), 3, 3), ((6, 8, 8, 3), 1, 1), ((6, 4, 8, 8), 4, 4), ((6, 4, 8, 8), 3, 3),
    ((6, 1, 8, 8), 4, 4)])
def test_arrays_of_every_kind(shape, channels, expected):
    array = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    images = open_source(array, 8, channels=channels).images(torch.arange(6))
    assert images.shape == (6, expected, 8, 8)
    if shape == (6, 8, 8):
        assert torch.equal(images[:, 0], torch.from_numpy(array))


@pytest.mark.parametrize("model", PRESETS)
@pytest.mark.parametrize("channels", [1, 4])
def test_only_the_ends_of_the_networks_differ(model, channels):
    """By hand: toRGB has features + 1 numbers a channel, fromRGB as many as features; at every
    resolution, or at one, as the architecture has it."""
    s = replace(PRESETS[model], **{**TINY, "mapping_layers": 2 if model != "progan" else 0})
    players, other = Players(replace(s, channels=channels)), Players(s)
    features = [8, 4]  # at 4² and 8²
    to_rgb_count = sum(f + 1 for f in features)
    from_rgb_count = sum(features) if s.discriminator == "plain" else features[-1]

    def count(module):
        return sum(p.numel() for p in module.parameters())

    assert count(players.generator) - count(other.generator) == (channels - 3) * to_rgb_count
    assert count(players.discriminator) - count(other.discriminator) == (channels - 3) * from_rgb_count


def test_a_grey_network_is_an_rgb_network_whose_colours_agree():
    """The same weights in all channels draw the same images three times."""
    torch.manual_seed(0)
    grey, rgb = (Players(Settings(**TINY, channels=c)).eval() for c in (1, 3))
    state = rgb.state_dict()
    for name, value in grey.state_dict().items():
        if "from_rgb" in name and name.endswith("weight.weight"):
            state[name] = value.expand_as(state[name]) / math.sqrt(3)  # equalized by √(channels)
        else:
            state[name] = value.expand_as(state[name])
    rgb.load_state_dict(state)
    z = torch.randn(4, 8)
    one, three = grey.average(z), rgb.average(z)
    torch.testing.assert_close(three, one.expand(-1, 3, -1, -1))
    torch.testing.assert_close(rgb.discriminator(three), grey.discriminator(one), rtol=1e-4, atol=1e-5)


def test_colours_of_grey_are_the_mean_of_the_colours_of_its_rgb():
    augment = AdaptiveAugment()
    augment.p.fill_(0.8)
    grey = torch.rand(64, 1, 8, 8) * 2 - 1
    for images in (grey, torch.cat([grey.expand(-1, 3, -1, -1), torch.rand(64, 1, 8, 8)], dim=1)):
        torch.manual_seed(1)
        made = augment(images)
        torch.manual_seed(1)
        as_rgb = augment(grey.expand(-1, 3, -1, -1))
        if images.shape[1] == 1:
            torch.testing.assert_close(made, as_rgb.mean(1, keepdim=True))
        else:
            torch.testing.assert_close(made[:, :3], as_rgb)


def test_how_opaque_a_pixel_is_has_no_colour():
    augment = AdaptiveAugment(transformations=["brightness", "contrast", "luma_flip", "hue", "saturation"])
    augment.p.fill_(1)
    images = torch.rand(8, 4, 8, 8)
    made = augment(images)
    torch.testing.assert_close(made[:, 3:], images[:, 3:], rtol=0, atol=1e-6)
    assert (made[:, :3] - images[:, :3]).abs().max() > 0.1
    drawn = augment.draw(8)
    rows = colour(drawn)[:, :, :3].sum(2)
    torch.testing.assert_close(rows, rows[:, :1].expand(-1, 3))  # grey stays grey: one factor


@pytest.mark.parametrize(("name", "channels"), [("grey", 1), ("rgba", 4)])
@pytest.mark.parametrize("model", PRESETS)
def test_a_run_of_every_kind_resumes_exactly(pictures, name, channels, model):
    settings = replace(PRESETS[model], **{**TINY, "mapping_layers": 2 if model != "progan" else 0},
                       data=str(pictures / name), channels=channels, images=24, augment=True,
                       augment_images=100)
    Trainer(pictures / "whole", settings, checkpoint_every=12).train()
    Trainer(pictures / "halves", replace(settings, images=12)).train()
    Trainer(pictures / "halves", settings, resume=True).train()
    whole, halves = (load_tensors(checkpoints(pictures / run)[-1])[0] for run in ("whole", "halves"))
    assert all(torch.equal(value, halves[key]) for key, value in whole.items())
    trained = load(pictures / "whole")
    images = sample(trained, 4)
    assert images.shape[1] == channels
    grid = Image.open(sorted((pictures / "whole" / "samples").iterdir())[-1])
    assert grid.mode == {1: "L", 4: "RGBA"}[channels]


def test_grids_keep_their_pixels():
    for channels in (1, 3, 4):
        images = torch.randint(0, 256, (3, channels, 4, 4), dtype=torch.uint8)
        picture = np.asarray(tile(to_float(images), 2)).reshape(8, 8, channels)
        for i, (y, x) in enumerate([(0, 0), (0, 4), (4, 0)]):
            assert (picture[y:y + 4, x:x + 4] == images[i].movedim(0, 2).numpy()).all()
        assert (picture[4:, 4:] == 255).all()


def test_what_sees_colours_sees_three():
    grey, rgba = torch.rand(2, 1, 32, 32), torch.rand(2, 4, 32, 32) * 2 - 1
    assert torch.equal(to_rgb(grey), grey.repeat(1, 3, 1, 1))
    as_picture = Image.fromarray(to_uint8(rgba)[0].movedim(0, 2).numpy())
    white = Image.new("RGBA", as_picture.size, "white")
    expected = np.asarray(Image.alpha_composite(white, as_picture).convert("RGB"), int)
    assert np.abs(to_uint8(to_rgb(rgba))[0].movedim(0, 2).numpy().astype(int) - expected).max() <= 1
    classifier = load_classifier()
    assert torch.equal(extract(classifier, [grey]), classifier(grey.repeat(1, 3, 1, 1)))


def test_other_channels_are_refused(pictures):
    with pytest.raises(ValueError, match="images have 1 channels; this discriminator takes 3"):
        Discriminator(3)(torch.zeros(4, 1, 8, 8))
    with pytest.raises(ValueError, match="toyfaces are RGB"):
        open_source("toyfaces", 32, channels=1)
    assert read_image(pictures / "grey" / "0.png", 8, (255, 255, 255), 1).shape == (1, 8, 8)


def test_a_converted_network_keeps_its_channels(pictures):
    settings = Settings(**TINY, channels=1, data=str(pictures / "grey"), images=4, noise=True)
    Trainer(pictures / "run", settings).train()
    for name in ("a.npz", "b.safetensors", "c.pt"):
        parse(["convert", str(pictures / "run"), "--to", str(pictures / name)]).execute()
        back = load(pictures / name)
        assert back.settings.channels == 1
        z = torch.randn(2, 8)
        assert torch.equal(back(z), load(pictures / "run")(z))
    command = parse(["train", "--from", str(pictures / "c.pt"), "--data", str(pictures / "grey")])
    assert command.settings.channels == 1
    with pytest.raises(ValueError, match=r"channels is 1 in .*, not 3"):
        parse(["train", "--from", str(pictures / "c.pt"), "--data", str(pictures / "rgb"), "--channels", "3"])
