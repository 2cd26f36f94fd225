"""Chapter 6 says what DistributedDataParallel does with gradients; here two real processes do it.

The notebook counts, in one process, the numbers that DDP hands over to be averaged. That the processes' gradients then
agree or differ is a claim about two.
"""

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.autograd import grad

PROCESSES = 2


def _gradients(rank: int, store: str, results: str) -> None:
    """In each process: a gradient of the same critic, four ways, on this process's own data."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(store, PROCESSES), rank=rank, world_size=PROCESSES)

    def critic() -> tuple[nn.Linear, nn.Module]:
        torch.manual_seed(0)
        plain = nn.Linear(3, 1)
        return plain, nn.parallel.DistributedDataParallel(plain)

    x = (torch.arange(12.0).reshape(4, 3) * (rank + 1) / 10).requires_grad_()  # other images in each process
    found: dict[str, Tensor] = {}

    plain, replica = critic()
    replica(x).square().mean().backward()
    assert plain.weight.grad is not None
    found["backward"] = plain.weight.grad

    plain, replica = critic()
    found["grad"] = grad(replica(x).square().mean(), plain.weight)[0]

    for name, share in (("penalty", 0.0), ("penalty + 0 * scores", 1.0)):
        plain, replica = critic()
        scores = (replica(x * x) * (rank + 1)).sum()
        (g,) = grad(scores, x, create_graph=True)
        loss = g.square().sum(1).mean()
        (loss + 0 * scores if share else loss).backward()
        assert plain.weight.grad is not None
        found[name] = plain.weight.grad

    torch.save(found, f"{results}/{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Tensor]]:
    """What each process found."""
    folder: Path = tmp_path_factory.mktemp("ddp")
    mp.spawn(_gradients, args=(str(folder / "store"), str(folder)), nprocs=PROCESSES)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(PROCESSES)]


@pytest.mark.parametrize("way", ["backward", "penalty + 0 * scores"])
def test_the_processes_agree(gradients: list[dict[str, Tensor]], way: str) -> None:
    first, second = (found[way] for found in gradients)
    torch.testing.assert_close(first, second)
    assert first.norm() > 0


@pytest.mark.parametrize("way", ["grad", "penalty"])
def test_the_processes_drift_apart(gradients: list[dict[str, Tensor]], way: str) -> None:
    first, second = (found[way] for found in gradients)
    assert not torch.allclose(first, second), "each process should have the gradient of its own data alone"


def test_the_average_is_of_the_processes_own_gradients(gradients: list[dict[str, Tensor]]) -> None:
    torch.testing.assert_close(gradients[0]["backward"], torch.stack([found["grad"] for found in gradients]).mean(0))
    torch.testing.assert_close(
        gradients[0]["penalty + 0 * scores"], torch.stack([found["penalty"] for found in gradients]).mean(0)
    )
