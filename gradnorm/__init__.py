"""GradNorm: many losses, weighted so that their gradients stay in balance.

`GradNormLossWeighter` takes the place of `loss.backward()` in a training loop. `python -m gradnorm toy` runs the
paper's toy problem.
"""

from gradnorm.balance import Weighing
from gradnorm.mocks import MockNetworkWithMultipleLosses
from gradnorm.weighter import GradNormLossWeighter

__all__ = ["GradNormLossWeighter", "MockNetworkWithMultipleLosses", "Weighing"]
