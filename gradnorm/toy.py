"""The toy problem of the GradNorm paper (arXiv 1711.02257, section 4): regressions that differ in scale alone.

    f_i(x) = σ_i tanh((B + ε_i) x),   x ∈ R²⁵⁰, f_i ∈ R¹⁰⁰, entries of B from N(0, 10) and of ε_i from N(0, 3.5)

What the paper leaves open, and what this module takes: 10 and 3.5 are variances; x is standard normal; for T = 10 the
scales are `|N(0, 50²)|`; 10,000 training and 1,000 test inputs; batches of 100; Adam on the network.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import torch
from torch import Tensor, nn

from gradnorm._typing import Float
from gradnorm.losses import require_integer
from gradnorm.weighter import GradNormLossWeighter, Weighing

METHODS = ("equal", "gradnorm", "uncertainty", "oracle")
# Tasks, the network's learning rate, steps: the problems of a record. T = 2 twice, since the rate decides who wins.
PROBLEMS = ((10, 1e-3, 8_000), (2, 1e-4, 4_000), (2, 1e-3, 4_000))


@dataclass(frozen=True)
class ToyTasks:
    """The scales σ, and inputs and targets to train and to test on."""

    scales: Float[Tensor, " tasks"]
    x: Float[Tensor, "train 250"]
    y: Float[Tensor, "train tasks 100"]
    x_test: Float[Tensor, "test 250"]
    y_test: Float[Tensor, "test tasks 100"]


def make_tasks(scales: Sequence[float], seed: int = 0, train: int = 10_000, test: int = 1_000) -> ToyTasks:
    """Draw B, the ε_i and the inputs; the same for the same seed."""
    generator = torch.Generator().manual_seed(seed)
    shared = math.sqrt(10) * torch.randn(100, 250, generator=generator)
    own = math.sqrt(3.5) * torch.randn(len(scales), 100, 250, generator=generator)
    x = torch.randn(train + test, 250, generator=generator)
    mixed = torch.einsum("toi,ni->nto", shared + own, x)  # [train + test, tasks, 100]
    y = torch.tensor(scales)[:, None] * mixed.tanh()
    return ToyTasks(torch.tensor(scales), x[:train], y[:train], x[train:], y[train:])


def scales_of(tasks: int, seed: int = 0) -> list[float]:
    """The paper's σ = (1, 100) for two tasks; for more, `|N(0, 50²)|`."""
    if tasks == 2:
        return [1.0, 100.0]
    return (50 * torch.randn(tasks, generator=torch.Generator().manual_seed(seed))).abs().tolist()


class ToyNetwork(nn.Module):
    """Four shared ReLU layers of 100, then a linear head for each task."""

    def __init__(self, tasks: int) -> None:
        super().__init__()
        layers = [layer for width in (250, 100, 100, 100) for layer in (nn.Linear(width, 100), nn.ReLU())]
        self.trunk = nn.Sequential(*layers)
        self.heads = nn.ModuleList(nn.Linear(100, 100) for _ in range(tasks))

    @property
    def last_shared(self) -> nn.Parameter:
        """W: the weight of the trunk's last linear layer."""
        return self.trunk.get_parameter("6.weight")

    def losses(self, x: Float[Tensor, "batch 250"], y: Float[Tensor, "batch tasks 100"]) -> list[Tensor]:
        """The mean squared error of each task."""
        shared = self.trunk(x)
        return [(head(shared) - y[:, i]).square().mean() for i, head in enumerate(self.heads)]


class UncertaintyWeighter(nn.Module):
    """Homoscedastic uncertainty (Kendall, Gal and Cipolla, arXiv 1705.07115): ½ Σ (e^{−s_i} L_i + s_i), s learned.

    The s_i are parameters, for the network's optimizer; at its minimum s_i = log L_i, so that w_i = 1/L_i.
    """

    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.log_variances = nn.Parameter(torch.zeros(tasks))

    def forward(self, losses: Sequence[Tensor]) -> Weighing:
        """Back-propagate, as a GradNormLossWeighter does; the weights are e^{−s_i}."""
        weights = (-self.log_variances).exp()
        total = (weights * torch.stack(tuple(losses))).sum()
        ((total + self.log_variances.sum()) / 2).backward()
        return Weighing(total.detach(), {str(i): w for i, w in enumerate(weights.detach())}, {}, {})


def weighter_for(method: str, tasks: ToyTasks, network: ToyNetwork, alpha: float, learning_rate: float) -> nn.Module:
    """The four ways to weigh that are compared; each is called with the losses, and back-propagates.

    Raises:
        ValueError: an unknown method.
    """
    count = len(tasks.scales)
    if method == "equal":
        return GradNormLossWeighter(num_losses=count, frozen=True)
    if method == "gradnorm":
        return GradNormLossWeighter(
            num_losses=count,
            learning_rate=learning_rate,
            restoring_force_alpha=alpha,
            grad_norm_parameters=network.last_shared,
        )
    if method == "uncertainty":
        return UncertaintyWeighter(count)
    if method == "oracle":  # as if someone had told us every σ_i, and Σ w = T
        weights = tasks.scales**-2
        return GradNormLossWeighter(weights * count / weights.sum(), frozen=True)
    raise ValueError(f"no method {method!r}; there are {', '.join(METHODS)}")


@dataclass(frozen=True)
class ToyRun:
    """What a run recorded: at each of `steps`, every task's test loss over its initial one, and the weights used."""

    steps: list[int]
    ratios: list[list[float]]
    weights: list[list[float]]


def train(
    method: str,
    tasks: ToyTasks,
    *,
    steps: int,
    seed: int = 0,
    learning_rate: float = 1e-3,
    alpha: float = 0.12,
    weight_learning_rate: float = 1e-4,
    every: int = 50,
) -> ToyRun:
    """Train one network with one way to weigh. Runs with the same seed start alike and see the same batches.

    Uncertainty's s_i learn at 0.025, the rate that the paper gives them.
    """
    torch.manual_seed(seed)
    network = ToyNetwork(len(tasks.scales))
    weighter = weighter_for(method, tasks, network, alpha, weight_learning_rate)
    parameters: list[dict[str, Any]] = [{"params": [*network.parameters()]}]
    parameters += [{"params": [parameter], "lr": 0.025} for parameter in weighter.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=learning_rate, fused=True)  # on a CPU, half the step's time
    with torch.no_grad():
        start = torch.stack(network.losses(tasks.x_test, tasks.y_test))
    run = ToyRun([], [], [])
    for step in range(steps + 1):
        if step % every == 0:
            with torch.no_grad():
                ratios = torch.stack(network.losses(tasks.x_test, tasks.y_test)) / start
            run.steps.append(step)
            run.ratios.append(ratios.tolist())
        batch = torch.randint(0, len(tasks.x), (100,))
        optimizer.zero_grad()
        weighed = weighter(network.losses(tasks.x[batch], tasks.y[batch]))
        optimizer.step()
        if step % every == 0:
            run.weights.append([float(w) for w in weighed.weights.values()])
    return run


def record(folder: Path, seeds: int = 3, most_steps: int | None = None) -> None:
    """Train every method on every problem and write settings.json, history.jsonl (a line for each run), run.json.

    Each file is written whole or not at all: until a run's end its lines are in
    history.jsonl.part, which is gone if the run is interrupted or fails.

    Args:
        folder: made if it is missing; must hold nothing.
        seeds: how many runs of each, 1 or more.
        most_steps: 1 or more; a problem that has more ends there. None: all steps.

    Raises:
        FileExistsError: the folder holds something, or is a file.
        OSError: the folder cannot be written. Both are found out before any training.
        TypeError, ValueError: `seeds` or `most_steps` is no integer or below 1.
    """
    require_integer(seeds, "seeds", 1)
    limit = max(steps for *_, steps in PROBLEMS)
    if most_steps is not None:
        require_integer(most_steps, "most_steps", 1)
        limit = most_steps
    problems = [(count, rate, min(steps, limit)) for count, rate, steps in PROBLEMS]
    rates = {"alpha": 0.12, "weight_learning_rate": 1e-4}
    settings = {"problems": problems, "methods": METHODS, "seeds": seeds, **rates}
    make_empty(folder)
    start = time.monotonic()
    with whole_file(folder / "history.jsonl") as history:
        for seed in range(seeds):
            for count, rate, steps in problems:
                tasks = make_tasks(scales_of(count, seed), seed)
                for method in METHODS:
                    run = train(
                        method,
                        tasks,
                        steps=steps,
                        seed=seed,
                        learning_rate=rate,
                        every=min(100, steps),  # the last step of a short run, too
                        **rates,
                    )
                    told = f"{count:2} tasks  rate {rate:g}  seed {seed}  {method:11}"
                    print(told, f"mean loss ratio {sum(run.ratios[-1]) / count:.3f}", flush=True)
                    line: dict[str, Any] = {"tasks": count, "learning_rate": rate}
                    line |= {"seed": seed, "method": method}
                    line |= {"scales": tasks.scales.tolist(), **asdict(run)}
                    history.write(json.dumps(rounded(line)) + "\n")
        threads = torch.get_num_threads()
        short = "" if most_steps is None else f" --steps {most_steps}"
        made = {
            "command": f"python -m gradnorm toy --seeds {seeds}{short}",
            "minutes": round((time.monotonic() - start) / 60, 1),
            "device": f"{threads} thread(s) of a {platform.machine()} CPU",
            "torch": torch.__version__,
            "commit": commit(),
        }
        for name, content in (("settings.json", settings), ("run.json", made)):
            with whole_file(folder / name) as file:
                file.write(json.dumps(content, indent=2) + "\n")


def make_empty(folder: Path) -> None:
    """Make the folder if it is missing; what is there already is never written over.

    Raises:
        FileExistsError: it holds something, or is no folder.
        OSError: it cannot be made or read.
    """
    if folder.exists() and not folder.is_dir():
        raise FileExistsError(f"{folder} is a file: choose another folder with --out")
    folder.mkdir(parents=True, exist_ok=True)
    held = min((path.name for path in folder.iterdir()), default=None)
    if held is not None:
        raise FileExistsError(
            f"{folder} holds something already ({held}), and a record writes over "
            "nothing: choose another folder with --out, or move this one away"
        )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[TextIO]:
    """A text file to write, which gets its name when it is whole.

    Raises:
        OSError: it cannot be written, or somebody is writing it.
    """
    part = path.with_name(f"{path.name}.part")
    file = part.open("x", encoding="utf-8", newline="\n")
    try:
        with file:
            yield file
        os.replace(part, path)
    except BaseException:  # an interruption as well
        part.unlink(missing_ok=True)
        raise


def rounded(value: Any) -> Any:
    """The value with every number in it at four significant digits."""
    if isinstance(value, dict):
        return {key: rounded(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [rounded(inner) for inner in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def commit() -> str:
    """The commit of the source tree that runs; "unknown" outside one or without git."""
    asked = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(
            asked, capture_output=True, encoding="utf-8", errors="replace"
        )
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"
