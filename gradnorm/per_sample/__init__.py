"""One gradient per sample, where `backward` gives their sum: four engines behind one function.

    per_sample_gradients   ∂L_n/∂θ for every sample n and parameter θ, by "hooks", "expanded_weights", "vmap" or "loop"
    per_sample_norms       their lengths alone, in closed form, without the gradients
    unsupported_layers     which layers of a module an engine cannot do, and why

For a linear layer y = W h with δ = ∂L_n/∂y the gradient is δ hᵀ, and its length ‖δ‖ ‖h‖; a convolution is a linear
layer over windows (Goodfellow, *Efficient per-example gradient computations* (2015), arXiv 1510.01799; Rochette et al.
2019, arXiv 1912.06015).
"""

from gradnorm.per_sample.batch import EngineRefusal
from gradnorm.per_sample.interface import ENGINES, per_sample_gradients, per_sample_norms
from gradnorm.per_sample.support import unsupported_layers

__all__ = ["ENGINES", "EngineRefusal", "per_sample_gradients", "per_sample_norms", "unsupported_layers"]
