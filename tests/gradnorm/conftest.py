"""What the tests of the weighter share: a network with a weighter, batches for it, and a training loop."""

import jaxtyping
import pytest
import torch

from gradnorm import GradNormLossWeighter, MockNetworkWithMultipleLosses

DIM = 8


@pytest.fixture
def make():
    """A mock network and a weighter on its last shared layer."""

    def make(tasks=3, seed=0, **settings):
        torch.manual_seed(seed)
        network = MockNetworkWithMultipleLosses(DIM, tasks)
        settings = {"learning_rate": 0.1, "restoring_force_alpha": 0.5, **settings}
        settings.setdefault("grad_norm_parameters", network.backbone_parameter)
        if not {"num_losses", "loss_weights", "loss_names"} & set(settings):
            settings["num_losses"] = tasks
        return network, GradNormLossWeighter(**settings)

    return make


@pytest.fixture
def plain_types():
    """As in use, where no annotation is checked and the package must notice by itself."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def batches():
    """So many batches of four, by seed."""

    def batches(count, seed=1):
        generator = torch.Generator().manual_seed(seed)
        return [torch.randn(4, DIM, generator=generator) for _ in range(count)]

    return batches


@pytest.fixture
def gradients():
    """The gradients of all parameters of a network."""
    return lambda network: [p.grad.clone() for p in network.parameters()]


@pytest.fixture
def train():
    """The plainest training loop with a weighter."""

    def train(network, weighter, data):
        optimizer = torch.optim.SGD(network.parameters(), lr=0.05)
        for x in data:
            optimizer.zero_grad()
            weighter(network(x))
            optimizer.step()

    return train
