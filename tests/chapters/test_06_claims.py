"""Chapter 6: what its text says and no cell of it shows.

First what DistributedDataParallel does with gradients. The notebook counts, in one process, the numbers that DDP hands
over to be averaged. That the processes' gradients then agree or differ is a claim about two; here two real ones run.
"""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.autograd import grad
from torch.utils._python_dispatch import TorchDispatchMode

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


class Multiplications(TorchDispatchMode):
    """Counts the multiplications of all matrix products that run inside."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm):
            left, right = args[-2:]
            self.count += left.shape[0] * left.shape[1] * right.shape[1]
        return func(*args, **(kwargs or {}))


def price(call: Callable[[], object]) -> int:
    """Multiplications in matrix products."""
    with Multiplications() as counted:
        call()
    return counted.count


@pytest.fixture
def critic() -> nn.Sequential:
    """Layers of unequal sizes, so that a product is not as good as any other."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 48), nn.Tanh(), nn.Linear(48, 32), nn.Tanh(), nn.Linear(32, 1))


def test_a_gradient_by_the_input_leaves_out_what_freezing_the_parameters_leaves_out(critic: nn.Sequential) -> None:
    x = torch.randn(16, 24, requires_grad=True)
    forward = price(lambda: critic(x))
    by_input = price(lambda: grad(critic(x).sum(), x))
    everything = price(lambda: critic(x).sum().backward())
    critic.requires_grad_(False)
    assert price(lambda: critic(x).sum().backward()) == by_input == 2 * forward
    assert everything == 3 * forward


def test_a_hessian_vector_product_costs_two_or_three_gradients(critic: nn.Sequential) -> None:
    """Of the parameters, with v as long as they are; a row of the Hessian costs the same, and there are thousands."""
    x, parameters = torch.randn(16, 24), list(critic.parameters())

    def product() -> None:
        gradients = grad(critic(x).square().mean(), parameters, create_graph=True)
        grad(gradients, parameters, [torch.ones_like(g) for g in gradients])

    assert 2 <= price(product) / price(lambda: grad(critic(x).square().mean(), parameters)) <= 3
    assert sum(p.numel() for p in parameters) > 1000


def test_backward_with_inputs_spares_the_parameters_and_adds_to_the_input(critic: nn.Sequential) -> None:
    x = torch.randn(16, 24, requires_grad=True)
    (once,) = grad(critic(x).sum(), x)
    for _ in range(2):
        assert critic(x).sum().backward(inputs=[x]) is None
    assert x.grad is not None
    torch.testing.assert_close(x.grad, 2 * once)
    assert all(p.grad is None for p in critic.parameters())


def test_a_penalty_fills_the_gradient_of_the_images_too(critic: nn.Sequential) -> None:
    x = torch.randn(16, 24, requires_grad=True)
    (g,) = grad(critic(x).sum(), x, create_graph=True)
    assert x.grad is None
    g.square().sum().backward()
    assert x.grad is not None
    assert x.grad.norm() > 0


def test_enable_grad_opens_no_grad_and_not_inference_mode() -> None:
    x = torch.ones(3, requires_grad=True)
    with torch.no_grad(), torch.enable_grad():
        assert grad((x * x).sum(), x)[0].tolist() == [2, 2, 2]
    with torch.inference_mode(), torch.enable_grad(), pytest.raises(RuntimeError):
        grad((x * x).sum(), x)


def test_an_optimizer_skips_none_and_lets_momentum_move_a_parameter_whose_gradient_is_zero() -> None:
    ends = {}
    for name, second in (("none", None), ("zeros", torch.zeros(2))):
        p = nn.Parameter(torch.zeros(2))
        optimizer = torch.optim.SGD([p], lr=1.0, momentum=0.5)
        for gradient in (torch.ones(2), second):
            p.grad = gradient
            optimizer.step()
        ends[name] = p.detach().tolist()
    assert ends == {"none": [-1.0, -1.0], "zeros": [-1.5, -1.5]}


@pytest.mark.parametrize(("alpha", "downhill"), [(0.05, True), (0.09, True), (0.11, False), (0.18, False)])
def test_first_order_steps_climb_once_the_inner_step_overshoots(alpha: float, downhill: bool) -> None:
    """One dimension of the chapter's two, the one of curvature 10; finite steps instead of derivatives."""
    curvature = 10.0

    def after_inner_step(theta: float) -> float:
        return curvature / 2 * (theta - alpha * curvature * theta) ** 2

    theta = 1.0
    first_order = curvature * (theta - alpha * curvature * theta)  # the gradient where the inner step ends
    assert (after_inner_step(theta - 1e-3 * first_order) < after_inner_step(theta)) is downhill
