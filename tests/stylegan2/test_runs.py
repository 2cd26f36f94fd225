"""What a run does to a folder, and what may happen to it: two at once, a set that is not the same, signals, pipes."""

import contextlib
import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest
import torch
from PIL import Image

from stylegan2.cli import main
from stylegan2.commands.sample import Record
from stylegan2.files import load_tensors, save_tensors
from stylegan2.training import Settings
from stylegan2.training.checkpoint import checkpoints
from stylegan2.training.folder import last_stretch, only_one, stretches
from stylegan2.training.meters import STOPPING, StopSignal
from stylegan2.training.trainer import Trainer
from stylegan2.weights import load

TINY = {"resolution": 8, "batch_size": 4, "n_features": 4, "max_features": 8, "d_latent": 8, "mapping_layers": 2}
FLAGS = [word for key, value in TINY.items() for word in (f"--{key.replace('_', '-')}", str(value))]


@pytest.mark.parametrize("number", ["ENOSYS", "ENOTSUP", "EIO"])
def test_a_drive_without_locks_is_trained_on_again_after_its_machine_was_lost(number, tmp_path, monkeypatch, caplog):
    """A mounted drive of another machine: what a killed run leaves there must not look like a run in progress."""
    def refuse(*_):
        raise OSError(getattr(errno, number), "no locks here")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with contextlib.suppress(KeyboardInterrupt), only_one(tmp_path):
        left = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        raise KeyboardInterrupt
    for name, content in left.items():
        (tmp_path / name).write_bytes(content)
    with only_one(tmp_path):
        pass
    assert "cannot be locked" in caplog.text


def tiny(**changes):
    return Settings(**{**TINY, "images": 16, **changes})


def state_of(folder):
    """All files but those that labml writes when it likes."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "labml" not in path.parts}


def start(*arguments, **environment):
    return subprocess.Popen([sys.executable, "-m", "stylegan2", "train", *map(str, arguments)], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def pictures(folder, count=8, first=0):
    folder.mkdir(exist_ok=True)
    for i in range(first, first + count):
        Image.new("RGB", (8, 8), (200, 30 * i % 256, 60)).save(folder / f"{i}.png")
    return folder


# Whose folder it is

@pytest.fixture
def a_record(tmp_path):
    Trainer(tmp_path / "run", tiny()).train()
    Record(tmp_path / "run", tmp_path / "record").execute()
    return tmp_path / "record"


@pytest.mark.parametrize("resume", [True, False])
def test_a_record_is_not_trained_into(a_record, resume, capsys):
    before = state_of(a_record)
    with pytest.raises(FileExistsError, match=r"holds a record or a converted network.*--run"):
        Trainer(a_record, tiny(), resume=resume)
    with pytest.raises(SystemExit):
        main(["train", "--run", str(a_record), *(["--resume"] if resume else FLAGS)])
    error = capsys.readouterr().err
    assert "record" in error
    assert "leave out --resume" not in error
    assert state_of(a_record) == before


@pytest.mark.parametrize("what", ["run", "record"])
def test_record_overwrites_nothing(a_record, what, tmp_path, capsys):
    before = state_of(tmp_path)
    with pytest.raises(SystemExit):
        main(["record", "--run", str(tmp_path / "run"), "--to", str(tmp_path / what)])
    assert "nothing is overwritten" in capsys.readouterr().err
    assert state_of(tmp_path) == before


@pytest.mark.parametrize("name", ["settings.json", "run.json", "history.jsonl"])
def test_files_of_somebody_else_are_not_written_over(name, tmp_path):
    """Nor is the history of a run that was killed before its first checkpoint; its settings alone are."""
    (tmp_path / name).write_text('{"editor.fontSize": 14}')
    before = state_of(tmp_path)
    with pytest.raises(FileExistsError, match="a run wants a folder of its own"):
        Trainer(tmp_path, tiny())
    assert state_of(tmp_path) == before
    (tmp_path / name).unlink()
    tiny().save(tmp_path / "settings.json")
    (tmp_path / "history.jsonl").write_text('{"images": 4}\n')
    with pytest.raises(FileExistsError, match=r"not empty \(history\.jsonl\)"):
        Trainer(tmp_path, tiny())
    (tmp_path / "history.jsonl").unlink()
    assert Trainer(tmp_path, tiny()).train()


def test_a_run_is_alone_in_its_folder(tmp_path):
    """Not in a project's folder, which is what an empty word after --run would be."""
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(FileExistsError, match=r"not empty \(thesis\.tex\).*folder of its own"):
        Trainer(tmp_path, tiny())
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_another_batch_size_must_divide_what_was_seen(tmp_path):
    """Else the count, the history and every schedule would slip."""
    Trainer(tmp_path, tiny(images=16)).train()
    before = state_of(tmp_path)
    for batch_size in (12, 512):
        with pytest.raises(ValueError, match=r"has seen 16 images, which batches of .* Batches of 4, 8, 16 would"):
            Trainer(tmp_path, tiny(images=600, batch_size=batch_size), resume=True)
    assert state_of(tmp_path) == before
    assert Trainer(tmp_path, tiny(images=32, batch_size=8), resume=True).train()
    assert [stretch["images"] for stretch in stretches(tmp_path)] == [0, 16]


def test_classes_keep_their_numbers(tmp_path):
    for data, names in (("old", "ab"), ("new", "aA")):
        for name in names:
            (tmp_path / data).mkdir(exist_ok=True)
            pictures(tmp_path / data / name, first=ord(name))
    Trainer(tmp_path / "run", tiny(data=str(tmp_path / "old"), labels=True)).train()
    with pytest.raises(ValueError, match=r"the classes of .*new are A, a; the run .* was trained with a, b"):
        Trainer(tmp_path / "run", tiny(data=str(tmp_path / "new"), labels=True, images=32), resume=True)


def test_a_checkpoint_of_another_run_is_noticed(tmp_path):
    for name, images in (("one", 16), ("other", 24)):
        Trainer(tmp_path / name, tiny(images=images)).train()
    shutil.copy(checkpoints(tmp_path / "one")[0], tmp_path / "other" / "checkpoint-0000000099.safetensors")
    with pytest.raises(ValueError, match="was written after 16 images, which its name denies"):
        Trainer(tmp_path / "other", tiny(images=200), resume=True)
    save_tensors(tmp_path / "one" / "checkpoint-0000000099.safetensors", {"w": torch.ones(2)}, {}, "latents")
    with pytest.raises(ValueError, match="is no checkpoint of a run"):
        Trainer(tmp_path / "one", tiny(images=200), resume=True)


def test_a_damaged_history_is_named_and_kept(tmp_path):
    Trainer(tmp_path, tiny(), log_every=4).train()
    history = tmp_path / "history.jsonl"
    for line in ("[1]", '{"images": "x"}', '{"image', "\udcff"):
        before = history.read_bytes()
        history.write_bytes(line.encode(errors="surrogateescape") + b"\n" + before)
        with pytest.raises(ValueError, match=r"history\.jsonl is damaged: line 1"):
            Trainer(tmp_path, tiny(images=32), resume=True).train()
        assert history.read_bytes().endswith(before)
        history.write_bytes(before)


def test_a_missing_run_json_is_not_made_up(tmp_path):
    Trainer(tmp_path, tiny()).train()
    (tmp_path / "run.json").unlink()
    Trainer(tmp_path, tiny(images=32), resume=True).train()
    made = json.loads((tmp_path / "run.json").read_text())
    assert set(made) == {"resumed"}
    assert [stretch["images"] for stretch in made["resumed"]] == [16]


def test_nobody_else_writes_into_a_folder(tmp_path):
    """From the first step on, long before there is a checkpoint."""
    trainer = Trainer(tmp_path, tiny())
    with only_one(tmp_path), pytest.raises(FileExistsError, match="another training is writing into"):
        trainer.train()
    assert not (tmp_path / "settings.json").exists()
    assert trainer.train()


def test_two_that_were_opened_at_once(tmp_path):
    first, second = Trainer(tmp_path, tiny()), Trainer(tmp_path, tiny(seed=1))
    assert first.train()
    before = state_of(tmp_path)
    with pytest.raises(FileExistsError, match="has been trained into since"):
        second.train()
    assert state_of(tmp_path) == before
    later = [Trainer(tmp_path, tiny(images=32), resume=True) for _ in range(2)]
    assert later[0].train()
    with pytest.raises(FileExistsError, match="has been trained into since"):
        later[1].train()


@pytest.mark.timeout(300)
def test_of_two_starts_at_the_same_moment_one_trains(tmp_path):
    """Also on a machine where nobody has trained before: they do not meet in labml's files."""
    home = tmp_path / "home"
    home.mkdir()
    both = [start("--run", tmp_path / "run", *FLAGS, "--images", 4000, "--log-every", 40, HOME=str(home))
            for _ in range(2)]
    while all(process.poll() is None for process in both):
        time.sleep(0.1)
    loser = next(process for process in both if process.poll() is not None)
    assert loser.returncode == 2
    assert "another training is writing" in loser.communicate()[1]
    winner = both[1 - both.index(loser)]
    winner.kill()  # and the lock goes with it
    winner.communicate()
    history = [json.loads(line)["images"] for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()]
    assert history == sorted(set(history))
    (tmp_path / "run" / "history.jsonl").unlink()  # without a checkpoint it is the user's to delete
    again = start("--run", tmp_path / "run", *FLAGS, "--images", 8)
    output, error = again.communicate(timeout=120)
    assert (again.returncode, "done: 8 images" in output) == (0, True), error
    assert not list(home.iterdir())


# Where the set is, and whether it is the same

def test_a_set_is_found_again_from_another_folder(tmp_path, monkeypatch, capsys):
    for name, colour in (("d1", "white"), ("d2", "red")):
        (tmp_path / name).mkdir()
        pictures(tmp_path / name / "photos")
        Image.new("RGB", (8, 8), colour).save(tmp_path / name / "photos" / "0.png")
    monkeypatch.chdir(tmp_path / "d1")
    main(["train", "--data", "photos", *FLAGS, "--images", "8"])
    monkeypatch.chdir(tmp_path / "d2")
    main(["train", "--resume", "--run", "../d1/runs/photos-8", "--images", "16"])
    run = tmp_path / "d1" / "runs" / "photos-8"
    assert {stretch["set"]["path"] for stretch in stretches(run)} == {str(tmp_path / "d1" / "photos")}
    assert Settings.load(run / "settings.json").data == str(tmp_path / "d1" / "photos")
    main(["record", "--run", str(run), "--to", "record"])
    assert str(tmp_path) not in (tmp_path / "d2" / "record" / "run.json").read_text()
    assert Settings.load(tmp_path / "d2" / "record" / "settings.json").data == "photos"
    capsys.readouterr()
    with pytest.raises(SystemExit):  # there is another set of that name here
        main(["measure", "--run", "record", "--metrics", "frechet"])
    assert "is not the set that the run" in capsys.readouterr().err


def test_a_set_that_has_changed(tmp_path):
    photos, moved = pictures(tmp_path / "photos"), tmp_path / "moved"
    Trainer(tmp_path / "run", tiny(data=str(photos))).train()
    photos.rename(moved)
    assert Trainer(tmp_path / "run", tiny(data=str(moved), images=32), resume=True).train(), "the same, moved"
    pictures(moved, first=8)
    with pytest.raises(ValueError, match=r"not the set that the run .* trained on, which had 8 images .*--data"):
        Trainer(tmp_path / "run", tiny(data=str(moved), images=48), resume=True)
    moved.rename(photos)  # another path: the set that is meant
    assert Trainer(tmp_path / "run", tiny(data=str(photos), images=48), resume=True).train()
    assert [stretch["set"]["images"] for stretch in stretches(tmp_path / "run")] == [8, 8, 16]


@pytest.mark.parametrize("run", ["run", "runs/deep/run", "."])
def test_a_run_does_not_lie_in_its_set(tmp_path, run):
    pictures(tmp_path)
    before = state_of(tmp_path)
    with pytest.raises(ValueError, match="its own samples would become part"):
        Trainer(tmp_path / run, tiny(data=str(tmp_path)))
    assert state_of(tmp_path) == before


def test_a_link_into_the_set_is_seen(tmp_path):
    pictures(tmp_path / "set")
    (tmp_path / "elsewhere").symlink_to(tmp_path / "set")
    with pytest.raises(ValueError, match="its own samples"):
        Trainer(tmp_path / "elsewhere" / "run", tiny(data=str(tmp_path / "set")))


# What run.json and a record say

def test_every_stretch_says_what_it_ran_with(tmp_path, capsys):
    run = tmp_path / "run"
    main(["train", "--run", str(run), *FLAGS, "--images", "8", "--log-every", "4"])
    main(["train", "--run", str(run), "--resume"])  # nothing to do, and nothing noted
    assert len(stretches(run)) == 1
    main(["train", "--run", str(run), "--resume", "--images", "16"])
    main(["record", "--run", str(run), "--to", str(tmp_path / "one")])
    one = json.loads((tmp_path / "one" / "run.json").read_text())
    assert "--images 16" in one["command"], "more images by the same settings: one command makes it"
    main(["train", "--run", str(run), "--resume", "--images", "24", "--learning-rate", "0.001"])
    assert "going on from checkpoint-0000000016.safetensors, 16 images" in capsys.readouterr().out
    rates = [(stretch["images"], stretch["settings"]["learning_rate"]) for stretch in stretches(run)]
    assert rates == [(0, 0.015), (8, 0.015), (16, 0.001)]
    main(["record", "--run", str(run), "--to", str(tmp_path / "two")])
    two = json.loads((tmp_path / "two" / "run.json").read_text())
    assert "learning-rate" not in two["command"]
    assert ["--learning-rate 0.001" in later["command"] for later in two["resumed"]] == [False, True]


def test_a_resume_remembers_its_options(tmp_path, capsys):
    run = tmp_path / "a run"
    main(["train", "--run", str(run), *FLAGS, "--images", "8", "--checkpoint-every", "4", "--sample-every", "8",
          "--log-every", "4", "--device", "cpu", "--workers", "1"])
    main(["train", "--run", str(run), "--resume", "--images", "16", "--sample-every", "4"])
    first, second = (stretch["options"] for stretch in stretches(run))
    assert first == {"checkpoint_every": 4, "sample_every": 8, "log_every": 4, "workers": 1, "device": "cpu"}
    assert second == {**first, "sample_every": 4}
    assert f"--run '{run}'" in capsys.readouterr().out  # as a shell reads it


def test_a_damaged_run_json_is_named(tmp_path, capsys):
    run = tmp_path / "run"
    Trainer(run, tiny()).train()
    for content in ("{", "[]", '{"resumed": 5}'):
        (run / "run.json").write_text(content)
        with pytest.raises(SystemExit):
            main(["train", "--run", str(run), "--resume", "--images", "32"])
        assert "run.json is damaged" in capsys.readouterr().err


def test_a_run_of_an_earlier_version_goes_on(tmp_path):
    """Its run.json knows neither settings nor the set, its checkpoint no checksum, its settings no white."""
    run = tmp_path / "run"
    Trainer(run, tiny()).train()
    (run / "run.json").write_text('{"commit": "abc", "device": "a CPU"}')
    values = json.loads((run / "settings.json").read_text())
    del values["white"]
    (run / "settings.json").write_text(json.dumps(values))
    assert Trainer(run, tiny(images=32), resume=True).train()
    Record(run, tmp_path / "record").execute()
    made = json.loads((tmp_path / "record" / "run.json").read_text())
    assert made["commit"] == "abc"
    assert last_stretch(run)["images"] == 16


# What ends a run

@pytest.mark.parametrize("name", [name for name in STOPPING if hasattr(signal, name)])
def test_a_signal_that_would_end_the_process_saves(tmp_path, name, monkeypatch):
    trainer = Trainer(tmp_path, tiny(images=400))
    generator_loss = trainer.step.phases.generator_loss

    def interrupted(latents):
        if trainer.steps_done == 2:
            os.kill(os.getpid(), getattr(signal, name))
        return generator_loss(latents)

    monkeypatch.setattr(trainer.step.phases, "generator_loss", interrupted)
    number = getattr(signal, name)
    before = signal.signal(number, signal.SIG_DFL)  # also where the tests themselves run under nohup
    try:
        assert not trainer.train()
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert trainer.images_seen == 12
    assert load_tensors(checkpoints(tmp_path)[-1])[1]["steps"] == 3


def test_every_signal_that_ends_a_process_is_heard():
    """But for the one that cannot be; and those of a program that is broken (a segment violated, an instruction that is
    none), or that a program asks for itself (a clock, a finished read) or that Python already turns into an error.
    """
    own = {"SIGKILL", "SIGSTOP", "SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGIOT", "SIGTRAP", "SIGSYS",
           "SIGSTKFLT", "SIGALRM", "SIGVTALRM", "SIGPROF", "SIGIO", "SIGPOLL", "SIGPIPE", "SIGXFSZ", "SIGPWR",
           "SIGRTMIN", "SIGRTMAX", "SIGEMT", "SIGINFO", "SIGLOST"}
    harmless = {"SIGCHLD", "SIGCLD", "SIGCONT", "SIGURG", "SIGWINCH", "SIGTSTP", "SIGTTIN", "SIGTTOU"}
    everything = {s.name for s in signal.valid_signals() if isinstance(s, signal.Signals)}
    assert everything - own - harmless <= set(STOPPING)


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignal() as stop:
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.asked
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_closed_pipe_saves(tmp_path):
    """`train … | head -1`"""
    process = start("--run", tmp_path / "run", *FLAGS, "--images", 10**6, "--log-every", 40)
    process.stdout.readline()
    process.stdout.close()
    error = process.stderr.read()
    assert process.wait(120) == 0
    assert "Traceback" not in error
    assert "BrokenPipe" not in error
    steps = load_tensors(checkpoints(tmp_path / "run")[-1])[1]["steps"]
    assert 0 < steps < 1000


@pytest.mark.parametrize("changed", ["images", "history", "samples"])
def test_an_error_between_two_steps_does_not_cost_those_made(tmp_path, monkeypatch, changed):
    trainer = Trainer(tmp_path, tiny(images=400), log_every=4, sample_every=12)

    batches = trainer.batches()

    def broken(*_):
        if trainer.steps_done >= 3:
            raise OSError(5, "Input/output error")

    def gone():
        for batch in batches:
            broken()
            yield batch

    if changed == "images":
        monkeypatch.setattr(trainer, "batches", gone)
    elif changed == "history":
        monkeypatch.setattr("stylegan2.training.log.Log.write", broken)
    else:
        monkeypatch.setattr(trainer, "save_samples", broken)
    with pytest.raises(OSError, match="Input/output error"):
        trainer.train()
    assert load_tensors(checkpoints(tmp_path)[-1])[1]["steps"] == trainer.steps_done == 3


def test_an_error_in_a_step_saves_no_half_step(tmp_path, monkeypatch):
    trainer = Trainer(tmp_path, tiny(images=400), checkpoint_every=8)
    generator_loss = trainer.step.phases.generator_loss

    def broken(latents):
        if trainer.steps_done == 3:  # the discriminator has moved already
            raise RuntimeError("out of memory")
        return generator_loss(latents)

    monkeypatch.setattr(trainer.step.phases, "generator_loss", broken)
    with pytest.raises(RuntimeError, match="out of memory"):
        trainer.train()
    assert load_tensors(checkpoints(tmp_path)[-1])[1]["steps"] == 2


# The machine around it

def test_a_home_that_cannot_be_written_does_not_matter(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", os.devnull + "/home")
    assert Trainer(tmp_path, tiny()).train()
    assert os.environ["HOME"] == os.devnull + "/home"


def test_a_screen_that_knows_ascii_only(tmp_path):
    process = start("--run", tmp_path / "Zoë", *FLAGS, "--images", 8, LC_ALL="C", PYTHONCOERCECLOCALE="0",
                    PYTHONUTF8="0", PYTHONIOENCODING="ascii:strict")
    output, error = process.communicate(timeout=120)
    assert process.returncode == 0, error
    assert "at 8?, on cpu" in output


@pytest.mark.parametrize(("change", "message"), [
    ({"n_features": 8192, "max_features": 8192, "resolution": 1024, "d_latent": 8192}, "GiB to train")])
def test_networks_larger_than_the_memory_are_refused_before_they_are_made(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Trainer(tmp_path / "run", tiny(**change))
    assert not (tmp_path / "run").exists()


def test_settings_larger_than_their_weights_are_refused_before_they_are_made(a_record):
    settings = Settings.load(a_record / "settings.json")
    replace(settings, n_features=8192, max_features=8192, d_latent=8192, resolution=1024).save(
        a_record / "settings.json")
    with pytest.raises(ValueError, match=r"was written by another network|does not fit these settings"):
        load(a_record)
