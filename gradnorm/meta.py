"""Gradients through an update: parameters from which a few steps of gradient descent lead far.

    θ_0 = θ,   θ_{j+1} = θ_j − η ∇L_task(θ_j),   and the meta-gradient is ∇_θ L_task'(θ_k)

Model-agnostic meta-learning (Finn, Abbeel and Levine 2017, arXiv 1703.03400) descends along it. With its factors
∂θ_{j+1}/∂θ_j = 1 − η ∇²L(θ_j) it needs second derivatives; the first-order form takes them for 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from gradnorm._typing import Float

Parameters = dict[str, Tensor]


def adapt(
    loss: Callable[[Parameters], Tensor], parameters: Parameters, learning_rate: float, steps: int = 1,
    first_order: bool = False
) -> Parameters:
    """θ_k, as a function of θ that can be differentiated; nothing is changed in place.

    Works inside `torch.func` transforms (`vmap` over tasks) as under `autograd`.

    Args:
        loss: parameters → scalar, by `functional_call`.
        first_order: the inner gradients are constants, so that ∂θ_k/∂θ = 1.

    Raises:
        TypeError: the parameters are not in a dict.
        ValueError: a negative number of steps.
    """
    if not isinstance(parameters, dict):
        raise TypeError("parameters are tensors by name, of a module: dict(module.named_parameters()); "
                        f"got {type(parameters).__name__}")
    if steps < 0:
        raise ValueError(f"the number of steps must be 0 or more, got {steps}")
    for _ in range(steps):
        slopes = grad(loss)(parameters)
        if first_order:
            slopes = {name: slope.detach() for name, slope in slopes.items()}
        parameters = {name: value - learning_rate * slopes[name] for name, value in parameters.items()}
    return parameters


class Sinusoids(NamedTuple):
    """Regression tasks y = A sin(x − φ) (section 5.1): points to adapt on, and points to be measured on."""

    x: Float[Tensor, "tasks shots 1"]
    y: Float[Tensor, "tasks shots 1"]
    x_query: Float[Tensor, "tasks queries 1"]
    y_query: Float[Tensor, "tasks queries 1"]


def sinusoids(tasks: int, shots: int = 10, queries: int = 10, generator: torch.Generator | None = None) -> Sinusoids:
    """A from U(0.1, 5), φ from U(0, π), x from U(−5, 5)."""
    amplitude = 0.1 + 4.9 * torch.rand(tasks, 1, 1, generator=generator)
    phase = math.pi * torch.rand(tasks, 1, 1, generator=generator)
    x = 10 * torch.rand(tasks, shots + queries, 1, generator=generator) - 5
    y = amplitude * (x - phase).sin()
    return Sinusoids(x[:, :shots], y[:, :shots], x[:, shots:], y[:, shots:])


def sinusoid_network() -> nn.Sequential:
    """The paper's: two hidden layers of 40, ReLU."""
    return nn.Sequential(nn.Linear(1, 40), nn.ReLU(), nn.Linear(40, 40), nn.ReLU(), nn.Linear(40, 1))


def squared_error(network: nn.Module, parameters: Parameters, x: Tensor, y: Tensor) -> Float[Tensor, ""]:
    """Mean of (network(x) − y)², with these parameters in place of the network's own."""
    return (functional_call(network, parameters, (x,)) - y).square().mean()


def losses_after_adapting(
    network: nn.Module, tasks: Sinusoids, learning_rate: float, steps: int, first_order: bool = False
) -> Float[Tensor, " tasks"]:
    """Each task's loss on its query points after `steps` steps on its shots, all tasks at once."""

    def one_task(parameters: Parameters, x: Tensor, y: Tensor, x_query: Tensor, y_query: Tensor) -> Tensor:
        adapted = adapt(lambda p: squared_error(network, p, x, y), parameters, learning_rate, steps, first_order)
        return squared_error(network, adapted, x_query, y_query)

    return vmap(one_task, in_dims=(None, 0, 0, 0, 0))(dict(network.named_parameters()), *tasks)


def train_sinusoids(
    iterations: int, *, inner_steps: int = 1, first_order: bool = False, tasks: int = 25, shots: int = 10,
    inner_rate: float = 0.01, outer_rate: float = 1e-3, seed: int = 0
) -> nn.Sequential:
    """A network whose loss after `inner_steps` is small, on average over tasks. 0 inner steps: plain training.

    Adam on the meta-gradient; every iteration draws new tasks.
    """
    torch.manual_seed(seed)
    network = sinusoid_network()
    generator = torch.Generator().manual_seed(seed)
    adam = torch.optim.Adam(network.parameters(), lr=outer_rate)
    for _ in range(iterations):
        batch = sinusoids(tasks, shots, generator=generator)
        loss = losses_after_adapting(network, batch, inner_rate, inner_steps, first_order).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
    return network


def adaptation_curve(
    network: nn.Module, steps: int = 10, tasks: int = 600, learning_rate: float = 0.01, shots: int = 10,
    seed: int = 1234
) -> Float[Tensor, " steps_and_one"]:
    """Mean squared error on 600 new tasks after 0, 1, … `steps` steps on their shots (the paper's figure 3)."""
    batch = sinusoids(tasks, shots, queries=100, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        losses = [losses_after_adapting(network, batch, learning_rate, k).mean() for k in range(steps + 1)]
    return torch.stack(losses)
