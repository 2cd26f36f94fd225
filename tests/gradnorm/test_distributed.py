"""Several processes on gloo: the weights are the same in all of them, and those of one process on the joined batch."""

import json
import os
import socket
import subprocess
import sys
from datetime import timedelta

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses

DIM, STEPS, BATCH = 6, 5, 8
PLACES = ("parameter", "activations", "share")


def data():
    """The joined batches, [steps, batch, dim]; the second half of each is larger, so that the ranks' losses differ."""
    x = torch.randn(STEPS, BATCH, DIM, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return x * torch.linspace(0.5, 2, BATCH, dtype=torch.float64)[:, None]


def weighter_for(network, place, **settings):
    where = {"grad_norm_parameters": network.backbone_parameter} if place == "parameter" else {}
    settings = {"num_losses": 3, "learning_rate": 0.05, "restoring_force_alpha": 0.5, **where, **settings}
    return GradNormLossWeighter(**settings).double()


def train(place, batches, parts=1, before=lambda network: network, **settings):
    """A few steps, with DDP or without; the state at the end."""
    torch.manual_seed(0)
    network = MockNetworkWithMultipleLosses(DIM, 3).double()
    weighter = weighter_for(network, place, **settings)
    model = before(Heads(network, weighter, place))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for x in batches:
        optimizer.zero_grad()
        for i, part in enumerate(x.chunk(parts)):
            losses, activations = model(part)
            weighter(losses, activations, scale=1 / parts, grad_step=i == parts - 1)
        optimizer.step()
    return {**weighter.state_dict(), "W": network.backbone_parameter.detach()}


class Heads(torch.nn.Module):
    """The network's losses, with the weighter's views where asked for: what DDP wraps."""

    def __init__(self, network, weighter, place):
        super().__init__()
        self.network, self.place = network, place
        self.share = weighter.share

    def forward(self, x):
        z = self.network.backbone(x)
        views = self.share(z) if self.place == "share" else (z,) * 3
        losses = [head(view).square().mean() for head, view in zip(self.network.heads, views, strict=True)]
        return losses, z if self.place == "activations" else None


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def one_rank(rank, processes, port, folder):
    """What each process runs: every place, plain, accumulated, and with one loss that is bad on one rank."""
    torch.set_num_threads(1)
    early = weighter_for(MockNetworkWithMultipleLosses(DIM, 3).double(), "share")
    dist.init_process_group(
        "gloo", f"tcp://127.0.0.1:{port}", rank=rank, world_size=processes, timeout=timedelta(seconds=60)
    )
    mine = data().chunk(processes, dim=1)[rank]

    def ddp(model):
        return torch.nn.parallel.DistributedDataParallel(model)

    ends = {place: train(place, mine, before=ddp) for place in PLACES}
    ends["accumulated"] = train("parameter", mine, parts=2, update_every=2, optimizer="adam", before=AveragedAtTheEnd)
    z = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    losses = [factor * (rank + 1) * view.sum() for factor, view in zip((1.0, 2.0, 4.0), early.share(z), strict=True)]
    if rank == 0:
        losses[1] = losses[1] * float("nan")
    norms = {name: norm.nan_to_num() for name, norm in early(losses).norms.items()}
    ends["made before the group"] = {**early.state_dict(), **{f"norm {k}": v for k, v in norms.items()}}
    torch.save(ends, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


class AveragedAtTheEnd(torch.nn.Module):
    """Gradients averaged by hand after the last part, as DDP with `no_sync` does."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.calls = 0  # two parts a step
        for parameter in model.parameters():
            parameter.register_post_accumulate_grad_hook(self.average)

    def average(self, parameter):
        if self.calls % 2 == 0:
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()

    def forward(self, x):
        self.calls += 1
        return self.model(x)


@pytest.mark.parametrize("processes", [2, 4])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_processes_equal_one_on_the_joined_batch(processes, tmp_path):
    multiprocessing.start_processes(
        one_rank, (processes, free_port(), str(tmp_path)), nprocs=processes, start_method="spawn"
    )
    ranks = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(processes)]
    for name, end in ranks[0].items():
        for other in ranks[1:]:
            assert list(other[name]) == list(end)
            assert all(torch.equal(other[name][key], value) for key, value in end.items()), (name, "ranks differ")
    alone = {place: train(place, data()) for place in PLACES}
    alone["accumulated"] = train("parameter", data(), update_every=2, optimizer="adam")
    for name, expected in alone.items():
        for key, value in expected.items():
            torch.testing.assert_close(ranks[0][name][key], value, rtol=1e-9, atol=1e-12)
        assert (expected["loss_weights"] - 1).abs().max() > 0.01
    bad = ranks[0]["made before the group"]
    assert bad["loss_weights"][1] == 1, "a loss that is bad on one rank is left out on all"
    assert bad["norm 1"] == 0, "no number"
    mean = sum(range(1, processes + 1)) / processes  # of the ranks' factors
    square = sum(rank**2 for rank in range(1, processes + 1)) ** 0.5 / processes
    assert float(bad["initial_losses"][0]) == pytest.approx(6 * mean)
    assert float(bad["norm 0"]) == pytest.approx(6**0.5 * square)


SCRIPT = """
import json, sys, torch
from accelerate import Accelerator
from torch import distributed as dist
from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses
torch.set_num_threads(1)
accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
torch.manual_seed(0)
network = MockNetworkWithMultipleLosses(6, 3)
optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
model, optimizer = accelerator.prepare(network, optimizer)
weighter = GradNormLossWeighter(
    num_losses=3, learning_rate=0.05, restoring_force_alpha=0.5, grad_norm_parameters=network.backbone_parameter,
    accelerator=accelerator,
)
x = torch.randn(6, 8, 6, generator=torch.Generator().manual_seed(1))
for batch in x.chunk(accelerator.num_processes, dim=1)[accelerator.process_index]:
    with accelerator.accumulate(model):
        weighter(model(batch))
        optimizer.step()
        optimizer.zero_grad()
assert weighter.step == 3
weights = accelerator.gather(weighter.loss_weights[None])
if accelerator.is_main_process:
    print(json.dumps([accelerator.num_processes, weights.tolist(), network.backbone_parameter.sum().item()]))
dist.is_initialized() and dist.destroy_process_group()
"""


def test_accelerate_under_torchrun(tmp_path):
    """`accelerator.accumulate` says when a step ends: no `grad_step` is passed."""
    pytest.importorskip("accelerate")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([os.getcwd(), *sys.path])}
    answers = []
    for launch in ([], ["-m", "torch.distributed.run", "--nproc-per-node=2", f"--master-port={free_port()}"]):
        done = subprocess.run(
            [sys.executable, *launch, str(script)], capture_output=True, text=True, env=environment, timeout=180
        )
        assert done.returncode == 0, done.stderr
        answers.append(json.loads(done.stdout.strip().splitlines()[-1]))
    (one, (alone,), total), (two, (first, second), total_of_two) = answers
    assert (one, two) == (1, 2)
    assert first == second
    assert first == pytest.approx(alone, rel=1e-5)
    assert total_of_two == pytest.approx(total, rel=1e-5)
    assert max(abs(w - 1) for w in alone) > 0.01
