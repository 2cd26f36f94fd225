"""What the distances look at: extractors that turn images into feature vectors, all called alike.

- `FaceClassifier` (see `classifier`): always there, offline. It was trained on cartoon faces and sees little in other
  images.
- `InceptionFeatures`: the network of the published Fréchet Inception Distance, through the package torch-fidelity.
"""

from collections.abc import Callable, Iterable
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from stylegan2.images import to_rgb, to_uint8


@runtime_checkable
class FeatureExtractor(Protocol):
    """Images in [−1, 1] of any size to feature vectors. The name goes wherever a number goes."""

    name: str

    def __call__(self, images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch d"]: ...


class InceptionFeatures(nn.Module):
    """The 2048 pooled features of Inception v3 in torch-fidelity's port: its weights and its way to resize are those of
    the published FID, so that numbers can be compared with the papers' for the same number of images.

    torch-fidelity fetches the weights (91 MB) the first time, and keeps them.

    Raises:
        ModuleNotFoundError: torch-fidelity is not installed.
        ConnectionError: its weights are not here, and could not be fetched.
    """

    name = "Inception v3"

    def __init__(self) -> None:
        super().__init__()
        try:
            from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
        except ImportError as error:
            raise ModuleNotFoundError(f"Inception features need torch-fidelity ({error}): pip install torch-fidelity, "
                                      "or use the features of ToyFaces") from error
        try:
            self.inception = FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
        except OSError as error:  # urllib's errors are of this kind
            raise ConnectionError(f"torch-fidelity could not fetch the weights of Inception ({error}): run once where "
                                  "there is a network, or use the features of ToyFaces") from error

    @torch.no_grad()
    def forward(self, images: Float[Tensor, "batch channels h w"]) -> Float[Tensor, "batch 2048"]:
        return self.inception(to_uint8(images))[0]


@torch.no_grad()
def extract(extractor: Callable[[Tensor], Tensor], batches: Iterable[Tensor]) -> Float[Tensor, "n d"]:
    """The features of all batches [_, channels, h, w], which are made RGB, on the CPU; the images are not kept."""
    return torch.cat([extractor(to_rgb(batch)).cpu() for batch in batches])
