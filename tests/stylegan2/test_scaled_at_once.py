"""Equalized parameters that are scaled by one operation for a whole network: the same numbers."""

import copy

import pytest
import torch

from stylegan2 import Discriminator, Generator, GradientPenalty, MappingNetwork, path_lengths
from stylegan2.equalized import EqualizedLinear, scaled_at_once

NETWORKS = {
    "mapping": (lambda: MappingNetwork(8, 3), lambda: (torch.randn(4, 8),)),
    "generator": (lambda: Generator(4, 8, 4, 8), lambda: (torch.randn(6, 4, 8), None)),
    "discriminator": (lambda: Discriminator(4, 4, 8), lambda: (torch.randn(4, 3, 16, 16),)),
}


def gradients(network):
    return {name: p.grad for name, p in network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", NETWORKS)
def test_values_and_gradients_are_the_same(name):
    torch.manual_seed(0)
    make, draw = NETWORKS[name]
    network, given = make().double(), [x if x is None else x.double() for x in draw()]
    twin = copy.deepcopy(network)
    expected = twin(*given)
    (expected.square().mean() + expected.mean()).backward()
    with scaled_at_once(network):
        found = network(*given)
        found.square().mean().backward()  # two backward passes, whose gradients add up
        network(*given).mean().backward()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    assert gradients(network).keys() == gradients(twin).keys()
    for key, gradient in gradients(twin).items():
        torch.testing.assert_close(gradients(network)[key], gradient, rtol=1e-9, atol=1e-13, msg=key)


@pytest.mark.parametrize("penalty", ["r1", "path length"])
def test_a_gradient_of_a_gradient(penalty):
    torch.manual_seed(0)
    network = Discriminator(3, 4, 8).double() if penalty == "r1" else Generator(3, 8, 4, 8).double()
    x = torch.randn(4, 3, 8, 8) if penalty == "r1" else torch.randn(4, 4, 8)
    y = torch.randn(4, 3, 8, 8, dtype=torch.float64)

    def loss(network):
        given = x.double().requires_grad_()
        if penalty == "r1":
            return GradientPenalty()(given, network(given))
        return path_lengths(given, network(given, None), y).square().mean()

    twin = copy.deepcopy(network)
    loss(twin).backward()
    with scaled_at_once(network):
        loss(network).backward()
    assert gradients(network).keys() == gradients(twin).keys() != set()
    for key, gradient in gradients(twin).items():
        torch.testing.assert_close(gradients(network)[key], gradient, rtol=1e-9, atol=1e-13, msg=key)


def test_what_was_collected_before_stays():
    layer = EqualizedLinear(3, 2, gain=2.0)
    before = torch.full_like(layer.bias, 5.0)
    layer.bias.grad = before.clone()
    with scaled_at_once(layer):
        layer(torch.ones(1, 3)).sum().backward()
    torch.testing.assert_close(layer.bias.grad, before + 2.0)


@pytest.mark.parametrize("fails", [True, False])
def test_afterwards_the_network_is_as_it_was(fails):
    """Also where a parameter was frozen by hand, where an error comes between, and inside for who saves."""
    network = Discriminator(3, 4, 8)
    network.from_rgb.requires_grad_(False)
    state = {name: value.clone() for name, value in network.state_dict().items()}
    attributes = {name: sorted(vars(module)) for name, module in network.named_modules()}

    def use():
        with scaled_at_once(network):
            inside = network.state_dict()
            assert all(torch.equal(inside[name], value) for name, value in state.items())
            network(torch.randn(4, 3, 8, 8)).sum().backward()
            if fails:
                raise RuntimeError("on the way")

    if fails:
        with pytest.raises(RuntimeError, match="on the way"):
            use()
    else:
        use()
    assert {name: sorted(vars(module)) for name, module in network.named_modules()} == attributes
    assert all(p.grad is None for p in network.from_rgb.parameters())
    x = torch.randn(4, 3, 8, 8)
    other = Discriminator(3, 4, 8)
    other.load_state_dict(state)
    assert torch.equal(network(x), other(x))


def test_a_network_without_equalized_weights_is_left_alone():
    network = torch.nn.Linear(2, 2)
    with scaled_at_once(network):
        network(torch.ones(1, 2)).sum().backward()
    assert network.weight.grad.tolist() == [[1, 1], [1, 1]]
