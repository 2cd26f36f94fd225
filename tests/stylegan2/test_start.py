"""Training that starts from a trained network, and the settings that a set brings with it."""

import hashlib
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image

from stylegan2.cli import parse
from stylegan2.ema import decay_of
from stylegan2.files import load_tensors, save_tensors, with_prefix
from stylegan2.training import Settings, presets
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.presets import images_per_process, preset
from stylegan2.training.trainer import Trainer
from stylegan2.weights import load, sample

TINY = {"resolution": 16, "batch_size": 4, "n_features": 4, "max_features": 8,
        "d_latent": 8, "mapping_layers": 2}


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of a few steps, with noise and labels off."""
    run = tmp_path_factory.mktemp("start") / "trained"
    Trainer(run, Settings(**TINY, images=24, noise=True)).train()
    return run


@pytest.fixture(scope="module")
def record(trained):
    """The same generator without its discriminator."""
    folder = trained.parent / "record"
    folder.mkdir()
    tensors, state = load_tensors(checkpoints(trained)[-1])
    average = {name: value for name, value in tensors.items() if name.startswith("average.")}
    save_tensors(folder / "generator.safetensors", average, state)
    shutil.copy(trained / "settings.json", folder)
    return folder


def going_on(start: Path, **changes) -> Settings:
    return Settings(**{**TINY, "noise": True, "start": str(start), "images": 16, **changes})


def tensors_of(run: Path) -> dict[str, torch.Tensor]:
    return load_tensors(checkpoints(run)[-1])[0]


def test_all_networks_are_taken_over_and_the_rest_starts_anew(trained, tmp_path):
    trainer = Trainer(tmp_path / "run", going_on(trained))
    old, new = tensors_of(trained), trainer.players.state_dict()
    assert new.keys() == {name for name in old if "adam" not in name and "random" not in name}
    assert all(torch.equal(new[name], old[name]) for name in new)
    assert not trainer.step.update_generator.adam.state
    assert trainer.images_seen == 0
    assert not trainer.discriminator_is_new


def test_a_record_gives_its_average_to_both_and_has_no_discriminator(record, tmp_path):
    trainer = Trainer(tmp_path / "run", going_on(record))
    average = with_prefix("average", load_tensors(record / "generator.safetensors")[0])
    for module in (trainer.players.average, trainer.players.trained):
        assert all(torch.equal(value, average[name]) for name, value in
                   module.state_dict().items())
    assert trainer.discriminator_is_new
    fresh = Trainer(tmp_path / "fresh", Settings(**TINY, noise=True)).players.discriminator
    same = zip(fresh.state_dict().values(),
               trainer.players.discriminator.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)


def test_the_average_does_not_forget_what_was_started_from(trained, tmp_path):
    """After one step it has moved by 1 − 2^(−batch/half-life) of the way to the generator; without
    a start it is the generator itself."""
    settings = going_on(trained, images=4, ema_half_life=400)
    Trainer(tmp_path / "run", settings).train()
    old, new = tensors_of(trained), tensors_of(tmp_path / "run")
    name = "generator.initial_constant"
    moved = new[f"average.{name}"] - old[f"average.{name}"]
    way = new[f"trained.{name}"] - old[f"average.{name}"]
    torch.testing.assert_close(moved, (1 - 2 ** (-4 / 400)) * way, rtol=1e-4, atol=1e-7)
    assert decay_of(4, 0, 400) == 0


@pytest.mark.parametrize("discriminator", ["residual", "skip"])
@pytest.mark.parametrize("freeze", [0, 1, 2])
def test_frozen_resolutions_stay_and_all_others_learn(tmp_path, discriminator, freeze):
    """At 16²: resolution 16 is the first block and what reads the image at 16², and so on."""
    base = Settings(**TINY, noise=True, discriminator=discriminator, images=8)
    Trainer(tmp_path / "trained", base).train()
    settings = replace(base, start=str(tmp_path / "trained"), freeze_d=freeze, r1_interval=2)
    Trainer(tmp_path / "run", settings).train()
    Trainer(tmp_path / "run", replace(settings, images=16), resume=True).train()
    old, new = (with_prefix("discriminator", tensors_of(tmp_path / name))
                for name in ("trained", "run"))
    kept = [f"blocks.{i}." for i in range(freeze)]
    kept += [f"from_rgb.{i}." if discriminator == "skip" else "from_rgb."
             for i in range(freeze if discriminator == "skip" else min(freeze, 1))]
    for name, value in new.items():
        frozen = name.startswith(tuple(kept)) if kept else False
        assert torch.equal(value, old[name]) == frozen, name


def test_resume_is_exact(trained, tmp_path):
    settings = going_on(trained, freeze_d=1, augment=True, augment_images=100)
    Trainer(tmp_path / "whole", settings, checkpoint_every=8).train()
    Trainer(tmp_path / "halves", replace(settings, images=8)).train()
    shutil.rmtree(trained.parent / "away", ignore_errors=True)
    trained.rename(trained.parent / "away")  # what was started from is no longer needed
    try:
        Trainer(tmp_path / "halves", settings, resume=True).train()
    finally:
        (trained.parent / "away").rename(trained)
    whole, halves = tensors_of(tmp_path / "whole"), tensors_of(tmp_path / "halves")
    assert whole.keys() == halves.keys()
    assert all(torch.equal(value, halves[name]) for name, value in whole.items())


def test_the_folder_says_what_it_came_from_by_checksum(trained, tmp_path):
    Trainer(tmp_path / "run", going_on(trained)).train()
    digest = hashlib.sha256(checkpoints(trained)[-1].read_bytes()).hexdigest()
    wanted = f"{trained.absolute()}#sha256={digest}"
    assert json.loads((tmp_path / "run/settings.json").read_text())["start"] == wanted
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["start"] == wanted
    Trainer(tmp_path / "again", going_on(Path(wanted)))
    with pytest.raises(ValueError, match=f"has the checksum {digest}, not 1234"):
        Trainer(tmp_path / "other", going_on(Path(f"{trained}#sha256=1234")))


def test_the_command_line_takes_sizes_from_the_source(trained, tmp_path):
    command = parse(["train", "--from", str(trained), "--images", "1000"])
    s = command.settings
    assert {name: getattr(s, name) for name in TINY if name != "batch_size"} == {
        name: value for name, value in TINY.items() if name != "batch_size"}
    assert (s.noise, s.augment, s.augment_images, s.learning_rate) == (True, True, 200, 0.0025)
    assert parse(presets.command(s).split()[3:]).settings == s


@pytest.mark.parametrize(("flags", "message"), [
    (["--resolution", "32"], "resolution is 16 in .*, not 32: sizes are those of the network"),
    (["--d-latent", "64"], "d_latent is 8 in .*, not 64"),
    (["--freeze-d", "3"], "at 16² a discriminator has 2 resolutions above its last"),
    (["--from", "nowhere"], "nowhere"),
])
def test_what_contradicts_the_source_is_refused(trained, flags, message):
    with pytest.raises((ValueError, OSError), match=message):
        parse(["train", "--from", str(trained), *flags])


def test_nothing_can_be_frozen_that_was_never_trained(record, tmp_path):
    with pytest.raises(ValueError, match="without --from"):
        Settings(freeze_d=1)
    with pytest.raises(ValueError, match="has no discriminator, of which"):
        Trainer(tmp_path / "run", going_on(record, freeze_d=1))
    assert not (tmp_path / "run").exists()


def test_other_classes_are_refused(trained, tmp_path):
    with pytest.raises(ValueError, match="was trained with no classes, and the set has 5"):
        Trainer(tmp_path / "run", going_on(trained, labels=True))
    assert not (tmp_path / "run").exists()


def test_a_network_that_grew_goes_on_at_its_full_resolution(tmp_path):
    grown = replace(presets.PRESETS["stylegan"], **TINY, images=40, grow_from=8, grow_images=4)
    Trainer(tmp_path / "grown", grown).train()
    command = parse(["train", "--from", str(tmp_path / "grown"), "--images", "8",
                     "--batch-size", "4", "--run", str(tmp_path / "run")])
    assert (command.settings.model, command.settings.growing) == ("stylegan", False)
    command.execute()
    assert sample(load(tmp_path / "run"), 1).shape == (1, 3, 16, 16)


@pytest.mark.parametrize(("resolution", "processes", "batch", "rate", "gamma", "channels"), [
    # written down by hand from the published trainer's options
    (32, 1, 32, 0.0025, 0.0064, 512), (256, 1, 16, 0.0025, 0.8192, 64),
    (256, 8, 64, 0.0025, 0.2048, 64), (512, 8, 64, 0.0025, 0.8192, 64),
    (1024, 1, 4, 0.002, 52.4288, 32), (1024, 8, 32, 0.002, 6.5536, 32)])
def test_other_sets_have_the_published_recipe(resolution, processes, batch, rate, gamma, channels):
    s = preset("stylegan2", "photos.zip", resolution, processes)
    assert (s.batch_size, s.learning_rate, s.n_features) == (batch, rate, channels)
    assert math.isclose(s.r1_gamma, gamma)
    assert s.ema_half_life == batch * 10_000 / 32
    assert (s.max_features, s.d_latent, s.mapping_layers, s.noise, s.augment) == (
        512, 512, 2, True, True)


def test_what_depends_on_batch_and_images_follows_them():
    flags = ["train", "--data", "photos.zip", "--resolution", "256", "--batch-size", "8",
             "--images", "200_000"]
    s = parse(flags).settings
    assert math.isclose(s.r1_gamma, 0.0002 * 256**2 / 8)
    assert (s.ema_half_life, s.augment_images) == (2500, 40_000)
    assert parse([*flags, "--r1-gamma", "3"]).settings == replace(s, r1_gamma=3.0)
    assert parse(presets.command(s).split()[3:]).settings == s


def test_every_batch_divides_into_whole_groups():
    for processes in range(1, 17):
        for resolution in (2**k for k in range(2, 13)):
            s = preset("stylegan2", "photos.zip", resolution, processes)
            s.check_parts(processes)
            assert images_per_process(resolution, processes) * processes == s.batch_size <= 64


def test_toyfaces_keeps_its_short_run():
    assert parse(["train"]).settings == Settings()
    assert parse(["train", "--model", "progan"]).settings == presets.PRESETS["progan"]
    assert parse(["train", "--resolution", "64"]).settings == Settings(resolution=64)


def test_what_was_chosen_is_said_in_one_line(tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    for i in range(8):
        Image.new("RGB", (8, 8), (20 * i, 30, 60)).save(data / f"{i}.png")
    flags = [word for name, value in {**TINY, "resolution": 8}.items()
             for word in (f"--{name.replace('_', '-')}", str(value))]
    parse(["train", "--data", str(data), "--run", str(tmp_path / "run"), *flags,
           "--images", "4"]).execute()
    said = capsys.readouterr().out.splitlines()[0]
    assert "batch 4, rate 0.0025, γ 0.0032, augmentation up to full in 1 images" in said
