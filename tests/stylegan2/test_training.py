"""Runs: steps, checkpoints, resume, kill, the command line."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from stylegan2.cli import main, parse
from stylegan2.files import CheckpointError, load_tensors, save_tensors
from stylegan2.images import to_uint8
from stylegan2.training import Settings, presets
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.log import keep_until
from stylegan2.training.players import Players
from stylegan2.training.presets import PRESETS
from stylegan2.training.trainer import Trainer
from stylegan2.weights import load, sample

TINY = {"resolution": 8, "batch_size": 4, "n_features": 4, "max_features": 8, "d_latent": 8, "mapping_layers": 2}
FLAGS = [word for key, value in TINY.items() for word in (f"--{key.replace('_', '-')}", str(value))]


def tensors_of(run):
    return load_tensors(checkpoints(run)[-1])


def test_a_run_learns_the_mean_colour(tmp_path):
    """A set of one flat colour: after a few hundred steps the samples have it."""
    data = tmp_path / "data"
    data.mkdir()
    for i in range(4):
        Image.new("RGB", (8, 8), (230, 30, 60)).save(data / f"{i}.png")
    run = tmp_path / "run"
    Trainer(run, Settings(**TINY, data=str(data), images=2400, r1_gamma=0.1, ema_half_life=100)).train()
    images = (sample(load(run), 16) + 1) / 2
    mean = images.mean(dim=(0, 2, 3)) * 255
    assert (mean - torch.tensor([230.0, 30, 60])).abs().max() < 45


@pytest.mark.parametrize("changes", [
    {}, {"noise": True, "x_flip": True, "accumulate": 2, "batch_size": 8}, {"augment": True, "augment_images": 100},
    {"labels": True}, {"model": "stylegan", "growing": True, "grow_from": 4, "grow_images": 40}, {"model": "progan"}],
    ids=lambda changes: " ".join(changes) or "default")
def test_resume_is_exact(tmp_path, changes):
    """Weights, Adam, averages, augmentation, random states, the place in the data: bit for bit."""
    def settings(images):
        return replace(PRESETS[changes.get("model", "stylegan2")], **{**TINY, **changes, "images": images})

    Trainer(tmp_path / "whole", settings(160), checkpoint_every=80).train()
    Trainer(tmp_path / "halves", settings(80), checkpoint_every=80).train()
    Trainer(tmp_path / "halves", settings(160), resume=True, checkpoint_every=80).train()
    assert_same_state(tmp_path / "whole", tmp_path / "halves")


def assert_same_state(run, other):
    (tensors, state), (tensors2, state2) = tensors_of(run), tensors_of(other)
    assert tensors.keys() == tensors2.keys()
    assert state["steps"] == state2["steps"]
    for name, value in tensors.items():
        assert torch.equal(value, tensors2[name]), name


def test_resume_after_sigkill_is_exact(tmp_path):
    flags = [*FLAGS, "--checkpoint-every", "40", "--log-every", "40"]
    process = subprocess.Popen(command("train", "--run", str(tmp_path / "killed"), *flags, "--images", "1000000"),
                               stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    wait_for(lambda: newest_images(tmp_path / "killed") >= 40, process)
    process.kill()
    process.wait()
    total = newest_images(tmp_path / "killed") + 40
    for run, more in (("killed", ["--resume"]), ("whole", flags)):
        subprocess.run(command("train", "--run", str(tmp_path / run), *more, "--images", str(total)), check=True,
                       stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert_same_state(tmp_path / "killed", tmp_path / "whole")


def test_what_a_run_leaves(tmp_path):
    run = tmp_path / "run"
    Trainer(run, Settings(**TINY, images=400), checkpoint_every=100, sample_every=200, log_every=100).train()
    assert [p.name for p in checkpoints(run)] == [f"checkpoint-{n:010d}.safetensors" for n in (300, 400)]
    assert sorted(p.name for p in (run / "samples").iterdir()) == [f"{n:010d}.png" for n in (0, 200, 400)]
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [h["images"] for h in history] == [100, 200, 300, 400]
    assert {"loss.generator", "loss.discriminator", "penalty.r1", "path_length"} <= history[0].keys()
    assert Settings.load(run / "settings.json") == Settings(**TINY, images=400)
    assert {"commit", "device", "torch"} <= json.loads((run / "run.json").read_text()).keys()
    tracked = [json.loads(line) for f in run.glob("labml/**/log.jsonl") for line in f.read_text().splitlines()]
    assert any("loss.generator" in packet["track"] for packet in tracked)
    assert not list(run.rglob("*.part*"))
    with safe_open(checkpoints(run)[-1], "pt") as file:
        assert set(file.metadata()) == {"state", "sha256", "software"}


def test_the_default_run_does_nothing_on_the_network(tmp_path, monkeypatch):
    import socket

    def refuse(*args, **kwargs):
        raise AssertionError("a run opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    Trainer(tmp_path / "run", Settings(**TINY, images=8)).train()


def test_a_run_is_not_overwritten(tmp_path):
    Trainer(tmp_path, Settings(**TINY, images=8)).train()
    with pytest.raises(FileExistsError, match="--resume"):
        Trainer(tmp_path, Settings(**TINY, images=8))


def test_nothing_to_resume(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        Trainer(tmp_path, Settings(**TINY), resume=True)


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="cannot write to"):
        Trainer(tmp_path / "file", Settings(**TINY))


def test_a_checkpoint_cut_short(tmp_path):
    Trainer(tmp_path, Settings(**TINY, images=16), checkpoint_every=8).train()
    newest = checkpoints(tmp_path)[-1]
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cut short"):
        Trainer(tmp_path, Settings(**TINY), resume=True)
    newest.unlink()
    assert Trainer(tmp_path, Settings(**TINY), resume=True).images_seen == 8  # as the message says


def test_a_checkpoint_of_another_shape(tmp_path):
    Trainer(tmp_path, Settings(**TINY, images=8)).train()
    with pytest.raises(CheckpointError, match=r"is \[8, 8\] in the file and \[8, 16\] here"):
        Trainer(tmp_path, Settings(**{**TINY, "d_latent": 16}), resume=True)
    with pytest.raises(CheckpointError, match="missing in the file"):
        Trainer(tmp_path, Settings(**{**TINY, "resolution": 16}), resume=True)


def test_a_full_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    save_tensors(path, {"a": torch.ones(3)}, {"n": 1})

    def full(tensors, target, metadata):
        Path(target).write_bytes(b"half a file")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stylegan2.files.save_file", full)
    with pytest.raises(OSError, match="No space left"):
        save_tensors(path, {"a": torch.zeros(3)}, {"n": 2})
    tensors, state = load_tensors(path)
    assert tensors["a"].tolist() == [1, 1, 1]
    assert state == {"n": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_a_loss_that_is_not_finite_stops_the_run(tmp_path, monkeypatch):
    trainer = Trainer(tmp_path, Settings(**TINY, images=400), checkpoint_every=40, log_every=400)
    game = trainer.step.phases.game
    monkeypatch.setattr(trainer.step.phases, "game", game._replace(
        of_generator=lambda scores: game.of_generator(scores) * (float("nan") if trainer.steps_done > 20 else 1)))
    with pytest.raises(FloatingPointError, match=r"loss\.generator.* not finite at step 30.*checkpoint-0000000080"):
        trainer.train()
    assert trainer.images_seen == 120
    assert len(checkpoints(tmp_path)) == 2


def test_history_is_cut_back_to_the_checkpoint(tmp_path):
    history = tmp_path / "history.jsonl"
    history.write_text('{"images": 10}\n{"images": 20}\n{"images": 30}\n{"ima')
    keep_until(history, 20)
    assert history.read_text() == '{"images": 10}\n{"images": 20}\n'


@pytest.mark.parametrize(("change", "message"), [
    ({"resolution": 48}, "power of two"), ({"batch_size": 6}, "multiple of 4"), ({"batch_size": 0}, "batch_size is 0"),
    ({"learning_rate": -1.0}, "learning_rate is -1.0"), ({"images": 0}, "images is 0"),
    ({"subset": -1}, "subset is -1")])
def test_settings_out_of_range(change, message):
    with pytest.raises(ValueError, match=message):
        Settings(**change)


def test_a_subset_is_all_that_is_seen(tmp_path, monkeypatch):
    """Each of its images as often as the others; drawn from the whole of a sorted set, not its beginning; the same ones
    for another seed; and no more of them than there are.
    """
    np.save(tmp_path / "many.npy", np.arange(64, dtype=np.uint8).repeat(8 * 8 * 3).reshape(64, 8, 8, 3))
    settings = Settings(**TINY, data=str(tmp_path / "many.npy"), subset=8, images=16)
    seen = [torch.cat([(real[:, 0, 0, 0] + 1) * 127.5 for real, _ in Trainer(
        tmp_path / f"run-{seed}", replace(settings, seed=seed)).batches()]).round().int() for seed in (0, 1)]
    images, counts = seen[0].unique(return_counts=True)
    assert counts.tolist() == [2] * 8
    assert images.max() - images.min() > 32
    assert seen[1].unique().tolist() == images.tolist()
    assert seen[1].tolist() != seen[0].tolist()
    with pytest.raises(ValueError, match=r"subset is 65, but .* has 64 images"):
        Trainer(tmp_path / "other", replace(settings, subset=65))
    assert not (tmp_path / "other").exists()


def test_without_minibatch_std_scores_do_not_depend_on_the_batch():
    torch.manual_seed(0)
    images = torch.rand(4, 3, 8, 8)
    for minibatch_std, alike in ((True, False), (False, True)):
        d = Players(Settings(**TINY, minibatch_std=minibatch_std)).discriminator
        torch.nn.init.ones_(d.conv[0].weight.weight)  # so that the last channel counts
        alone, together = d(torch.stack([images[0]] * 4))[0], d(images)[0]
        assert torch.allclose(alone, together, atol=1e-6) == alike


def test_settings_that_are_none(tmp_path):
    path = tmp_path / "settings.json"
    path.write_text('{"background": [0, 0, 0], "colour": 1}')
    with pytest.raises(ValueError, match="colour"):
        Settings.load(path)


def command(*arguments):
    return [sys.executable, "-m", "stylegan2", *arguments]


def test_command_line(tmp_path, capsys):
    run = str(tmp_path / "run")
    main(["train", "--run", run, *FLAGS, "--images", "40"])
    assert "done: 40 images" in capsys.readouterr().out
    main(["train", "--run", run, "--resume", "--images", "80"])  # the rest of the settings is the run's own
    assert "done: 80 images" in capsys.readouterr().out
    main(["sample", "--run", run, "--out", str(tmp_path / "grid.png"), "--rows", "2", "--columns", "3"])
    assert Image.open(tmp_path / "grid.png").size == (24, 16)
    main(["record", "--run", run, "--to", str(tmp_path / "record")])
    record = json.loads((tmp_path / "record" / "run.json").read_text())
    assert [again["images"] for again in record["resumed"]] == [40]
    assert record["images"] == 80
    assert record["command"] == f"python -m stylegan2 train {flags_in_order()}"
    torch.testing.assert_close(sample(load(tmp_path / "record"), 4), sample(load(run), 4))


def flags_in_order():
    order = ("resolution", "images", "batch_size", "n_features", "max_features", "d_latent", "mapping_layers")
    return " ".join(f"--{name.replace('_', '-')} {({**TINY, 'images': 80})[name]}" for name in order)


def test_the_command_of_settings_gives_the_settings():
    settings = Settings(x_flip=True, noise=True, background=(1, 2, 3), data="a.zip", learning_rate=0.001, seed=3)
    arguments = presets.command(settings).split()[3:]
    assert parse(arguments).settings == settings
    assert presets.command(Settings()) == "python -m stylegan2 train"
    for model, preset in PRESETS.items():
        changed = replace(preset, r1_gamma=0.7)
        assert parse(presets.command(changed).split()[3:]).settings == changed
        assert ("--model" in presets.command(preset)) == (model != "stylegan2")


def test_a_pipe_gets_plain_lines(tmp_path):
    done = subprocess.run(command("train", "--run", str(tmp_path / "run"), *FLAGS, "--images", "40", "--log-every",
                                  "20"), capture_output=True, text=True, check=True)
    assert "\x1b" not in done.stdout
    assert "\r" not in done.stdout
    assert "20 of 40 images" in done.stdout
    assert "s left  loss.discriminator" in done.stdout


def test_a_run_with_labels(tmp_path):
    """Loaded again, it draws what is asked for; and its classes in turn when nothing is."""
    Trainer(tmp_path, Settings(**TINY, images=40, labels=True)).train()
    trained = load(tmp_path)
    assert trained.mapping.n_classes == 5  # ToyFaces: its styles of hair
    z = torch.randn(1, 8).expand(2, 8)
    images = trained(z, labels=torch.tensor([0, 3]))
    assert not torch.allclose(images[0], images[1])
    torch.testing.assert_close(sample(trained, 6), sample(trained, 6, labels=torch.arange(6) % 5))
    with pytest.raises(ValueError, match="labels are missing"):
        trained(z)
    grid = tmp_path / "grid.png"
    main(["sample", "--run", str(tmp_path), "--label", "3", "--rows", "1", "--columns", "2", "--out", str(grid)])
    expected = to_uint8(sample(trained, 2, labels=torch.tensor([3, 3])))
    assert torch.equal(torch.from_numpy(np.array(Image.open(grid))[:, :8]).permute(2, 0, 1), expected[0])


def test_labels_need_a_set_that_has_some(tmp_path):
    (tmp_path / "data").mkdir()
    Image.new("RGB", (8, 8), "white").save(tmp_path / "data" / "0.png")
    with pytest.raises(ValueError, match="not in two classes or more: put each class into a folder"):
        Trainer(tmp_path / "run", Settings(**TINY, data=str(tmp_path / "data"), labels=True))


@pytest.mark.parametrize("arguments", [
    ["train", "--resolution", "33"], ["train", "--data", "/nowhere/at/all"], ["sample", "--run", "/nowhere"],
    ["train", "--resume"], ["train", "--device", "cuda:99"], ["train", "--device", "abacus"]])
def test_what_the_user_can_mend_is_one_line(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(("error: ", "╭"))
    assert "Traceback" not in error
    assert not list(tmp_path.iterdir()), "a mistake leaves no folder behind"


def test_resume_with_another_network_names_the_setting(tmp_path, capsys):
    Trainer(tmp_path / "run", Settings(**TINY, images=8)).train()
    with pytest.raises(SystemExit):
        main(["train", "--run", str(tmp_path / "run"), "--resume", "--resolution", "16"])
    assert "resolution is 8 in the run" in capsys.readouterr().err
    main(["train", "--run", str(tmp_path / "run"), "--resume"])
    assert "nothing to do: the run has seen 8 images" in capsys.readouterr().out


def test_ctrl_c_saves_and_exits_cleanly(tmp_path):
    run = tmp_path / "run"
    process = subprocess.Popen(command("train", "--run", str(run), *FLAGS, "--images", "1000000", "--log-every", "40"),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    wait_for(lambda: (run / "history.jsonl").exists(), process)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert "Traceback" not in output
    assert "go on with: python -m stylegan2 train --resume" in output
    state = tensors_of(run)[1]
    assert f"stopped after {state['steps'] * 4} images" in output


def wait_for(condition, process, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < end, "the run did not get going"
        time.sleep(0.02)


@pytest.mark.timeout(300)
def test_kill_loses_no_more_than_an_interval(tmp_path):
    """SIGKILL at ten random moments; each time the run resumes from a readable checkpoint, never further back than one
    interval before what the history had reached."""
    run, every, rng = tmp_path / "run", 40, random.Random(0)
    flags = ["--images", "1000000", "--checkpoint-every", str(every), "--log-every", "8", "--sample-every", "80"]
    reached = 0
    for attempt in range(10):
        resume = ["--resume"] if attempt else FLAGS
        process = subprocess.Popen(command("train", "--run", str(run), *resume, *flags), stdout=subprocess.DEVNULL,
                                   stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
        wait_for(lambda: newest_images(run) > reached, process)  # noqa: B023
        time.sleep(rng.random() * 0.5)
        process.kill()
        process.communicate()
        logged = last_logged(run)
        for path in checkpoints(run):
            load_tensors(path)  # every file is readable
        reached = newest_images(run)
        assert reached >= logged - every
        Settings.load(run / "settings.json")
    trainer = Trainer(run, Settings(**TINY, images=reached + 8), resume=True)
    assert trainer.images_seen == reached
    assert trainer.train()
    assert not list(run.rglob("*.part*"))


def newest_images(run):
    saved = checkpoints(run)
    return int(saved[-1].stem.split("-")[1]) if saved else 0


def last_logged(run):
    for line in reversed((run / "history.jsonl").read_text().splitlines()):
        try:
            return json.loads(line)["images"]
        except json.JSONDecodeError:
            continue
    return 0
