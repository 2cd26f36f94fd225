"""A trained generator as an ONNX file, for onnxruntime on a server, a phone or in a browser."""

import contextlib
import copy
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stylegan2.training.players import TrainedGenerator


class Sampler(nn.Module):
    """z and ψ (and labels) to images, with ψ a tensor, so that it stays an input of the exported graph.

    Args:
        trained: copied to the CPU, where modulated convolutions scale the activations: the form whose weights are
            constants of the graph.
    """

    def __init__(self, trained: TrainedGenerator):
        super().__init__()
        self.trained = copy.deepcopy(trained).cpu().float()
        self.n_blocks = trained.settings.log_resolution - 1

    def forward(self, z: Float[Tensor, "batch d_latent"], psi: Float[Tensor, ""],
                labels: Int[Tensor, "batch"] | None = None) -> Float[Tensor, "batch channels side side"]:
        w = torch.lerp(self.trained.mapping.mean_w, self.trained.mapping(z, labels), psi)
        return self.trained.generator(w.expand(self.n_blocks, -1, -1), self.trained.noise)


def export_onnx(trained: TrainedGenerator, path: str | Path) -> None:
    """Write mapping network, truncation and generator as one ONNX file, with the stored noise maps if the run was
    trained with noise.

    The graph's inputs are `z` [batch, d_latent], N(0, 1); `psi`, a scalar; and for a generator with classes `labels`
    [batch], int64. Its output is `images` [batch, 3, side, side] in about [−1, 1]. All but the labels are float32, and
    the batch may have any size.

    Raises:
        ImportError: onnx or onnxscript is not installed.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise ImportError(f"the export to ONNX needs the packages onnx and onnxscript ({error}): "
                          "pip install onnx onnxscript, and onnxruntime to run what is written") from error
    batch = torch.export.Dim("batch")
    inputs = {"z": torch.zeros(2, trained.settings.d_latent), "psi": torch.tensor(1.0)}
    dynamic: dict[str, dict[int, torch.export.Dim] | None] = {"z": {0: batch}, "psi": None}
    if trained.mapping.n_classes:
        inputs["labels"], dynamic["labels"] = torch.zeros(2, dtype=torch.int64), {0: batch}
    with quiet():
        program = torch.onnx.export(
            Sampler(trained).eval(), (), kwargs=inputs, dynamic_shapes=dynamic, dynamo=True, input_names=list(inputs),
            output_names=["images"], verbose=False)
    assert program is not None  # what dynamo=True returns
    program.save(str(path))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Inside, the exporter keeps its remarks about its own parts to itself; errors are raised as ever."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
