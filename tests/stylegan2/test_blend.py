"""Two networks in one, and pictures by their seeds."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from stylegan2.cli import main
from stylegan2.commands.sample import seeds_of
from stylegan2.explore import blend
from stylegan2.files import save_tensors
from stylegan2.images import to_uint8
from stylegan2.training import Settings
from stylegan2.weights import load, make_trained, sample

SIZES = {"resolution": 32, "n_features": 4, "max_features": 8, "d_latent": 8, "mapping_layers": 2}


def network(seed, **changes):
    torch.manual_seed(seed)
    made = make_trained(Settings(**{**SIZES, **changes}), 0)
    for parameter in made.parameters():
        parameter.data.normal_()
    return made.eval()


@pytest.fixture
def folders(tmp_path):
    for seed, name in enumerate("ab"):
        (tmp_path / name).mkdir()
        made = network(seed, noise=True)
        tensors = {f"average.{key}": tensor for key, tensor in made.state_dict().items()}
        save_tensors(tmp_path / name / "generator.safetensors", tensors, {})
        made.settings.save(tmp_path / name / "settings.json")
    return tmp_path


# resolution of every part, by hand
SKIP = {"initial_constant": 4, "style_block.": 4, "to_rgb.": 4, "blocks.0.": 8, "blocks.1.": 16, "blocks.2.": 32}
RESIDUAL = {**SKIP, "to_rgb.": 32}
PLAIN = {**SKIP, "to_rgb.layers.0.": 4, "to_rgb.layers.1.": 8, "to_rgb.layers.2.": 16, "to_rgb.layers.3.": 32}
PLAIN.pop("to_rgb.")


@pytest.mark.parametrize(("generator", "resolutions"), [("skip", SKIP), ("residual", RESIDUAL), ("plain", PLAIN)])
@pytest.mark.parametrize("at", [8, 16, 32])
def test_a_step_takes_each_resolution_from_one_network(generator, resolutions, at):
    a, b = (network(seed, generator=generator) for seed in (0, 1))
    made = dict(blend(a, b, at).named_parameters())
    ours, theirs = dict(a.named_parameters()), dict(b.named_parameters())
    for name, value in made.items():
        part = name.removeprefix("generator.")
        side = next((r for start, r in resolutions.items() if part.startswith(start)), None)
        side = 0 if name.startswith("mapping.") else side
        assert torch.equal(value, theirs[name] if side >= at else ours[name]), name


def test_a_width_blends_by_octaves():
    """½ an octave below `at` both have the same weight; one octave up or down the odds change by e^(1/width)."""
    a, b = network(0), network(1)
    made, width = blend(a, b, 16, width=0.7), 0.7
    for name, octave in (("initial_constant", -1.5), ("blocks.0.style_block1.to_style.bias", -0.5),
                         ("blocks.1.style_block1.to_style.bias", 0.5), ("blocks.2.to_rgb.bias", 1.5)):
        x, y, z = (dict(g.generator.named_parameters())[name] for g in (a, b, made))
        share = ((z - x) / (y - x)).flatten()
        expected = torch.full_like(share, 1 / (1 + np.exp(-octave / width)))
        torch.testing.assert_close(share, expected, rtol=1e-3, atol=1e-4)


def test_a_network_blended_with_itself_stays():
    a, z = network(0), torch.randn(2, 8)
    torch.testing.assert_close(blend(a, a, 16, 1.0)(z), a(z))


def test_what_cannot_be_blended():
    a = network(0)
    with pytest.raises(ValueError, match="d_latent is 8 in the one and 16 in the other"):
        blend(a, network(1, d_latent=16), 16)
    for at in (4, 12, 64):
        with pytest.raises(ValueError, match=f"at is {at}"):
            blend(a, a, at)
    with pytest.raises(ValueError, match="width is -1"):
        blend(a, a, 16, -1.0)


def test_the_command_writes_a_folder_that_says_what_it_is(folders, capsys):
    main(["explore", "blend", str(folders / "a"), str(folders / "b"), "--at", "16", "--to", str(folders / "c")])
    made = json.loads((folders / "c" / "run.json").read_text())["blended"]
    assert made["at"] == 16
    assert made["a"].startswith("a#sha256=")
    z = torch.randn(2, 8)
    assert torch.equal(load(folders / "c")(z), blend(load(folders / "a"), load(folders / "b"), 16)(z))
    with pytest.raises(SystemExit):
        main(["explore", "blend", str(folders / "a"), str(folders / "b"), "--to", str(folders / "c")])
    assert "nothing is overwritten" in capsys.readouterr().err


def test_a_picture_for_each_seed(folders):
    """Each is the same picture whichever others are asked for; truncation of the first layers only; fresh noise."""
    main(["sample", "--run", str(folders / "a"), "--seeds", "3,7-8", "--to", str(folders / "each")])
    assert sorted(p.name for p in (folders / "each").iterdir()) == [f"seed000{s}.png" for s in (3, 7, 8)]
    trained = load(folders / "a")
    for seed in (3, 7, 8):
        expected = to_uint8(sample(trained, 1, seed=seed))[0].movedim(0, 2).numpy()
        assert (np.asarray(Image.open(folders / "each" / f"seed000{seed}.png")) == expected).all()
    z = torch.randn(1, 8, generator=torch.Generator().manual_seed(5))
    w = trained.mapping(z)
    mean = trained.mapping.mean_w
    layers = torch.stack([mean + 0.5 * (w - mean)] * 3 + [w] * (trained.generator.n_layers - 3))
    torch.testing.assert_close(sample(trained, 1, 0.5, 5, cutoff=3), trained.generator(layers, "const"))
    pictures = {}
    for noise in ("fixed", "fresh", "none"):
        main(["sample", "--run", str(folders / "a"), "--noise", noise, "--out", str(folders / f"{noise}.png")])
        pictures[noise] = np.asarray(Image.open(folders / f"{noise}.png"), float)
    assert np.abs(pictures["fixed"] - pictures["fresh"]).mean() > 1
    assert np.abs(pictures["fixed"] - pictures["none"]).mean() > 1


def test_lists_of_seeds():
    assert seeds_of("0-3") == [0, 1, 2, 3]
    assert seeds_of("5, 3,5-6") == [5, 3, 6]
    for bad in ("", "a", "3-1", "-1", "1,,2", "0-1000000", "1.5"):
        with pytest.raises(ValueError, match="seeds is"):
            seeds_of(bad)


@pytest.mark.parametrize("flags", [["--seeds", "1"], ["--to", "x"]])
def test_seeds_and_a_folder_go_together(flags, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        main(["sample", *flags])
    assert "go together" in capsys.readouterr().err
