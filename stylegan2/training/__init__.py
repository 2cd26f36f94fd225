"""Training: settings, the step of the two players, the loop, checkpoints, the log."""

from stylegan2.training.config import Settings

__all__ = ["Settings"]
