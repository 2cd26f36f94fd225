"""GradNormLossWeighter in a training loop: what the network gets, what a call returns, what it takes."""

import collections
import copy

import pytest
import torch
from torch import nn

from gradnorm import GradNormLossWeighter, Weighing

DIM = 8


# ——— the network's gradients ———


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("scale", [1.0, 1024.0, 0.3])
def test_network_gets_the_gradients_of_the_weighted_sum_bit_for_bit(alpha, scale, make, batches, gradients):
    network, weighter = make(restoring_force_alpha=alpha)
    for x in batches(10):
        w = weighter.loss_weights.clone()
        network.zero_grad()
        (sum(wi * loss for wi, loss in zip(w, network(x), strict=True)) * scale).backward()
        expected = gradients(network)
        network.zero_grad()
        weighter.backward(network(x), scale=scale)
        assert all(torch.equal(a, b) for a, b in zip(gradients(network), expected, strict=True))
        assert not torch.equal(w, weighter.loss_weights)


def test_one_backward_pass_through_the_network(make, batches):
    """Each parameter's gradient is accumulated once in a call, however many tasks there are."""
    network, weighter = make(tasks=4)
    counts = collections.Counter()
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: counts.update([name]))
    weighter(network(batches(1)[0]))
    assert set(counts.values()) == {1}


def test_backward_kwargs_reach_backward(make, batches):
    network, weighter = make()
    losses = network(batches(1)[0])
    weighter(losses, retain_graph=True)
    weighter(losses)
    with pytest.raises(RuntimeError, match="second time"):
        weighter(losses)


def test_accelerator_runs_the_backward_pass(make, batches):
    class Accelerator:
        seen = ()

        def backward(self, loss, **kwargs):
            self.seen = (float(loss.detach()), kwargs)
            loss.backward(**kwargs)

    accelerator = Accelerator()
    network, weighter = make(accelerator=accelerator)
    result = weighter(network(batches(1)[0]), scale=2.0, retain_graph=True)
    assert accelerator.seen == (2 * float(result.total), {"retain_graph": True})
    assert network.backbone_parameter.grad is not None


# ——— what a call returns ———


def test_every_call_returns_the_same_thing(make, batches):
    network, weighter = make(loss_names=["a", "b", "c"], update_every=2)
    results = []
    for freeze in (False, False, True):
        losses = network(batches(1)[0])
        w = weighter.loss_weights.clone()
        result = weighter(losses, freeze=freeze)
        results.append(result)
        assert isinstance(result, Weighing)
        torch.testing.assert_close(result.total, (w * torch.stack(losses)).sum().detach())
        assert torch.equal(torch.stack(list(result.weights.values())), w)
        measured = [result.total, *result.weights.values(), *result.norms.values(), *result.targets.values()]
        assert not any(tensor.requires_grad for tensor in measured)
    assert [list(r.norms) for r in results] == [["a", "b", "c"], [], []]
    assert all(list(r.targets) == list(r.norms) and list(r.weights) == ["a", "b", "c"] for r in results)


# ——— forms of losses ———

Fields = collections.namedtuple("Fields", "a b c")
FORMS = {
    "list": lambda x: list(x),
    "tuple": tuple,
    "dict": lambda x: dict(zip("abc", x, strict=True)),
    "dict in another order": lambda x: dict(reversed(list(zip("abc", x, strict=True)))),
    "named tuple": lambda x: Fields(*x),
    "named tuple in another order": lambda x: collections.namedtuple("Other", "c b a")(*reversed(x)),
    "1-D tensor": torch.stack,
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_losses_gives_the_same(form, make, batches, gradients):
    outcomes = []
    for make_form in (FORMS["list"], FORMS[form]):
        network, weighter = make(loss_names=("a", "b", "c"))
        for x in batches(4):
            result = weighter(make_form(network(x)))
        outcomes.append([*gradients(network), weighter.loss_weights, *result.norms.values(), result.total])
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_named_tuple_without_names_is_read_by_position(make, batches):
    network, weighter = make()
    assert list(weighter(Fields(*network(batches(1)[0]))).weights) == ["0", "1", "2"]


# ——— initial weights ———


def test_weights_given_by_position():
    assert GradNormLossWeighter([1.0, 3.0]).loss_weights.tolist() == [0.5, 1.5]
    assert GradNormLossWeighter(torch.tensor([2, 2, 2])).loss_weights.tolist() == [1, 1, 1]


@pytest.mark.parametrize("names", [None, ["b", "a"]])
def test_weights_given_by_name(names):
    weighter = GradNormLossWeighter({"a": 1.0, "b": 3.0}, loss_names=names)
    assert dict(zip(weighter.loss_names, weighter.loss_weights.tolist(), strict=True)) == {"a": 0.5, "b": 1.5}


def test_frozen_weights_are_used_as_given(make, batches):
    network, weighter = make(loss_weights=[1.0, 10.0, 5.0], frozen=True)
    losses = network(batches(1)[0])
    expected = losses[0] + 10 * losses[1] + 5 * losses[2]
    torch.testing.assert_close(weighter(losses).total, expected.detach())
    assert weighter.loss_weights.tolist() == [1, 10, 5]


def test_weights_that_were_frozen_go_on_from_their_proportions(make, batches):
    network, weighter = make(loss_weights=[1.0, 2.0, 5.0], frozen=True, learning_rate=0.0)
    weighter.frozen = False
    weighter(network(batches(1)[0]))
    torch.testing.assert_close(weighter.loss_weights, torch.tensor([3 / 8, 6 / 8, 15 / 8]))


# ——— when nothing is measured ———


@pytest.mark.parametrize("how", ["frozen", "freeze", "eval"])
def test_frozen_only_weighs(how, monkeypatch, make, batches):
    network, weighter = make(frozen=how == "frozen")
    if how == "eval":
        weighter.eval()
    before = copy.deepcopy(weighter.state_dict())
    monkeypatch.setattr(torch.autograd, "grad", lambda *_, **__: pytest.fail("measured gradients"))
    losses = network(batches(1)[0])
    weighter(losses, freeze=how == "freeze")
    assert all(torch.equal(value, before[key]) for key, value in weighter.state_dict().items())
    assert network.backbone_parameter.grad is not None
    with pytest.raises(RuntimeError, match="second time"):  # the graph is not kept
        losses[0].backward()


def test_schedule(monkeypatch, make, batches):
    """From step 3 on, every second step."""
    network, weighter = make(update_after_step=3, update_every=2)
    seen = [bool(weighter(network(x)).norms) for x in batches(8)]
    assert seen == [False, False, False, True, False, True, False, True]


def test_initial_losses_are_those_of_the_first_call_even_if_updates_begin_later(make, batches, train):
    network, weighter = make(update_after_step=2)
    x = batches(1)[0]
    first = torch.stack(network(x)).detach()
    train(network, weighter, [x] * 4)
    assert torch.equal(weighter.initial_losses, first)
    assert not torch.allclose(first, torch.stack(network(x)))


def test_initial_losses_that_follow(make, batches):
    network, weighter = make(initial_losses_decay=0.75)
    expected = None
    for x in batches(5):
        losses = network(x)
        values = torch.stack(losses).detach()
        expected = values if expected is None else 0.75 * expected + 0.25 * values
        weighter(losses)
    torch.testing.assert_close(weighter.initial_losses, expected)


@pytest.mark.parametrize("given", [{"class": 2.3}, [0.7, 2.3, 5.0]])
def test_initial_losses_given(make, batches, given):
    """log C for a cross-entropy, say; what is not given is measured."""
    network, weighter = make(loss_names=["depth", "class", "normal"], initial_losses=given)
    losses = network(batches(1)[0])
    weighter(losses)
    first = torch.stack(losses).detach()
    expected = torch.tensor([first[0], 2.3, first[2]] if isinstance(given, dict) else given)
    torch.testing.assert_close(weighter.initial_losses, expected, rtol=0, atol=0)


def test_initial_losses_written_into_the_buffer(make, batches):
    network, weighter = make()
    weighter.initial_losses.fill_(2.3)
    weighter.initted.fill_(True)
    weighter(network(batches(1)[0]))
    assert torch.equal(weighter.initial_losses, torch.full((3,), 2.3))


# ——— masks ———


@pytest.mark.parametrize("per_call", [False, True])
def test_mask_balances_only_what_is_in_it(per_call, make, batches):
    """With a mask the balanced losses behave as if the others did not exist; the others keep their weights exactly."""
    mask = [True, False, True]
    network, weighter = make(**({} if per_call else {"loss_mask": mask}))
    alone = GradNormLossWeighter(
        num_losses=2, learning_rate=0.1, restoring_force_alpha=0.5, grad_norm_parameters=network.backbone_parameter
    )
    for x in batches(5):
        losses = network(x)
        expected = alone([losses[0], losses[2]], retain_graph=True)
        result = weighter(losses, loss_mask=mask if per_call else None)
        torch.testing.assert_close(list(result.norms.values()), list(expected.norms.values()))
        torch.testing.assert_close(list(result.targets.values()), list(expected.targets.values()))
        assert list(result.norms) == ["0", "2"]
    torch.testing.assert_close(weighter.loss_weights[[0, 2]], alone.loss_weights)
    assert weighter.loss_weights[1] == 1
    assert float(weighter.loss_weights.sum()) == pytest.approx(3)


def test_mask_by_name(make, batches):
    """The order of its entries does not matter."""
    network, weighter = make(loss_names=["a", "b", "c"])
    losses = dict(zip("abc", network(batches(1)[0]), strict=True))
    assert list(weighter(losses, loss_mask={"c": True, "a": False, "b": True}).norms) == ["b", "c"]


def test_a_masked_loss_need_not_touch_the_shared_parameter(make, batches):
    network, weighter = make()
    own = nn.Parameter(torch.ones(()))
    losses = [*network(batches(1)[0])[:2], own.square()]
    weighter(losses, loss_mask=torch.tensor([True, True, False]))
    assert own.grad == 2
