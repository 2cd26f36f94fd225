"""A trained generator on disk: generator.safetensors and the settings.json beside it."""

from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.generator import Generator, Noise
from stylegan2.mapping import MappingNetwork
from stylegan2.training.checkpoint import checkpoints, load_module, load_tensors
from stylegan2.training.config import Settings


class TrainedGenerator(nn.Module):
    """The averaged mapping network and generator of a run.

    Args:
        settings: that the run was trained with.
    """

    def __init__(self, settings: Settings):
        super().__init__()
        self.settings = settings
        self.noise: Noise = "const" if settings.noise else None
        self.mapping = MappingNetwork(settings.d_latent, settings.mapping_layers)
        self.generator = Generator(settings.log_resolution, settings.d_latent, settings.n_features,
                                   settings.max_features)

    @torch.no_grad()
    def forward(self, z: Float[Tensor, "batch d_latent"], psi: float = 1.0) -> Float[Tensor, "batch 3 side side"]:
        """Images in about [−1, 1], with the stored noise maps if the run was trained with noise.

        Args:
            z: N(0, 1).
            psi: truncation; 1 leaves w as it is, 0 gives the mean image.
        """
        w = self.mapping.truncate(self.mapping(z), psi)
        return self.generator(w.expand(self.generator.n_blocks, -1, -1), self.noise)


def load_generator(folder: str | Path) -> TrainedGenerator:
    """The averaged generator of a run's folder (its newest checkpoint), or of a record's (generator.safetensors).

    Raises:
        FileNotFoundError: the folder holds neither.
        CheckpointError: a file is cut short or does not fit its settings.
    """
    folder = Path(folder)
    path = folder / "generator.safetensors"
    if not path.exists():
        if not checkpoints(folder):
            raise FileNotFoundError(f"{folder} holds no generator.safetensors and no checkpoint of a run")
        path = checkpoints(folder)[-1]
    tensors, _ = load_tensors(path)
    trained = TrainedGenerator(Settings.load(folder / "settings.json"))
    load_module("average", trained, tensors, path)
    return trained.eval()


def sample(trained: TrainedGenerator, count: int, psi: float = 1.0,
           seed: int = 0) -> Float[Tensor, "count 3 side side"]:
    """Images of z drawn with this seed; the same on every machine."""
    z = torch.randn(count, trained.generator.d_latent, generator=torch.Generator().manual_seed(seed))
    device = trained.mapping.mean_w.device
    return torch.cat([trained(part.to(device), psi).cpu() for part in z.split(64)])
