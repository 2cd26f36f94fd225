"""GradNormLossWeighter in a training loop: what it does to the network, and all it is given and keeps."""

import collections
import copy
import io
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses, Weighing

DIM = 8


def make(tasks=3, seed=0, **settings):
    torch.manual_seed(seed)
    network = MockNetworkWithMultipleLosses(DIM, tasks)
    settings = {"learning_rate": 0.1, "restoring_force_alpha": 0.5, **settings}
    if not {"num_losses", "loss_weights", "loss_names"} & set(settings):
        settings["num_losses"] = tasks
    return network, GradNormLossWeighter(grad_norm_parameters=network.backbone_parameter, **settings)


def batches(count, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, DIM, generator=generator) for _ in range(count)]


def gradients(network):
    return [p.grad.clone() for p in network.parameters()]


def train(network, weighter, data):
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
    for x in data:
        optimizer.zero_grad()
        weighter(network(x))
        optimizer.step()


# ——— the network's gradients ———


@pytest.mark.parametrize("alpha", [0.0, 1.5])
@pytest.mark.parametrize("scale", [1.0, 1024.0, 0.3])
def test_network_gets_the_gradients_of_the_weighted_sum_bit_for_bit(alpha, scale):
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


def test_scale_never_reaches_the_weights():
    moved = []
    for scale in (1.0, 2.0**16):
        network, weighter = make()
        for x in batches(3):
            weighter.backward(network(x), scale=scale)
        moved.append(weighter.loss_weights)
    assert torch.equal(*moved)


def test_one_backward_pass_through_the_network():
    """Each parameter's gradient is accumulated once in a call, however many tasks there are."""
    network, weighter = make(tasks=4)
    counts = collections.Counter()
    for name, parameter in network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: counts.update([name]))
    weighter(network(batches(1)[0]))
    assert set(counts.values()) == {1}


def test_backward_kwargs_reach_backward():
    network, weighter = make()
    losses = network(batches(1)[0])
    weighter(losses, retain_graph=True)
    weighter(losses)
    with pytest.raises(RuntimeError, match="second time"):
        weighter(losses)


def test_accelerator_runs_the_backward_pass():
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


def test_every_call_returns_the_same_thing():
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
def test_every_form_of_losses_gives_the_same(form):
    outcomes = []
    for make_form in (FORMS["list"], FORMS[form]):
        network, weighter = make(loss_names=("a", "b", "c"))
        for x in batches(4):
            result = weighter(make_form(network(x)))
        outcomes.append([*gradients(network), weighter.loss_weights, *result.norms.values(), result.total])
    for a, b in zip(*outcomes, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-7)


def test_named_tuple_without_names_is_read_by_position():
    network, weighter = make()
    assert list(weighter(Fields(*network(batches(1)[0]))).weights) == ["0", "1", "2"]


# ——— initial weights ———


def test_weights_given_by_position():
    assert GradNormLossWeighter([1.0, 3.0]).loss_weights.tolist() == [0.5, 1.5]
    assert GradNormLossWeighter(torch.tensor([2, 2, 2])).loss_weights.tolist() == [1, 1, 1]


def test_frozen_weights_are_used_as_given():
    network, weighter = make(loss_weights=[1.0, 10.0, 5.0], frozen=True)
    losses = network(batches(1)[0])
    expected = losses[0] + 10 * losses[1] + 5 * losses[2]
    torch.testing.assert_close(weighter(losses).total, expected.detach())
    assert weighter.loss_weights.tolist() == [1, 10, 5]


# ——— when nothing is measured ———


@pytest.mark.parametrize("how", ["frozen", "freeze", "eval"])
def test_frozen_only_weighs(how, monkeypatch):
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


def test_schedule(monkeypatch):
    """From step 3 on, every second step."""
    network, weighter = make(update_after_step=3, update_every=2)
    seen = [bool(weighter(network(x)).norms) for x in batches(8)]
    assert seen == [False, False, False, True, False, True, False, True]


def test_initial_losses_are_those_of_the_first_call_even_if_updates_begin_later():
    network, weighter = make(update_after_step=2)
    x = batches(1)[0]
    first = torch.stack(network(x)).detach()
    train(network, weighter, [x] * 4)
    assert torch.equal(weighter.initial_losses, first)
    assert not torch.allclose(first, torch.stack(network(x)))


def test_initial_losses_that_follow():
    network, weighter = make(initial_losses_decay=0.75)
    expected = None
    for x in batches(5):
        losses = network(x)
        values = torch.stack(losses).detach()
        expected = values if expected is None else 0.75 * expected + 0.25 * values
        weighter(losses)
    torch.testing.assert_close(weighter.initial_losses, expected)


def test_initial_losses_given():
    network, weighter = make()
    weighter.initial_losses.fill_(2.3)
    weighter.initted.fill_(True)
    weighter(network(batches(1)[0]))
    assert torch.equal(weighter.initial_losses, torch.full((3,), 2.3))


# ——— masks ———


@pytest.mark.parametrize("per_call", [False, True])
def test_mask_balances_only_what_is_in_it(per_call):
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


def test_a_masked_loss_need_not_touch_the_shared_parameter():
    network, weighter = make()
    own = nn.Parameter(torch.ones(()))
    losses = [*network(batches(1)[0])[:2], own.square()]
    weighter(losses, loss_mask=torch.tensor([True, True, False]))
    assert own.grad == 2


# ——— accumulation ———


def test_accumulation_averages_and_moves_once():
    """The weights move by the mean of the slopes the micro-batches measured, at the call that steps."""
    network, weighter = make(restoring_force_alpha=0.0)
    micro = batches(4)
    slopes = []
    for x in micro:
        lengths = [
            torch.autograd.grad(loss, network.backbone_parameter, retain_graph=True)[0].norm() for loss in network(x)
        ]
        lengths = torch.stack(lengths)
        slopes.append(torch.sign(lengths - lengths.mean()) * lengths)
    expected = 1 - 0.1 * torch.stack(slopes).mean(dim=0)
    for i, x in enumerate(micro):
        assert weighter.loss_weights.tolist() == [1, 1, 1]
        weighter.backward(network(x), scale=1 / 4, grad_step=i == 3)
    torch.testing.assert_close(weighter.loss_weights, expected / expected.sum() * 3)
    assert weighter.step == 1
    assert not weighter.loss_weights_grad.any()


def test_repeating_a_micro_batch_changes_nothing():
    weights = []
    for repeats in (1, 3):
        network, weighter = make()
        for x in batches(4):
            for i in range(repeats):
                weighter.backward(network(x), grad_step=i == repeats - 1)
        weights.append(weighter.loss_weights)
    torch.testing.assert_close(*weights)


def test_accumulation_with_update_every():
    """update_every counts accumulations: every micro-batch of a due one is measured, none of another."""
    network, weighter = make(update_every=2)
    seen = []
    for i, x in enumerate(batches(8)):
        seen.append(bool(weighter.backward(network(x), grad_step=i % 2 == 1).norms))
    assert seen == [True, True, False, False] * 2
    assert weighter.step == 4


# ——— activations ———


def test_activations_in_place_of_a_parameter():
    network, _ = make()
    weighter = GradNormLossWeighter(num_losses=3, learning_rate=0.1)
    losses, shared = network(batches(1)[0], return_backbone_outputs=True)
    expected = [torch.autograd.grad(loss, shared, retain_graph=True)[0].norm() for loss in losses]
    result = weighter(losses, shared)
    torch.testing.assert_close(list(result.norms.values()), expected)
    assert not torch.equal(weighter.loss_weights, torch.ones(3))


# ——— memory, copies, resuming ———


def test_memory_is_flat():
    """3,000 steps in a process of their own: no tensor more, and the process no bigger."""
    code = """
import gc, resource, sys, torch
from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses
network = MockNetworkWithMultipleLosses(8, 3)
weighter = GradNormLossWeighter(
    num_losses=3, learning_rate=0.01, restoring_force_alpha=0.5, grad_norm_parameters=network.backbone_parameter
)
x = torch.randn(4, 8)
def run(steps):
    for _ in range(steps):
        network.zero_grad()
        weighter(network(x))
    gc.collect()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return sum(issubclass(type(o), torch.Tensor) for o in gc.get_objects()), peak
tensors, peak = run(300)
later, peak_later = run(3000)
print(later - tensors, peak_later - peak)
"""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    more_tensors, more_bytes = map(int, done.stdout.split())
    assert more_tensors <= 0
    assert more_bytes < 6e6


def test_buffers_hold_no_graph():
    network, weighter = make()
    train(network, weighter, batches(3))
    assert all(buffer.grad_fn is None and not buffer.requires_grad for buffer in weighter.buffers())


def test_deepcopy_goes_on_alone():
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


def test_deepcopy_with_its_network():
    network, weighter = make()
    train(network, weighter, batches(3))
    network_twin, twin = copy.deepcopy((network, weighter))
    assert twin.grad_norm_parameters[0] is network_twin.backbone_parameter
    train(network, weighter, batches(3, seed=5))
    train(network_twin, twin, batches(3, seed=5))
    assert torch.equal(weighter.loss_weights, twin.loss_weights)


def test_resume_is_exact():
    network, weighter = make()
    train(network, weighter, batches(5))
    weighter.backward(network(batches(1)[0]), grad_step=False)  # in the middle of an accumulation
    saved = io.BytesIO()
    torch.save({"network": network.state_dict(), "weighter": weighter.state_dict()}, saved)
    saved.seek(0)
    state = torch.load(saved, weights_only=True)
    network_later, later = make(seed=99)
    network_later.load_state_dict(state["network"])
    later.load_state_dict(state["weighter"])
    train(network, weighter, batches(5, seed=7))
    train(network_later, later, batches(5, seed=7))
    for key, value in weighter.state_dict().items():
        assert torch.equal(value, later.state_dict()[key]), key


def test_buffers_are_made_where_the_parameter_is():
    weighter = GradNormLossWeighter([1.0, 3.0], grad_norm_parameters=nn.Parameter(torch.zeros(1, device="meta")))
    assert {buffer.device.type for buffer in weighter.buffers()} == {"meta"}


def test_it_owns_buffers_and_no_parameters():
    _, weighter = make()
    assert list(weighter.parameters()) == []
    names = {"loss_weights", "initial_losses", "loss_weights_grad", "step", "initted"}
    assert names <= set(dict(weighter.named_buffers()))
    weighter.loss_weights.numpy()


# ——— losses that cannot be balanced ———


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("when", ["first", "later"])
def test_unusable_losses_are_left_out_with_a_warning(bad, when):
    network, weighter = make()
    data = batches(3)
    if when == "later":
        train(network, weighter, data)
    before = weighter.loss_weights.clone()
    losses = network(data[0])
    losses[1] = losses[1] * 0 + bad
    with pytest.warns(RuntimeWarning, match="leaves the weights of 1 "):
        result = weighter(losses)
    assert list(result.norms) == ["0", "2"]
    assert weighter.loss_weights[1] == before[1]
    assert not torch.equal(weighter.loss_weights, before)
    for x in data:
        weighter(network(x))  # all is well again
    assert weighter.loss_weights.isfinite().all()
    assert weighter.initial_losses.isfinite().all()
    assert weighter.initted.all()


def test_all_losses_unusable():
    network, weighter = make()
    with pytest.warns(RuntimeWarning, match="leaves the weights of"):
        result = weighter([loss * float("nan") for loss in network(batches(1)[0])])
    assert result.norms == {}
    assert weighter.loss_weights.tolist() == [1, 1, 1]


def test_without_restoring_force_a_negative_loss_is_as_good_as_any():
    network, weighter = make(restoring_force_alpha=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = weighter([-loss for loss in network(batches(1)[0])])
    assert len(result.norms) == 3


def test_vanishing_gradients_ask_for_nothing():
    network, weighter = make()
    weighter([loss * 0 + 1 for loss in network(batches(1)[0])])
    assert weighter.loss_weights.tolist() == [1, 1, 1]


def test_float64_and_bfloat16_losses():
    for dtype in (torch.float64, torch.bfloat16):
        network, weighter = make()
        network.to(dtype)
        weighter(network(batches(1)[0].to(dtype)))
        assert weighter.loss_weights.dtype == torch.float32
        assert not torch.equal(weighter.loss_weights, torch.ones(3))


# ——— bad input ———


def losses_of(tasks=3):
    network, weighter = make(tasks)
    return weighter, network(batches(1)[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "num_losses, loss_weights or loss_names"),
        ({"num_losses": 1}, "at least two"),
        ({"num_losses": 3, "loss_weights": [1.0, 1.0]}, "agree"),
        ({"loss_names": ["a", "a"]}, "differ"),
        ({"loss_weights": [1.0, 0.0]}, "positive and finite"),
        ({"loss_weights": [1.0, float("nan")]}, "positive and finite"),
        ({"num_losses": 2, "learning_rate": -1.0}, "learning_rate must be finite, at least 0"),
        ({"num_losses": 2, "learning_rate": float("inf")}, "learning_rate"),
        ({"num_losses": 2, "restoring_force_alpha": -0.5}, "restoring_force_alpha"),
        ({"num_losses": 2, "initial_losses_decay": 1.5}, "at most 1"),
        ({"num_losses": 2, "update_every": 0}, "update_every must be finite, at least 1"),
        ({"num_losses": 2, "loss_mask": [True]}, "loss_mask needs one entry for each of 0, 1"),
        ({"num_losses": 2, "loss_mask": [True, False]}, "at least two"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradNormLossWeighter(**arguments)


def test_unknown_names():
    weighter = GradNormLossWeighter(loss_names=["a", "b"], frozen=True)
    one = torch.ones((), requires_grad=True)
    with pytest.raises(KeyError, match=r"named \('a', 'c'\).*has \('a', 'b'\)"):
        weighter({"a": one, "c": one})
    with pytest.raises(KeyError, match="has"):
        weighter(collections.namedtuple("Wrong", "a c")(one, one))
    with pytest.raises(KeyError, match=r"loss_names=\('a', 'b'\)"):
        GradNormLossWeighter(num_losses=2, frozen=True)({"a": one, "b": one})


def test_losses_that_do_not_fit():
    weighter, losses = losses_of()
    with pytest.raises(ValueError, match="got 2 losses, this weighter has 3"):
        weighter(losses[:2])
    with pytest.raises(ValueError, match=r"loss '1' must be a scalar, got shape \(4,\); reduce it"):
        weighter([losses[0], losses[1].expand(4), losses[2]])
    with pytest.raises(ValueError, match="must be 1-D"):
        weighter(torch.stack(losses)[None])
    with pytest.raises(TypeError, match="loss '2' must be a scalar tensor, got float"):
        weighter([losses[0], losses[1], 0.5])


def test_a_loss_that_does_not_use_the_shared_parameter():
    weighter, losses = losses_of()
    own = nn.Parameter(torch.ones(()))
    for stranger in (own.square(), torch.ones(())):
        with pytest.raises(ValueError, match=r"loss '1' does not depend on.*loss_mask"):
            weighter([losses[0], stranger, losses[2]])
    assert own.grad is None, "nothing is back-propagated when a call is refused"


def test_a_parameter_without_gradient():
    network, weighter = make()
    losses = network(batches(1)[0])
    network.backbone_parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="does not require a gradient; pass a trainable"):
        weighter(losses)


def test_nowhere_to_measure():
    network, _ = make()
    with pytest.raises(ValueError, match="grad_norm_parameters, or pass activations"):
        GradNormLossWeighter(num_losses=3)(network(batches(1)[0]))


# ——— the package ———


def test_import_needs_torch_and_jaxtyping_only():
    code = """
import sys
class Wall:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {"matplotlib", "accelerate", "stylegan2", "book", "labml", "scipy", "IPython"}:
            raise ImportError(name)
import jaxtyping, torch  # what these import is their affair
sys.meta_path.insert(0, Wall())
before = set(sys.modules)
import gradnorm
assert not {m for m in set(sys.modules) - before if m.split(".")[0] in {"stylegan2", "book", "matplotlib"}}
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_mock():
    network = MockNetworkWithMultipleLosses(DIM, num_losses=4)
    assert network.backbone_parameter is network.backbone[-1].weight
    losses, shared = network(torch.randn(2, DIM), return_backbone_outputs=True)
    assert [loss.shape for loss in losses] == [()] * 4
    assert all(loss > 0 for loss in losses)
    assert shared.shape == (2, DIM)
