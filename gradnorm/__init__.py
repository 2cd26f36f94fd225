"""GradNorm: many losses, weighted so that their gradients stay in balance; and what can be built on `autograd.grad`.

`GradNormLossWeighter` takes the place of `loss.backward()` in a training loop; `common_descent` finds the direction in
which all losses fall. The recipes under them: one gradient per sample, gradients through an update, and, in
`gradnorm.checkpoint`, recomputation instead of memory. `python -m gradnorm toy` runs the paper's toy problem. Needs
nothing but torch.
"""

from gradnorm.meta import adapt, adaptation_curve, train_sinusoids
from gradnorm.mocks import MockNetworkWithMultipleLosses
from gradnorm.pareto import CommonDescent, MinNormPoint, common_descent, min_norm_point
from gradnorm.per_sample import EngineRefusal, per_sample_gradients, per_sample_norms, unsupported_layers
from gradnorm.weighter import GradNormLossWeighter, Weighing

__all__ = [
    "CommonDescent", "EngineRefusal", "GradNormLossWeighter", "MinNormPoint", "MockNetworkWithMultipleLosses",
    "Weighing", "adapt", "adaptation_curve", "common_descent", "min_norm_point",
    "per_sample_gradients", "per_sample_norms", "train_sinusoids", "unsupported_layers",
]
