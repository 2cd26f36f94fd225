"""Chapter 5 says how large the networks of the paper are, and what its records show; here are the numbers behind it."""

import pytest
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from stylegan2.discriminator import Discriminator
from stylegan2.generator import Generator
from stylegan2.mapping import MappingNetwork


def millions(*networks: nn.Module) -> int:
    """Parameters, rounded."""
    return round(sum(p.numel() for network in networks for p in network.parameters()) / 1e6)


@pytest.mark.parametrize(("config", "n_features", "generator", "discriminator"), [("E", 16, 25, 24), ("F", 32, 30, 29)])
def test_networks_for_1024_have_the_published_sizes(
        config: str, n_features: int, generator: int, discriminator: int) -> None:
    with FakeTensorMode():
        assert millions(MappingNetwork(512, 8), Generator(10, 512, n_features)) == generator
        assert millions(Discriminator(10, n_features)) == discriminator
