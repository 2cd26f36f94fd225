"""Micro-batches, loss scales, and loops that own the backward pass."""

import itertools

import pytest
import torch
from torch import nn

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses

DIM = 8
PLACES = ("parameter", "activations", "share")


class Problem:
    """A float64 network with heads on a feature, and a weighter that measures in one of the places."""

    def __init__(self, place, seed=0, **settings):
        torch.manual_seed(seed)
        self.place = place
        self.network = MockNetworkWithMultipleLosses(DIM, 3).double()
        where = {"grad_norm_parameters": self.network.backbone_parameter} if place == "parameter" else {}
        settings = {"num_losses": 3, "learning_rate": 0.1, "restoring_force_alpha": 0.5, **where, **settings}
        self.weighter = GradNormLossWeighter(**settings).double()
        self.optimizer = torch.optim.SGD(self.network.parameters(), lr=0.05)

    def losses(self, x):
        shared = self.network.backbone(x)
        views = self.weighter.share(shared) if self.place == "share" else [shared] * 3
        losses = [head(z).square().mean() for head, z in zip(self.network.heads, views, strict=True)]
        return losses, {"activations": shared if self.place == "activations" else None}

    def step(self, x, parts=1):
        """One step of the network and the weights, on a batch or on its parts."""
        self.optimizer.zero_grad()
        for i, part in enumerate(x.chunk(parts)):
            losses, where = self.losses(part)
            result = self.weighter(losses, **where, scale=1 / parts, grad_step=i == parts - 1)
        self.optimizer.step()
        return result


def data(steps, batch=12):
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(batch, DIM, generator=generator, dtype=torch.float64) for _ in range(steps)]


@pytest.mark.parametrize("update_every", [1, 3])
@pytest.mark.parametrize("optimizer", ["plain", "adam"])
@pytest.mark.parametrize("place", PLACES)
def test_micro_batches_equal_the_large_batch(place, optimizer, update_every):
    """Weights, norms, targets, L(0) and the network itself, over eight steps."""
    settings = {"optimizer": optimizer, "update_every": update_every, "update_after_step": 1}
    whole, parts = (Problem(place, **settings) for _ in range(2))
    for x in data(8):
        for a, b in zip(whole.step(x)[2:], parts.step(x, parts=4)[2:], strict=True):
            assert list(a) == list(b)
            torch.testing.assert_close(list(a.values()), list(b.values()), rtol=1e-10, atol=0)
    for key, value in whole.weighter.state_dict().items():
        torch.testing.assert_close(value, parts.weighter.state_dict()[key], rtol=1e-10, atol=0)
    for a, b in zip(whole.network.parameters(), parts.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-14)
    assert (whole.weighter.loss_weights - 1).abs().max() > 0.01, "the weights hardly moved: nothing was compared"


def test_the_mean_of_the_parts_slopes_would_not_do():
    """On these micro-batches the joined gradient is shorter than the parts' on average."""
    problem, x = Problem("parameter"), data(1)[0]
    shared = problem.network.backbone_parameter

    def lengths(batch):
        return torch.stack([torch.autograd.grad(loss, shared, retain_graph=True)[0].norm()
                            for loss in problem.losses(batch)[0]])  # fmt: skip

    whole, parts = lengths(x), torch.stack([lengths(part) for part in x.chunk(4)]).mean(dim=0)
    assert (parts / whole).min() > 1.03
    torch.testing.assert_close(torch.stack(list(problem.step(x, parts=4).norms.values())), whole)


def test_accumulation_with_update_every(make, batches):
    """update_every counts accumulations; the last call of a due one says what the whole measured."""
    network, weighter = make(update_every=2)
    seen = []
    for i, x in enumerate(batches(8)):
        seen.append(bool(weighter.backward(network(x), grad_step=i % 2 == 1).norms))
    assert seen == [False, True, False, False] * 2
    assert weighter.step == 4


def test_one_mask_for_all_parts_of_a_step(make, batches):
    network, weighter = make()
    x = batches(1)[0]
    weighter(network(x), grad_step=False, loss_mask=[True, True, False])
    with pytest.raises(ValueError, match="the same in all micro-batches of a step, got 1, 2 after 0, 1"):
        weighter(network(x), loss_mask=[False, True, True])


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("scale", [2.0**16, torch.tensor(2.0**-3)])
def test_scale_never_reaches_the_weights(place, scale):
    moved = []
    for factor in (1.0, scale):
        problem = Problem(place)
        for x in data(4):
            losses, where = problem.losses(x)
            problem.weighter(losses, **where, scale=factor)
        moved.append(problem.weighter.loss_weights)
    assert torch.equal(*moved)
    assert (moved[0] - 1).abs().max() > 0.01


@pytest.mark.parametrize("place", PLACES)
def test_float16_gradients_are_measured_under_the_loss_scale(place):
    """Gradients of 1e-9 are 0 in float16. Under a GradScaler's factor they are not, and the weights see them."""
    z = nn.Parameter(torch.ones(4, dtype=torch.float16))
    where = {"grad_norm_parameters": z} if place == "parameter" else {}
    weighter = GradNormLossWeighter(num_losses=2, learning_rate=1e8, **where)
    shared = z * 1
    views = weighter.share(shared) if place == "share" else [z if place == "parameter" else shared] * 2
    losses = [factor * (view.float() * 1e-4 * 1e-5).sum() for factor, view in zip((1.0, 3.0), views, strict=True)]
    activations = shared if place == "activations" else None
    result = weighter(losses, activations, scale=2.0**14)
    assert [float(n) for n in result.norms.values()] == pytest.approx([2e-9, 6e-9], rel=0.01)
    assert weighter.loss_weights[0] > 1.2


def test_grad_scaler_on_the_way():
    """A loop that owns scaler and backward: the factor that came back to the total is divided out."""
    weights = []
    for start in (1.0, 2.0**13):
        problem = Problem("share")
        scaler = torch.amp.GradScaler("cpu", init_scale=start)
        for x in data(4):
            problem.optimizer.zero_grad()
            scaler.scale(problem.weighter.weigh(problem.losses(x)[0])).backward()
            problem.weighter.update()
            scaler.step(problem.optimizer)
            scaler.update()
        weights.append(problem.weighter.loss_weights)
    torch.testing.assert_close(*weights, rtol=1e-12, atol=0)
    assert (weights[0] - 1).abs().max() > 0.01


# ——— loops that own the backward pass ———


@pytest.mark.parametrize("place", PLACES)
def test_weigh_and_update_equal_backward(place):
    own, lent = Problem(place), Problem(place)
    for x in data(4):
        expected = own.step(x)
        lent.optimizer.zero_grad()
        losses, where = lent.losses(x)
        total = lent.weighter.weigh(losses, **where)
        assert total.requires_grad
        total.backward()
        result = lent.weighter.update()
        lent.optimizer.step()
        for a, b in zip(itertools.chain(*expected[1:]), itertools.chain(*result[1:]), strict=True):
            assert a == b
        assert torch.equal(result.total, expected.total)
    assert torch.equal(own.weighter.loss_weights, lent.weighter.loss_weights)


@pytest.mark.parametrize("place", PLACES)
def test_a_step_that_was_given_up_is_forgotten(place):
    """A closure that is called twice, a batch that was skipped: what no update followed has no effect."""
    straight, detour = Problem(place), Problem(place)
    for x in data(3):
        straight.step(x)
        losses, where = detour.losses(x * 7)
        detour.weighter.weigh(losses, **where)
        detour.step(x)
    assert torch.equal(straight.weighter.loss_weights, detour.weighter.loss_weights)


def test_lbfgs_closure():
    problem = Problem("share")
    optimizer = torch.optim.LBFGS(problem.network.parameters(), max_iter=5)
    x = data(1)[0]

    def closure():
        optimizer.zero_grad()
        total = problem.weighter.weigh(problem.losses(x)[0])
        total.backward()
        return total

    before = optimizer.step(closure)
    problem.weighter.update()
    assert problem.weighter.step == 1
    assert closure() < before


def test_update_out_of_turn(make, batches):
    network, weighter = make()
    with pytest.raises(RuntimeError, match="weigh the losses and back-propagate the total before it"):
        weighter.update()
    problem = Problem("share")
    problem.weighter.weigh(problem.losses(data(1)[0])[0])
    with pytest.raises(RuntimeError, match=r"call total.backward\(\) before it"):
        problem.weighter.update()
    result = weighter(network(batches(1)[0]))
    assert weighter.update() is result, "nothing new was weighed"
    assert weighter.step == 1


def test_update_in_the_middle_of_an_accumulation(make, batches):
    """Refused, and the step goes on as if nobody had asked."""
    (network, weighter), (twin_network, twin) = make(), make()
    first, last = batches(2)
    weighter.weigh(network(first), grad_step=False)
    with pytest.raises(RuntimeError, match=r"after the last micro-batch, weigh\(..., grad_step=True\)"):
        weighter.update()
    weighter.weigh(network(last))
    weighter.update()
    twin.backward(twin_network(first), grad_step=False)
    twin.backward(twin_network(last))
    assert torch.equal(weighter.loss_weights, twin.loss_weights)
    assert not torch.equal(weighter.loss_weights, torch.ones(3))
