"""The toy problem: its law, its network, its four ways to weigh, its record."""

import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from book import records
from gradnorm.__main__ import main
from gradnorm.toy import (
    METHODS,
    ToyNetwork,
    ToyRun,
    UncertaintyWeighter,
    commit,
    make_tasks,
    record,
    scales_of,
    train,
)


def test_tasks_follow_the_papers_law():
    """tanh saturates, as B has variance 10 and x has 250 dimensions; tasks agree as far as B outweighs the ε_i."""
    tasks = make_tasks([2.0, 30.0], seed=1, train=2000, test=10)
    assert tasks.y.shape == (2000, 2, 100)
    assert tasks.x_test.shape == (10, 250)
    assert tasks.y.abs().amax(dim=(0, 2)).tolist() == pytest.approx([2, 30])
    unit = tasks.y / tasks.scales[:, None]
    # cos of the angle between B + ε₁ and B + ε₂ is 10 / 13.5; the signs of two such projections then correlate by
    # 2/π · arcsin of it.
    expected = 2 / torch.pi * torch.asin(torch.tensor(10 / 13.5))
    assert float((unit[:, 0].sign() * unit[:, 1].sign()).mean()) == pytest.approx(float(expected), abs=0.03)
    assert float(unit.square().mean()) > 0.95


def test_tasks_depend_on_the_seed_alone():
    first, again, other = (make_tasks([1.0, 2.0], seed=seed, train=5, test=5) for seed in (0, 0, 1))
    assert torch.equal(first.y, again.y)
    assert not torch.equal(first.y, other.y)


def test_scales():
    assert scales_of(2) == [1, 100]
    assert scales_of(10) == scales_of(10) != scales_of(10, seed=1)
    assert min(scales_of(500)) > 0
    assert 30 < sum(scales_of(500)) / 500 < 50  # E|N(0, 50²)| = 39.9


def test_network():
    network = ToyNetwork(3)
    assert network.last_shared is network.trunk[6].weight
    losses = network.losses(torch.zeros(4, 250), torch.zeros(4, 3, 100))
    assert [loss.shape for loss in losses] == [()] * 3


def test_uncertainty_weights_go_to_one_over_the_loss():
    weighter = UncertaintyWeighter(2)
    optimizer = torch.optim.SGD(weighter.parameters(), lr=0.5)
    values = torch.tensor([0.5, 4.0], requires_grad=True)
    for _ in range(200):
        optimizer.zero_grad()
        result = weighter(list(values.unbind()))
        optimizer.step()
    assert [float(w) for w in result.weights.values()] == pytest.approx([2, 0.25], rel=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_training_learns_and_repeats(method):
    tasks = make_tasks([1.0, 3.0, 10.0], train=500, test=100)
    run, again = (train(method, tasks, steps=60, every=30) for _ in range(2))
    assert run == again
    assert run.steps == [0, 30, 60]
    assert run.ratios[0] == [1, 1, 1]
    assert sum(run.ratios[-1]) < 2.99
    if method in ("equal", "gradnorm", "oracle"):
        assert all(sum(weights) == pytest.approx(3, rel=1e-5) for weights in run.weights)
    if method == "oracle":
        assert run.weights[0][0] / run.weights[0][2] == pytest.approx(100)
    if method == "gradnorm":
        first, *_, last = run.weights[-1]
        assert first > 1 > last, "the small task gains weight"


def test_unknown_method():
    with pytest.raises(ValueError, match="equal, gradnorm, uncertainty, oracle"):
        train("best", make_tasks([1.0, 2.0], train=5, test=5), steps=1)


@pytest.fixture
def short(monkeypatch):
    """Two small problems in place of the record's, on few inputs."""
    monkeypatch.setattr("gradnorm.toy.PROBLEMS", ((2, 1e-4, 100), (2, 1e-3, 50)))
    monkeypatch.setattr(
        "gradnorm.toy.make_tasks", partial(make_tasks, train=200, test=50)
    )


def test_command_records(tmp_path, short, capsys):
    assert main(["toy", "--seeds", "2", "--out", str(tmp_path / "new")]) == 0
    text = (tmp_path / "new/history.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    expected = [(s, rate, m) for s in (0, 1) for rate in (1e-4, 1e-3) for m in METHODS]
    assert [
        (line["seed"], line["learning_rate"], line["method"]) for line in lines
    ] == expected
    assert all(
        len(line["ratios"]) == len(line["weights"]) == len(line["steps"])
        for line in lines
    )
    assert {tuple(line["steps"]) for line in lines} == {(0, 100), (0, 50)}
    settings = json.loads((tmp_path / "new/settings.json").read_text(encoding="utf-8"))
    assert settings["alpha"] == 0.12
    made = json.loads((tmp_path / "new/run.json").read_text(encoding="utf-8"))
    assert {"minutes", "device", "commit"} <= set(made)
    assert made["command"] == "python -m gradnorm toy --seeds 2"
    assert capsys.readouterr().out.count("mean loss ratio") == 16
    assert {path.name for path in (tmp_path / "new").iterdir()} == {
        "settings.json",
        "run.json",
        "history.jsonl",
    }


@pytest.mark.parametrize("steps", [1, 70, 10_000])
def test_steps_end_every_training(steps, tmp_path, short):
    """At most so many; the last one is noted."""
    assert (
        main(["toy", "--seeds", "1", "--steps", str(steps), "--out", str(tmp_path)])
        == 0
    )
    settings = json.loads((tmp_path / "settings.json").read_text(encoding="utf-8"))
    assert settings["problems"] == [
        [2, 1e-4, min(100, steps)],
        [2, 1e-3, min(50, steps)],
    ]
    lines = [
        json.loads(line)
        for line in (tmp_path / "history.jsonl")
        .read_text(encoding="utf-8")
        .splitlines()
    ]
    assert [line["steps"] for line in lines] == [
        [0, min(most, steps)] for most in [100] * 4 + [50] * 4
    ]
    made = json.loads((tmp_path / "run.json").read_text(encoding="utf-8"))
    assert made["command"] == f"python -m gradnorm toy --seeds 1 --steps {steps}"


def test_the_recorded_command_still_asks_for_the_recorded_settings(
    tmp_path, monkeypatch
):
    """results/gradnorm-toy: the same settings, and every run with the steps it had."""
    asked = []

    def noted(method, tasks, *, steps, seed, learning_rate, every, **rates):
        asked.append(
            [
                len(tasks.scales),
                learning_rate,
                seed,
                method,
                list(range(0, steps + 1, every)),
            ]
        )
        return ToyRun([], [[1.0] * len(tasks.scales)], [])

    monkeypatch.setattr("gradnorm.toy.train", noted)
    monkeypatch.setattr("gradnorm.toy.make_tasks", partial(make_tasks, train=2, test=2))
    assert main(["toy", "--seeds", "5", "--out", str(tmp_path)]) == 0
    folder = records.record("gradnorm-toy")
    for name in ("settings.json", "run.json"):
        recorded, found = (
            json.loads((f / name).read_text(encoding="utf-8"))
            for f in (folder, tmp_path)
        )
        keys = ["command"] if name == "run.json" else list(recorded)
        assert {key: found[key] for key in keys} == {key: recorded[key] for key in keys}
    lines = [
        json.loads(line)
        for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    assert asked == [
        [line[k] for k in ("tasks", "learning_rate", "seed", "method", "steps")]
        for line in lines
    ]


def test_the_default_folder_is_not_a_recorded_one(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        "gradnorm.__main__.record", lambda *arguments: asked.append(arguments)
    )
    assert main(["toy"]) == 0
    assert asked == [(Path("runs/gradnorm-toy"), 3, None)]


def test_it_writes_over_nothing(tmp_path, short, capsys, monkeypatch):
    """A folder that holds anything is refused, before any training."""
    monkeypatch.setattr("gradnorm.toy.train", None)
    (tmp_path / "mine").write_text("mine", encoding="utf-8")
    assert main(["toy", "--out", str(tmp_path)]) == 2
    told = capsys.readouterr().err
    assert told == (
        f"error: {tmp_path} holds something already (mine), and a record writes over "
        "nothing: choose another folder with --out, or move this one away\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert main(["toy", "--out", str(tmp_path / "mine")]) == 2
    assert "is a file: choose another folder" in capsys.readouterr().err
    assert main(["toy", "--out", str(tmp_path / "mine" / "below")]) == 2
    assert "error: [Errno" in capsys.readouterr().err
    with pytest.raises(FileExistsError, match="holds something already"):
        record(tmp_path)


def test_a_folder_that_cannot_be_written_is_found_before_training(
    tmp_path, short, capsys, monkeypatch
):
    """As on a full or read-only disk: opening the first file fails."""

    def refuses(self, *_, **__):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr("gradnorm.toy.train", None)
    monkeypatch.setattr(Path, "open", refuses)
    assert main(["toy", "--out", str(tmp_path)]) == 2
    assert "Permission denied" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("raised", "status"), [(KeyboardInterrupt(), 130), (OSError("no space"), 2)]
)
def test_an_interrupted_record_leaves_nothing(
    raised, status, tmp_path, short, capsys, monkeypatch
):
    """And the folder can be used again."""
    runs = []

    def breaks(method, tasks, **settings):
        runs.append(method)
        assert [path.name for path in tmp_path.iterdir()] == ["history.jsonl.part"]
        if len(runs) == 3:
            raise raised
        return train(method, tasks, **settings)

    monkeypatch.setattr("gradnorm.toy.train", breaks)
    assert main(["toy", "--out", str(tmp_path)]) == status
    told = capsys.readouterr().err
    assert "Traceback" not in told
    assert ("interrupted" if status == 130 else "error: no space") in told
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("gradnorm.toy.train", train)
    assert main(["toy", "--seeds", "1", "--steps", "1", "--out", str(tmp_path)]) == 0


def test_without_git_the_commit_is_unknown(monkeypatch):
    """After minutes of training, a missing program must not lose the record."""
    monkeypatch.setenv("PATH", "")
    assert commit() == "unknown"


@pytest.mark.parametrize("option", ["--seeds", "--steps"])
@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "2.5", "abc", "", "1e3"])
def test_numbers_out_of_range(option, value, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        main(["toy", option, value, "--out", str(tmp_path / "new")])
    assert ended.value.code == 2
    assert (
        f"argument {option}: must be a whole number, 1 or more; got {value!r}"
        in capsys.readouterr().err
    )
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"seeds": 0}, ValueError),
        ({"most_steps": 0}, ValueError),
        ({"seeds": 1.5}, TypeError),
        ({"most_steps": True}, TypeError),
    ],
)
def test_record_checks_its_numbers(settings, error, tmp_path, plain_types):
    with pytest.raises(error, match=f"{next(iter(settings))} must be"):
        record(tmp_path / "new", **settings)
    assert not (tmp_path / "new").exists()


SMALL = """
import signal
import sys
from functools import partial
signal.signal(signal.SIGINT, signal.default_int_handler)  # a parent may ignore it
import gradnorm.toy as toy
toy.PROBLEMS = ((2, 1e-4, 1),)
toy.make_tasks = partial(toy.make_tasks, train=100, test=10)
from gradnorm.__main__ import main
sys.exit(main(["toy", "--seeds", "2000", "--out", sys.argv[1]]))
"""


def test_a_reader_that_leaves(tmp_path):
    """`… | head -1`: it ends, without a traceback, long before its 2000 seeds."""
    command = [sys.executable, "-c", SMALL, str(tmp_path / "new")]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert "mean loss ratio" in running.stdout.readline()
    running.stdout.close()
    told = running.stderr.read()
    assert running.wait(timeout=60) == 141
    assert told == ""
    assert not list((tmp_path / "new").iterdir())


def test_ctrl_c(tmp_path):
    command = [sys.executable, "-c", SMALL, str(tmp_path / "new")]
    running = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert "mean loss ratio" in running.stdout.readline()
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert told == "interrupted; nothing is recorded\n"
    assert not list((tmp_path / "new").iterdir())


def test_a_terminal_that_knows_ascii_alone(tmp_path):
    """What cannot be printed is replaced: here the letters of a path, in an error."""
    folder = tmp_path / "größer"
    folder.mkdir()
    (folder / "ω").write_text("", encoding="utf-8")
    plain = {
        **os.environ,
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
        "PYTHONIOENCODING": "ascii",
    }
    command = [sys.executable, "-m", "gradnorm", "toy", "--out", str(folder)]
    done = subprocess.run(command, capture_output=True, env=plain)
    assert done.returncode == 2
    assert done.stderr.startswith(b"error: ")
    assert b"holds something already (?" in done.stderr
    assert b"Traceback" not in done.stderr
