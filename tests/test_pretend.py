"""The pretended accelerator: it computes what the CPU does, refuses what CUDA refuses,
counts what there is to count, and leaves nothing behind.
"""

import copy
import operator
import warnings

import pytest
import torch
from torch import nn
from torch.func import grad, vmap
from torch.utils._python_dispatch import _len_torch_dispatch_stack

from tests.pretend import pretended


@pytest.fixture
def on():
    """The device and its counts."""
    with pretended() as found:
        yield found


def small_network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Softplus(), nn.Flatten(),
                         nn.Linear(16, 2), nn.LayerNorm(2), nn.Softplus())


def in_place(x):
    """A view that is written to, and an operation that is told where to write."""
    x = x.clone()
    x[1:, 0] += 1
    x.select(1, 2).mul_(3)
    x[x < 0] = 0
    torch.add(x, 1, out=x)
    return x


OPERATIONS = {
    "sums": lambda x: (x.sum(), x.mean(0), x.std(1), x.cumsum(1), x.max(dim=0)),
    "matrices": lambda x: (x @ x.T, torch.linalg.svd(x), torch.einsum("ij,kj", x, x)),
    "views": lambda x: (x[1:, ::2], x.T.reshape(-1),
                        x.unfold(1, 2, 1), x[None].expand(2, 4, 5)),
    "joining": lambda x: (torch.cat([x, x]), torch.stack([x, x], 1), x.repeat(2, 1)),
    "indices": lambda x: (x[[1, 0]], x[:, torch.tensor([1, 2])], x[x > 0], x.argsort()),
    "in place": in_place,
    "numbers of the CPU": lambda x: (x + torch.tensor(2.0), torch.where(x > 0, x, 1.0)),
    "made there": lambda x: (torch.arange(3, device=x.device), x.new_tensor([1.0, 2.0]),
                             torch.eye(2, device=x.device), torch.tensor([[3]]).to(x)),
    "types": lambda x: (x.double(), x.bfloat16() * 2, x.long(), x.to(torch.float16)),
    "layout": lambda x: x[None, None].contiguous(memory_format=torch.channels_last) * 2,
    "drawn": lambda x: (torch.randn_like(x), torch.rand(3, device=x.device),
                        torch.randint(9, (4,), device=x.device), x.clone().normal_()),
    "vmap": lambda x: vmap(grad(lambda row: (row**3).sum()))(x),
    "lists of tensors": lambda x: torch._foreach_mul([x, x + 1], 2.0),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_numbers_are_those_of_the_cpu(name, on):
    device, _ = on
    torch.manual_seed(1)
    x = torch.randn(4, 5)
    found = {}
    for where in ("cpu", device):
        torch.manual_seed(2)
        found[where] = torch.utils._pytree.tree_leaves(OPERATIONS[name](x.to(where)))
    for ours, theirs in zip(found[device], found["cpu"], strict=True):
        assert ours.device == device
        assert ours.stride() == theirs.stride()
        assert torch.equal(ours.cpu(), theirs)


def test_derivatives_are_those_of_the_cpu(on):
    """By `backward`, and of second order."""
    device, _ = on
    network, x = small_network(), torch.randn(2, 3, 4, 4)
    found = {}
    for where in ("cpu", device):
        there = copy.deepcopy(network).to(where)
        seen = x.to(where).detach().requires_grad_()
        total = there(seen).square().sum()
        slope, = torch.autograd.grad(total, seen, create_graph=True)
        slope.square().sum().backward()
        found[where] = [seen.grad, slope, *(p.grad for p in there.parameters())]
    for ours, theirs in zip(found[device], found["cpu"], strict=True):
        assert (ours is None) == (theirs is None)
        if theirs is not None:
            assert ours.device == device
            assert torch.equal(ours.cpu(), theirs)


@pytest.mark.parametrize("fused", [True, False])
def test_adam_takes_the_steps_of_the_cpu(fused, on):
    device, counts = on
    network, x = small_network(), torch.randn(2, 3, 4, 4)
    found = {}
    for where in ("cpu", device):
        there = copy.deepcopy(network).to(where)
        adam = torch.optim.Adam(there.parameters(), lr=0.1, fused=fused)
        for _ in range(3):
            adam.zero_grad()
            there(x.to(where)).square().sum().backward()
            counts.clear()
            adam.step()
        found[where] = list(there.parameters())
    assert counts.launches["_fused_adam_"] == fused  # the device came last
    assert not counts.elsewhere
    assert all(torch.equal(ours.cpu(), theirs)
               for ours, theirs in zip(found[device], found["cpu"], strict=True))


def test_modules_move_and_change_type(on):
    device, _ = on
    network = small_network()
    weight = network.to(device)[0].weight
    assert network.to(device)[0].weight is weight
    assert weight.device == device
    network.double()
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64, device=device)
    assert network(x).dtype == torch.float64
    assert copy.deepcopy(network)[0].weight.device == device
    assert type(network.cpu()[0].weight) is nn.Parameter


def test_what_is_changed_in_place_stays_the_tensor_that_it_was(on):
    device, _ = on
    x = torch.zeros(3, device=device)
    row = x[1:]
    assert x.add_(1) is x
    assert torch.mul(x, 2, out=x) is x
    row.zero_()
    assert x.tolist() == [2, 0, 0]
    leaf = torch.ones(3, device=device, requires_grad=True)
    y = leaf * 1
    y[0] = 5  # autograd puts the gradient of a view together anew
    y.sum().backward()
    assert leaf.grad.tolist() == [0, 1, 1]


def test_a_shape_changes_in_place(on):
    device, _ = on
    x = torch.arange(6, device=device).view(2, 3)
    turned = x.detach()
    turned.t_()
    turned.unsqueeze_(0)
    assert turned.shape == (1, 3, 2)
    x.zero_()
    assert turned.tolist() == [[[0, 0]] * 3]


def test_it_refuses_to_mix_devices(on):
    device, _ = on
    x, y = torch.ones(2, device=device), torch.ones(2)
    for mix in (lambda: x + y, lambda: y + x, lambda: torch.cat([x, y]),
                lambda: y.add_(x), lambda: x.mul_(y), lambda: y[x.long()],
                lambda: torch.where(x > 0, x, y), lambda: nn.Linear(2, 2)(x),
                lambda: torch.stack([x[0], torch.tensor(1.0)]),
                lambda: torch.tensor(1.0).add_(x[0]),
                lambda: torch._foreach_add_([x], [y])):
        with pytest.raises(RuntimeError, match="same device"):
            mix()


def test_it_refuses_a_generator_of_the_cpu(on):
    device, _ = on
    generator = torch.Generator().manual_seed(0)
    x = torch.ones(2, device=device)
    for draw in (lambda: torch.randn(2, device=device, generator=generator),
                 lambda: torch.rand(2, device=device, generator=generator),
                 lambda: x.normal_(generator=generator),
                 lambda: torch.multinomial(x, 1, generator=generator)):
        with pytest.raises(RuntimeError, match="generator"):
            draw()


def test_it_refuses_to_be_an_array(on):
    device, _ = on
    with pytest.raises((RuntimeError, TypeError), match="numpy"):
        torch.ones(2, device=device).numpy()


# What is counted of x [3, 4] on the device and y, the same on the CPU.
COUNTED = {
    "a view": (lambda x, y: x.T[1:].reshape(-1, 3).detach(), {}),
    "an allocation": (lambda x, y: x.new_empty(3), {}),
    "sum and product": (lambda x, y: (x * 2).sum(), {"launches": 2}),
    "in place": (lambda x, y: x.add_(1), {"launches": 1}),
    "a list at once": (lambda x, y: torch._foreach_mul_([x, x], 2), {"launches": 1}),
    "made there": (lambda x, y: torch.zeros(3, device=x.device), {"launches": 1}),
    "another type": (lambda x, y: x.double(), {"launches": 1}),
    "a number": (lambda x, y: float(x[0, 0]), {"waits": 1}),
    "a truth": (lambda x, y: bool((x > 0).all()), {"launches": 2, "waits": 1}),
    "a list": (lambda x, y: x.tolist(), {"waits": 1}),
    "places": (lambda x, y: x.nonzero(), {"launches": 1, "waits": 1}),
    "a comparison": (lambda x, y: torch.equal(x, x + 1), {"launches": 2, "waits": 1}),
    "a mask": (lambda x, y: x[x > 0], {"launches": 2, "waits": 1}),
    "a mask to write by": (lambda x, y: operator.setitem(x, x > 0, 0), {"launches": 3}),
    "to the CPU": (lambda x, y: x.cpu(), {"waits": 1}),
    "into the CPU's": (lambda x, y: y.copy_(x), {"waits": 1}),
    "to the CPU later": (lambda x, y: x.to("cpu", non_blocking=True), {}),
    "from the CPU": (lambda x, y: y.to(x.device), {"uploads": 1}),
    "from the CPU, into": (lambda x, y: x.copy_(y), {"uploads": 1}),
    "from a list": (lambda x, y: torch.tensor([1.0], device=x.device), {"uploads": 1}),
    "a list for an index": (lambda x, y: x[[0, 2]], {"launches": 1, "uploads": 1}),
    "the CPU's index": (lambda x, y: x[torch.tensor([0])],
                        {"launches": 1, "uploads": 1}),
    "on the CPU": (lambda x, y: (y * 2).sum(), {"on_cpu": 2}),
    "views on the CPU": (lambda x, y: y[1:].T, {}),
    "a number on the CPU": (lambda x, y: torch.tensor(1.0) + 2, {}),
}


@pytest.mark.parametrize("name", COUNTED)
def test_counts(name, on):
    device, counts = on
    function, expected = COUNTED[name]
    y = torch.randn(3, 4)
    x = y.to(device)
    counts.clear()
    function(x, y)
    found = {kind: getattr(counts, kind).total()
             for kind in ("launches", "waits", "uploads", "on_cpu")}
    assert {kind: number for kind, number in found.items() if number} == expected


def test_a_backward_pass_is_counted(on):
    """Of Σ (2x)²: doubling, squaring, summing; 1, 2·(2x) from the square, and the 2."""
    device, counts = on
    x = torch.ones(3, device=device, requires_grad=True)
    counts.clear()
    (2 * x).square().sum().backward()
    assert counts.launches == {"mul": 4, "pow": 2, "sum": 1, "ones_like": 1}
    assert not counts.elsewhere


def test_autocast(on):
    device, _ = on
    layer, x = nn.Linear(3, 2).to(device), torch.randn(4, 3, device=device)
    with torch.autocast(device.type, dtype=torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
        assert (x + 1).dtype == torch.float32
        with torch.autocast(device.type, enabled=False):
            assert layer(x).dtype == torch.float32
    assert layer(x).dtype == torch.float32


def test_nothing_is_left_switched_on():
    threads = torch.autograd.is_multithreading_enabled()
    methods = dict(vars(torch.Tensor))
    for _ in range(2):
        with pretended() as (device, counts):
            outlived = torch.ones(2, device=device)
        counts.clear()
        assert (torch.ones(3, requires_grad=True) * 2).sum().item() == 6
        assert not counts.launches + counts.elsewhere
        assert _len_torch_dispatch_stack() == 0
        assert torch.autograd.is_multithreading_enabled() == threads
        assert not torch.accelerator.is_available()
        assert dict(vars(torch.Tensor)).items() >= methods.items()
        with pytest.raises(NotImplementedError):
            torch.ones(2, device="pretend")
        with pytest.raises(RuntimeError, match="gone"):
            outlived + 1
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.manual_seed(0)  # asks every kind of device


def test_it_goes_when_something_fails():
    with pytest.raises(ZeroDivisionError), pretended():
        1 / 0  # noqa: B018
    with pretended() as (device, _):
        assert torch.ones(2, device=device).tolist() == [1, 1]


def test_a_backward_pass_on_the_cpu_may_have_been_the_first():
    """torch starts its threads then, for the devices that it knows."""
    torch.ones(2, requires_grad=True).sum().backward()
    with pretended() as (device, _):
        x = torch.ones(2, device=device, requires_grad=True)
        x.sum().backward()
        assert x.grad.tolist() == [1, 1]
