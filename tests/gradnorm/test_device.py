"""On an accelerator that is pretended (tests/pretend) everything computes what it
does on the CPU, and a step of the weighter waits for nothing.
"""

import copy
import warnings
from functools import partial
from itertools import count

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._pytree import tree_leaves

import gradnorm
from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses
from gradnorm.checkpoint import checkpoint, checkpoint_sequential
from gradnorm.losses import LateFlags
from gradnorm.meta import (
    Sinusoids,
    losses_after_adapting,
    sinusoid_network,
    sinusoids,
    squared_error,
)
from tests.pretend import pretended

DIM, TASKS = 8, 3
CPU = torch.device("cpu")


def compare(found, expected):
    for ours, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        ours = ours.detach().cpu() if isinstance(ours, torch.Tensor) else ours
        theirs = theirs.detach() if isinstance(theirs, torch.Tensor) else theirs
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)


def twice(function):
    """What the function makes on the device is what it makes on the CPU, for the same
    draws, and it is on the device.

    Args:
        function: takes a device, and the counts where there are some.

    Returns:
        what was counted on the device.
    """
    torch.manual_seed(7)
    expected = function(CPU, None)
    with pretended() as (device, counts):
        torch.manual_seed(7)
        found = function(device, counts)
        done = copy.deepcopy(counts)
        tensors = [x for x in tree_leaves(found) if isinstance(x, torch.Tensor)]
        assert tensors
        assert {x.device for x in tensors} == {device}
        compare(found, expected)
    return done


# Where a step measures, and how its losses come to the weighter.
def on_parameters(network, weighter, x):
    return weighter(network(x))


def on_activations(network, weighter, x):
    losses, shared = network(x, return_backbone_outputs=True)
    return weighter(losses, activations=shared)


def on_shares(network, weighter, x):
    views = weighter.share(network.backbone(x))
    return weighter([head(view).square().mean()
                     for head, view in zip(network.heads, views, strict=True)])


def in_parts(network, weighter, x):
    """Two micro-batches."""
    first, second = x.chunk(2)
    weighter(network(first), grad_step=False, scale=0.5)
    return weighter(network(second), grad_step=True, scale=0.5)


def by_hand(network, weighter, x):
    total = weighter.weigh(network(x))
    total.backward()
    return weighter.update()


WAYS = [on_parameters, on_activations, on_shares, in_parts, by_hand]
SETTINGS = {
    "plain": {}, "adam": {"optimizer": "adam"}, "decay": {"initial_losses_decay": 0.9},
    "every second": {"update_every": 2}, "mask": {"loss_mask": [True, False, True]},
    "frozen": {"frozen": True}}


def train(device, counts, way, settings, waited=None):
    """Four steps: their results, the weights, the network. What is counted is the last.

    Args:
        waited: a list of how often each step waited, to be added to.
    """
    torch.manual_seed(0)
    network = MockNetworkWithMultipleLosses(DIM, TASKS)
    batches = [torch.randn(4, DIM).to(device) for _ in range(4)]
    network.to(device)
    weighter = GradNormLossWeighter(
        num_losses=TASKS, learning_rate=0.1, restoring_force_alpha=0.5,
        grad_norm_parameters=network.backbone_parameter, **settings)
    adam = torch.optim.Adam(network.parameters(), lr=0.01, fused=True)
    results = []
    for x in batches:
        adam.zero_grad()
        if counts is not None:
            counts.clear()
        results.append(way(network, weighter, x))
        adam.step()
        if waited is not None:
            waited.append(counts.waits.total())
    return (results, list(weighter.buffers()), list(network.parameters()),
            [p.grad for p in network.parameters()])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", SETTINGS)
def test_steps_of_the_weighter(way, name):
    """No step waits, the first one neither: not to see that the losses are finite, nor
    what step it is, nor whether every initial loss is known.
    """
    waited = []
    done = twice(lambda device, counts: train(device, counts, way, SETTINGS[name],
                                              waited if counts else None))
    assert waited == [0, 0, 0, 0]
    assert not done.on_cpu


@pytest.mark.parametrize("name", ["plain", "adam", "mask"])
def test_a_bad_loss_is_left_out_on_the_device(name):
    """Without a wait; what the CPU computes, which knows at once that it is bad."""
    steps = count(1)

    def way(network, weighter, x):
        losses, step = network(x), next(steps) % 4
        if step in (2, 3):
            losses[0] = losses[0] * (float("nan") if step == 2 else 1e38) * 1e38
        return weighter(losses)

    waited = []

    def run(device, counts):
        results, *state = train(device, counts, way, SETTINGS[name],
                                waited if counts else None)
        norms = [[value.nan_to_num(-1.0) for value in result.norms.values()]
                 for result in results]
        return norms, state[0]

    with pytest.warns(RuntimeWarning, match="leaves the weights of 0 as they are"):
        twice(run)
    assert waited == [0, 0, 0, 0]


def test_who_wants_bad_losses_refused_waits_for_them():
    settings, waited = {"on_bad_loss": "raise"}, []
    with pretended() as (device, counts):
        train(device, counts, on_parameters, settings, waited)
    assert waited == [1, 1, 1, 1]


class Slow(LateFlags):
    """A host that hears of what a device did when the device has done two more things."""

    def __init__(self, count):
        super().__init__(count)
        self.on_the_way = [self.heard.clone(), self.heard.clone()]

    def follow(self, flags):
        self.on_the_way.append(flags.cpu())
        return super().follow(self.on_the_way.pop(0))


def test_news_may_come_late(monkeypatch):
    """The weights are the same, and the warning comes two updates later."""
    ends = []
    for flags in (LateFlags, Slow):
        monkeypatch.setattr("gradnorm.weighter.LateFlags", flags)
        monkeypatch.setattr("gradnorm.losses.LateFlags", flags)
        w = nn.Parameter(torch.zeros(1))
        weighter = GradNormLossWeighter(num_losses=3, learning_rate=0.1,
                                        grad_norm_parameters=w)
        if flags is Slow:  # as on a device: the CPU sees at once that all is well
            monkeypatch.setattr("gradnorm.losses.known_at_once", lambda flags: False)
        warned = []
        for step in range(5):
            bad = float("nan") if step == 1 else 1.0
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                weighter([4 * w.sum() + 1, 2 * w.sum() + bad, w.sum() + 1])
            warned.append(len(caught))
        ends.append((weighter.loss_weights, weighter.initial_losses, warned))
    (at_once, known, when), (late, known_late, when_late) = ends
    torch.testing.assert_close(late, at_once)
    torch.testing.assert_close(known_late, known)
    assert (when, when_late) == ([0, 1, 0, 0, 0], [0, 0, 0, 1, 0])


# A step moves small things to the device, which CUDA waits for: for Adam, its decays
# (algorithm.py); at views under a mask, the places of the losses that it leaves.
UPLOADS = [*((way, "plain", 0) for way in WAYS), (on_parameters, "adam", 1),
           (on_parameters, "mask", 0), (on_shares, "mask", 1)]


@pytest.mark.parametrize(("way", "name", "uploads"), UPLOADS)
def test_what_a_step_moves_to_the_device(way, name, uploads):
    """No more than that; who takes one away lowers the number."""
    with pretended() as (device, counts):
        train(device, counts, way, SETTINGS[name])
        assert counts.uploads.total() == uploads


@pytest.mark.parametrize("name", ["plain", "adam"])
def test_the_weighter_follows_its_losses_to_their_device(name):
    """Built on the CPU, called with losses on the device."""
    with pretended() as (device, _):
        network = MockNetworkWithMultipleLosses(DIM, TASKS).to(device)
        weighter = GradNormLossWeighter(num_losses=TASKS, **SETTINGS[name])
        losses, shared = network(torch.randn(4, DIM).to(device), True)
        weighter(losses, activations=shared)
        assert {buffer.device for buffer in weighter.buffers()} == {device}


@pytest.mark.parametrize("tasks", [2, 3, 12])  # each has a solver of its own
@pytest.mark.parametrize("max_norm", [None, 0.1])
def test_a_common_descent(tasks, max_norm):
    def run(device, _):
        torch.manual_seed(0)
        network = MockNetworkWithMultipleLosses(DIM, tasks)
        x = torch.randn(4, DIM)
        losses = network.to(device)(x.to(device))
        return gradnorm.common_descent(losses, network.backbone, max_norm=max_norm)

    done = twice(run)
    assert done.waits["_local_scalar_dense"] == tasks * 6  # each piece must be finite


def test_the_shortest_vector_is_sought_on_the_cpu():
    gradients = torch.randn(3, 5)
    expected = gradnorm.min_norm_point(gradients @ gradients.T)
    with pretended() as (device, counts):
        there = gradients.to(device)
        gram = there @ there.T
        counts.clear()
        found = gradnorm.min_norm_point(gram)
        assert counts.waits == {"_to_copy": 1}
    assert torch.equal(found.weights, expected.weights)
    assert found[1:] == expected[1:]


def layers():
    return nn.Sequential(
        nn.Embedding(5, 8), nn.Linear(8, 8), nn.LayerNorm(8),
        nn.Unflatten(1, (2, 2, 2)), nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4),
        nn.Flatten(), nn.Linear(16, 3))


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("engine", ["hooks", "vmap", "loop", "auto"])
@pytest.mark.parametrize("function", ["per_sample_gradients", "per_sample_norms"])
def test_gradients_of_every_sample(function, engine, reduction):
    """But by ExpandedWeights, which cannot hold a tensor of a class of its own."""
    def run(device, counts):
        torch.manual_seed(0)
        module, words = layers().to(device), torch.randint(5, (4,)).to(device)
        targets = torch.tensor([0, 2, 1, 1]).to(device)
        if counts is not None:
            counts.clear()
        return getattr(gradnorm, function)(
            module, words, partial(F.cross_entropy, reduction=reduction),
            targets=targets, engine=engine, loss_reduction=reduction)

    done = twice(run)
    # Hooks look whether the loss joins its samples as is said.
    assert done.elsewhere.total() == done.waits.total() == (engine in ("hooks", "auto"))


def segment():
    return nn.Sequential(nn.Linear(DIM, DIM), nn.Tanh(), nn.Dropout(0.5),
                         nn.Linear(DIM, DIM), nn.Softplus())


@pytest.mark.parametrize("again", [
    checkpoint, lambda layers, x: checkpoint_sequential(layers, 2, x)])
def test_a_checkpoint(again):
    """First and second derivatives, with the same masks of dropout, and no waiting."""
    def run(device, counts):
        torch.manual_seed(0)
        module, x = segment(), torch.randn(4, DIM)
        module, x = module.to(device), x.to(device).detach().requires_grad_()
        if counts is not None:
            counts.clear()
        value = again(module, x)
        slope, = torch.autograd.grad(value.square().sum(), x, create_graph=True)
        slope.square().sum().backward()
        return value, slope, x.grad, [p.grad for p in module.parameters()]

    done = twice(run)
    assert not done.elsewhere


def test_a_checkpoint_under_autocast():
    """Has the gradients of the plain call."""
    with pretended() as (device, _):
        module, x = nn.Linear(DIM, DIM).to(device), torch.randn(4, DIM, device=device)
        found = []
        for call in (lambda module, x: module(x), checkpoint):
            module.zero_grad()
            with torch.autocast(device.type, torch.bfloat16):
                value = call(module, x)
            value.float().exp().sum().backward()
            found.append(module.weight.grad.cpu())
        assert torch.equal(*found)


@pytest.mark.parametrize("first_order", [False, True])
def test_gradients_through_an_update(first_order):
    def run(device, counts):
        torch.manual_seed(0)
        network, batch = sinusoid_network(), sinusoids(3)
        network, batch = network.to(device), [x.to(device) for x in batch]
        if counts is not None:
            counts.clear()
        x, y, x_query, y_query = (points[0] for points in batch)
        adapted = gradnorm.adapt(lambda p: squared_error(network, p, x, y),
                                 dict(network.named_parameters()), 0.01, 2, first_order)
        squared_error(network, adapted, x_query, y_query).backward()
        each = losses_after_adapting(network, Sinusoids(*batch), 0.01, 2, first_order)
        each.sum().backward()
        return adapted, each, [p.grad for p in network.parameters()]

    done = twice(run)
    assert not done.elsewhere
