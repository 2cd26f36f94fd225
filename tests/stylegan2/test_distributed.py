"""Two processes train as one does."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
import torch

from stylegan2.files import load_tensors
from stylegan2.training.checkpoint import checkpoints

# The directions of path lengths are drawn by each process for itself: without them, one process computes the same.
SETTINGS = {"resolution": 8, "batch-size": 8, "n-features": 4, "max-features": 8, "d-latent": 8,
            "path-length-weight": 0, "r1-interval": 2}
FLAGS = [*(word for name, value in SETTINGS.items() for word in (f"--{name}", str(value))), "--x-flip"]
ONE_RANK = """
import sys
from safetensors.torch import save_file
from stylegan2.commands.train import parse_train
from stylegan2.training.trainer import Trainer

out, *flags = (word for word in sys.argv[1:] if word != "--")
command = parse_train(flags, "train")
trainer = Trainer(command.folder(), command.settings, command.resume)
trainer.train()
tensors = {k: v.clone() for k, v in trainer.players.state_dict().items()}
save_file(tensors, f"{out}-{trainer.processes.rank}.safetensors")
"""


def start(*arguments, processes):
    """The program in so many processes, as torchrun starts them; its output."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes), "--master-port", port,
         "--", *map(str, arguments)], capture_output=True, text=True, timeout=150,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)})
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The same settings in one process and in two."""
    folder = tmp_path_factory.mktemp("runs")
    script = folder / "one_rank.py"
    script.write_text(ONE_RANK)
    for name, processes in (("one", 1), ("two", 2)):
        start(script, folder / name, "--run", folder / f"run-{name}", *FLAGS, "--images", "48", processes=processes)
    return folder


def test_both_ranks_have_the_same_weights(runs):
    first, second = (torch_file(runs / f"two-{rank}.safetensors") for rank in range(2))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name


def test_two_processes_compute_what_one_does(runs):
    """Up to the order in which sums are rounded; Adam's first steps magnify that where a gradient is near 0."""
    one, two = torch_file(runs / "one-0.safetensors"), torch_file(runs / "two-0.safetensors")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=1e-3, atol=2e-3, msg=lambda m, name=name: f"{name}: {m}")


def test_only_the_first_process_writes(runs):
    assert len(checkpoints(runs / "run-two")) == 1
    assert len((runs / "run-two" / "history.jsonl").read_text().splitlines()) == 1


def test_a_run_goes_on_with_another_number_of_processes(runs, tmp_path):
    run = shutil.copytree(runs / "run-two", tmp_path / "run-two")
    output = start(runs / "one_rank.py", tmp_path / "resumed", "--run", run, *FLAGS, "--images", "96", "--resume",
                   processes=1)
    assert "was written by 2 processes, and 1 go on" in output
    tensors, state = load_tensors(checkpoints(run)[-1])
    assert state["processes"] == 1
    assert state["steps"] == 12
    assert {name for name in tensors if name.startswith("random.")} == {"random.latents", "random.cpu.0"}


def test_a_run_in_two_processes_resumes_exactly(runs, tmp_path):
    for name, images in (("whole", [96]), ("halves", [48, 96])):
        for i, n in enumerate(images):
            resume = ["--resume"] if i else []
            start(runs / "one_rank.py", tmp_path / name, "--run", tmp_path / f"run-{name}", *FLAGS, "--noise",
                  "--images", str(n), *resume, processes=2)
    whole, halves = (load_tensors(checkpoints(tmp_path / f"run-{name}")[-1])[0] for name in ("whole", "halves"))
    for name, value in whole.items():
        assert torch.equal(value, halves[name]), name


def torch_file(path):
    from safetensors.torch import load_file

    return load_file(path)
