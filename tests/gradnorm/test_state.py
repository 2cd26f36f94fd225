"""What a weighter keeps between steps: memory, copies, resuming; and what the package needs."""

import copy
import io
import subprocess
import sys

import pytest
import torch
from torch import nn

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses

DIM = 8


# ——— memory, copies, resuming ———


def test_memory_is_flat():
    """10,000 steps in a process of their own: no tensor more, and the process no bigger."""
    code = """
import gc, resource, sys, torch
from gradnorm import GradNormLossWeighter
W = torch.nn.Parameter(torch.zeros(1))
weighter = GradNormLossWeighter(
    num_losses=2, learning_rate=0.01, restoring_force_alpha=0.5, grad_norm_parameters=W, optimizer="adam"
)
def run(steps):
    for _ in range(steps):
        weighter([6 * W.sum() + 1, 2 * W.sum() + 1])
    gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()), peak
tensors, peak = run(300)
later, peak_later = run(10_000)
print(later - tensors, peak_later - peak)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    more_tensors, more_bytes = map(int, done.stdout.split())
    assert more_tensors <= 0
    assert more_bytes < 6e6


def test_buffers_hold_no_graph(make, batches, train):
    network, weighter = make()
    train(network, weighter, batches(3))
    assert all(buffer.grad_fn is None and not buffer.requires_grad for buffer in weighter.buffers())


def test_deepcopy_goes_on_alone(make, batches, train):
    network, weighter = make()
    train(network, weighter, batches(3))
    twin = copy.deepcopy(weighter)
    assert twin.grad_norm_parameters[0] is network.backbone_parameter
    x = batches(1, seed=5)[0]
    before = weighter.loss_weights.clone()
    twin(network(x))
    assert torch.equal(weighter.loss_weights, before), "the copy moved the original"
    weighter(network(x))
    assert torch.equal(weighter.loss_weights, twin.loss_weights)


def test_deepcopy_with_its_network(make, batches, train):
    network, weighter = make()
    train(network, weighter, batches(3))
    network_twin, twin = copy.deepcopy((network, weighter))
    assert twin.grad_norm_parameters[0] is network_twin.backbone_parameter
    train(network, weighter, batches(3, seed=5))
    train(network_twin, twin, batches(3, seed=5))
    assert torch.equal(weighter.loss_weights, twin.loss_weights)


@pytest.mark.parametrize("optimizer", ["plain", "adam"])
def test_resume_is_exact(make, batches, train, optimizer):
    """On schedule, too: the third step of every five is due."""
    settings = {"optimizer": optimizer, "update_every": 5, "update_after_step": 2, "initial_losses_decay": 0.9}
    network, weighter = make(**settings)
    train(network, weighter, batches(5))
    saved = io.BytesIO()
    torch.save({"network": network.state_dict(), "weighter": weighter.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    network_later, later = make(seed=99, **settings)
    network_later.load_state_dict(state["network"])
    later.load_state_dict(state["weighter"])
    train(network, weighter, batches(5, seed=7))
    train(network_later, later, batches(5, seed=7))
    for key, value in weighter.state_dict().items():
        assert torch.equal(value, later.state_dict()[key]), key


def test_a_state_of_an_older_version_loads():
    """From before `initted` had its longer name, and on as that version went on."""
    shared = nn.Parameter(torch.zeros(1))
    weighter = GradNormLossWeighter(
        num_losses=3, learning_rate=0.025, restoring_force_alpha=0.5, grad_norm_parameters=shared,
        optimizer="adam", update_every=2, update_after_step=1,
    )  # fmt: skip
    saved = {
        "loss_weights": torch.tensor([0.9423555731773376, 1.0419857501983643, 1.0156584978103638]),
        "initial_losses": torch.tensor([1.0, 1.0, 2.0]),
        "initted": torch.tensor([True, True, True]),
        "loss_weights_grad": torch.tensor([4.0, -1.0, 2.0]),
        "moments": torch.tensor(
            [
                [0.7600001692771912, -0.1900000423192978, 0.02000001072883606],
                [0.03198358789086342, 0.0019989742431789637, 0.007995896972715855],
            ]
        ),
        "updates": torch.tensor([2, 2, 2]),
        "step": torch.tensor(4),
    }
    nn.ModuleDict({"inside": weighter}).load_state_dict({f"inside.{name}": value for name, value in saved.items()})
    assert "initted" in saved, "what was handed over is as it was"
    for level in (0.4, 0.3, 0.2):
        weighter([4 * shared.sum() + level, shared.sum() + 1, 2 * shared.sum() + 2 * level])
    assert weighter.step == 7
    assert weighter.updates.tolist() == [3, 3, 3]
    torch.testing.assert_close(
        weighter.loss_weights, torch.tensor([0.920440673828125, 1.0705742835998535, 1.0089850425720215])
    )


def test_older_names_stay():
    """`initted` and `share`: the same buffer, the same views."""
    weighter = GradNormLossWeighter(num_losses=2)
    assert weighter.initted is weighter.initial_losses_known
    z = torch.ones(3, requires_grad=True) * 1
    views = weighter.share(z)
    assert len(views) == 2
    assert all(view is not z and torch.equal(view, z) for view in views)


def test_buffers_are_made_where_the_parameter_is():
    weighter = GradNormLossWeighter([1.0, 3.0], grad_norm_parameters=nn.Parameter(torch.zeros(1, device="meta")))
    assert {buffer.device.type for buffer in weighter.buffers()} == {"meta"}


@pytest.mark.parametrize("optimizer", ["plain", "adam"])
@pytest.mark.parametrize(
    ("cast", "dtype"), [(torch.bfloat16, torch.float32), (torch.float16, torch.float32), (torch.float64, torch.float64)]
)
def test_a_cast_of_the_module_leaves_the_weights_wide(cast, dtype, optimizer, make, batches):
    """A step of 1e-4 of a weight is below bfloat16's resolution."""
    network, weighter = make(optimizer=optimizer, learning_rate=1e-4)
    nn.ModuleList([network, weighter]).to(cast)
    assert {buffer.dtype for buffer in weighter.buffers() if buffer.is_floating_point()} == {dtype}
    assert weighter.step.dtype == torch.long
    weighter(network(batches(1)[0].to(cast)))
    assert not torch.equal(weighter.loss_weights, torch.ones_like(weighter.loss_weights))


def test_it_owns_buffers_and_no_parameters(make):
    _, weighter = make()
    assert list(weighter.parameters()) == []
    names = {"loss_weights", "initial_losses", "initial_losses_known", "loss_weights_grad", "step"}
    assert names == set(weighter.state_dict())
    weighter.loss_weights.numpy()


# ——— the package ———


def test_import_needs_torch_and_nothing_else():
    """And works without jaxtyping: a training step with every annotation evaluated."""
    code = """
import sys
import torch
allowed = {name.split(".")[0] for name in sys.modules} | sys.stdlib_module_names | {"gradnorm"}  # torch's own affair
class Wall:
    def find_spec(self, name, *_):
        if name.split(".")[0] not in allowed:
            raise ImportError(f"{name} is walled off")
sys.meta_path.insert(0, Wall())
for name in ("jaxtyping", "accelerate"):
    sys.modules.pop(name, None)
    try:
        __import__(name)
    except ImportError:
        continue
    raise SystemExit(f"the wall has a hole: {name}")
import typing
import gradnorm, gradnorm.toy
typing.get_type_hints(gradnorm.Weighing), typing.get_type_hints(gradnorm.algorithm.gradnorm_targets)
network = gradnorm.MockNetworkWithMultipleLosses(8, 3)
weighter = gradnorm.GradNormLossWeighter(num_losses=3, grad_norm_parameters=network.backbone_parameter)
assert len(weighter(network(torch.randn(4, 8))).norms) == 3
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_mock():
    network = MockNetworkWithMultipleLosses(DIM, num_losses=4)
    assert network.backbone_parameter is network.backbone[-1].weight
    losses, shared = network(torch.randn(2, DIM), return_backbone_outputs=True)
    assert [loss.shape for loss in losses] == [()] * 4
    assert all(loss > 0 for loss in losses)
    assert shared.shape == (2, DIM)
