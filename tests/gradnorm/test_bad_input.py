"""Losses that cannot be balanced, and what is refused."""

import collections
import warnings

import pytest
import torch
from torch import nn

from gradnorm import GradNormLossWeighter

DIM = 8


# ——— losses that cannot be balanced ———


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("when", ["first", "later"])
def test_unusable_losses_are_left_out_with_a_warning(bad, when, make, batches, train):
    network, weighter = make()
    data = batches(3)
    if when == "later":
        train(network, weighter, data)
    before = weighter.loss_weights.clone()
    losses = network(data[0])
    losses[1] = losses[1] * 0 + bad
    with pytest.warns(RuntimeWarning, match="leaves the weights of 1 "):
        result = weighter(losses)
    for measured in (result.norms, result.targets):
        assert [name for name, value in measured.items() if value.isnan()] == ["1"]
    assert weighter.loss_weights[1] == before[1]
    assert float(weighter.loss_weights.sum()) == pytest.approx(3)
    assert not torch.equal(weighter.loss_weights, before)
    for x in data:
        weighter(network(x))  # all is well again
    assert weighter.loss_weights.isfinite().all()
    assert weighter.initial_losses.isfinite().all()
    assert weighter.initted.all()


@pytest.mark.parametrize("optimizer", ["plain", "adam"])
@pytest.mark.parametrize("left", [0, 1])
def test_none_or_one_loss_is_usable(optimizer, left, make, batches):
    """Nothing moves then, and nothing of the state becomes NaN."""
    network, weighter = make(optimizer=optimizer)
    weighter(network(batches(1)[0]))
    before = {name: value.clone() for name, value in weighter.state_dict().items()}
    losses = network(batches(1)[0])
    with pytest.warns(RuntimeWarning, match="leaves the weights of"):
        weighter([loss * float("nan") if i >= left else loss for i, loss in enumerate(losses)])
    after = weighter.state_dict()
    assert not before.pop("loss_weights_grad").equal(after["loss_weights_grad"])
    assert after["loss_weights_grad"].tolist() == [0, 0, 0]
    before["step"] += 1
    assert all(torch.equal(value, after[name]) for name, value in before.items())


def test_all_losses_unusable(make, batches):
    network, weighter = make()
    with pytest.warns(RuntimeWarning, match="leaves the weights of"):
        result = weighter([loss * float("nan") for loss in network(batches(1)[0])])
    assert all(norm.isnan() for norm in result.norms.values())
    assert weighter.loss_weights.tolist() == [1, 1, 1]


def test_it_warns_once(make, batches):
    network, weighter = make()
    x = batches(1)[0]
    bad = [True, True, True, False]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for b in bad:
            losses = network(x)
            result = weighter([losses[0] * float("nan") if b else losses[0], *losses[1:]])
    assert len(caught) == 1
    assert len(result.norms) == 3


@pytest.mark.parametrize("bad", [0.0, -1.0, float("nan"), float("inf")])
def test_bad_losses_can_be_refused(make, batches, train, bad):
    network, weighter = make(on_bad_loss="raise")
    data = batches(2)
    train(network, weighter, data)
    before = weighter.loss_weights.clone()
    losses = network(data[0])
    with pytest.raises(ValueError, match=rf"finite and positive \(α > 0\), got \{{'1': {bad}\}}; mask it"):
        weighter([losses[0], losses[1] * 0 + bad, losses[2]])
    assert torch.equal(weighter.loss_weights, before)
    train(network, weighter, data)


def test_a_masked_loss_may_be_anything(make, batches):
    network, weighter = make(on_bad_loss="raise", loss_mask=[True, False, True])
    losses = network(batches(1)[0])
    weighter([losses[0], losses[1] * float("nan"), losses[2]])
    assert weighter.loss_weights.isfinite().all()


def test_gradients_that_overflow_raise_nothing(make, batches):
    """A GradScaler's factor is too large now and then; it skips the network's step, and GradNorm its own."""
    network, weighter = make(on_bad_loss="raise")
    losses = network(batches(1)[0])
    with pytest.warns(RuntimeWarning, match="leaves the weights of 0, 1, 2"):
        weighter(losses, scale=float(torch.finfo(torch.float32).max) * 100)
    assert weighter.loss_weights.tolist() == [1, 1, 1]


def test_without_restoring_force_a_negative_loss_is_as_good_as_any(make, batches):
    network, weighter = make(restoring_force_alpha=0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = weighter([-loss for loss in network(batches(1)[0])])
    assert len(result.norms) == 3


def test_vanishing_gradients_ask_for_nothing(make, batches):
    network, weighter = make()
    weighter([loss * 0 + 1 for loss in network(batches(1)[0])])
    assert weighter.loss_weights.tolist() == [1, 1, 1]


def test_float64_and_bfloat16_losses(make, batches):
    for dtype in (torch.float64, torch.bfloat16):
        network, weighter = make()
        network.to(dtype)
        weighter(network(batches(1)[0].to(dtype)))
        assert weighter.loss_weights.dtype == torch.float32
        assert not torch.equal(weighter.loss_weights, torch.ones(3))


# ——— bad input ———


@pytest.fixture
def weighter_and_losses(make, batches):
    network, weighter = make()
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
        ({"num_losses": 2, "learning_rate": -1.0}, r"learning_rate must be finite, ≥ 0; got -1\.0"),
        ({"num_losses": 2, "learning_rate": float("inf")}, "learning_rate"),
        ({"num_losses": 2, "restoring_force_alpha": -0.5}, "restoring_force_alpha"),
        ({"num_losses": 2, "initial_losses_decay": 1.5}, r"finite, ≥ 0 and ≤ 1; got 1\.5"),
        ({"num_losses": 2, "optimizer": "sgd"}, "optimizer must be one of 'plain', 'adam'; got 'sgd'"),
        ({"num_losses": 2, "on_bad_loss": "warn"}, "on_bad_loss must be one of 'skip', 'raise'"),
        ({"num_losses": 2, "initial_losses": [1.0]}, "initial_losses needs an entry for each of 0, 1, got 1"),
        ({"num_losses": 2, "initial_losses": {"1": 0.0}}, r"initial_losses\['1'\] must be finite, > 0; got 0\.0"),
        ({"num_losses": 2, "update_every": 0}, "update_every must be finite, ≥ 1; got 0"),
        ({"num_losses": 2, "loss_mask": [True]}, "loss_mask needs one entry for each of 0, 1"),
        ({"num_losses": 2, "loss_mask": [True, False]}, "at least two"),
    ],
)
def test_bad_settings(arguments, message):
    with pytest.raises(ValueError, match=message):
        GradNormLossWeighter(**arguments)


@pytest.mark.parametrize("mask", [[0, 1, 2], [1.0, 0.0, 1.0], torch.tensor([1.0, 0.0, 1.0]), {"a": 1, "b": 1, "c": 1}])
def test_a_mask_that_is_not_of_bools(mask):
    with pytest.raises(TypeError, match="loss_mask needs True or False for each of a, b, c, in this order"):
        GradNormLossWeighter(loss_names=["a", "b", "c"], loss_mask=mask)


def test_a_mask_of_other_names():
    with pytest.raises(KeyError, match=r"loss_mask has an entry for.*one for each loss: a, b"):
        GradNormLossWeighter(loss_names=["a", "b"], loss_mask={"a": True, "c": True})


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"loss_weights": 3}, TypeError, "write num_losses=3"),
        ({"grad_norm_parameters": "weight"}, TypeError, "a module, or several in a list; got str"),
        ({"grad_norm_parameters": 3}, TypeError, "a tensor .* or a module, or several in a list; got int"),
        ({"grad_norm_parameters": {"weight": nn.Parameter(torch.ones(1))}}, TypeError, "got str"),
        ({"grad_norm_parameters": nn.ReLU()}, ValueError, "ReLU has no trainable parameters"),
        ({"grad_norm_parameters": [nn.Linear(1, 1).requires_grad_(False)]}, ValueError, "Linear has no trainable"),
        ({"update_every": 2.5}, TypeError, r"update_every must be an integer; got 2\.5"),
        ({"accelerator": nn.Linear(1, 1)}, TypeError, r"accelerator must have a method backward\(loss\).*got Linear"),
        ({"loss_names": ["a", "b"], "loss_weights": {"a": 1.0, "c": 2.0}}, KeyError, "loss_weights has an entry for"),
    ],
)
def test_settings_of_the_wrong_kind(arguments, error, message, plain_types):
    sizes = {} if {"loss_names", "loss_weights"} & set(arguments) else {"num_losses": 2}
    with pytest.raises(error, match=message):
        GradNormLossWeighter(**sizes, **arguments)


def test_an_initial_loss_for_nothing():
    with pytest.raises(KeyError, match="initial_losses has c; the losses are a, b"):
        GradNormLossWeighter(loss_names=["a", "b"], initial_losses={"c": 1.0})


def test_unknown_names():
    weighter = GradNormLossWeighter(loss_names=["a", "b"], frozen=True)
    one = torch.ones((), requires_grad=True)
    with pytest.raises(KeyError, match=r"named \('a', 'c'\).*has \('a', 'b'\)"):
        weighter({"a": one, "c": one})
    with pytest.raises(KeyError, match="has"):
        weighter(collections.namedtuple("Wrong", "a c")(one, one))
    with pytest.raises(KeyError, match=r"loss_names=\('a', 'b'\)"):
        GradNormLossWeighter(num_losses=2, frozen=True)({"a": one, "b": one})


def test_losses_that_do_not_fit(weighter_and_losses):
    weighter, losses = weighter_and_losses
    with pytest.raises(ValueError, match="got 2 losses, this weighter has 3"):
        weighter(losses[:2])
    with pytest.raises(ValueError, match=r"loss '1' must be a scalar, got shape \(4,\); reduce it"):
        weighter([losses[0], losses[1].expand(4), losses[2]])
    with pytest.raises(ValueError, match="must be 1-D"):
        weighter(torch.stack(losses)[None])
    with pytest.raises(TypeError, match="loss '2' must be a scalar tensor, got float"):
        weighter([losses[0], losses[1], 0.5])


def test_a_loss_that_does_not_use_the_shared_parameter(weighter_and_losses):
    weighter, losses = weighter_and_losses
    own = nn.Parameter(torch.ones(()))
    for stranger, message in (
        (own.square(), "does not depend on"),
        (losses[1].detach(), "has no graph: it was detached"),
    ):
        with pytest.raises(ValueError, match=rf"loss '1' {message}.*loss_mask"):
            weighter([losses[0], stranger, losses[2]])
    assert own.grad is None, "nothing is back-propagated when a call is refused"


def test_a_parameter_without_gradient(make, batches):
    network, weighter = make()
    losses = network(batches(1)[0])
    network.backbone_parameter.requires_grad_(False)
    with pytest.raises(ValueError, match="does not require a gradient; pass a trainable"):
        weighter(losses)


def test_nowhere_to_measure(make, batches):
    network, _ = make()
    with pytest.raises(ValueError, match="grad_norm_parameters, pass activations, or let the heads"):
        GradNormLossWeighter(num_losses=3)(network(batches(1)[0]))
