"""Weights in and out: checkpoints of every public format of StyleGAN2, and ONNX."""

from stylegan2.convert.onnx import export_onnx
from stylegan2.convert.published import from_published, to_published
from stylegan2.convert.reading import Checkpoint, read_checkpoint, read_tensors
from stylegan2.convert.rosinality import to_port
from stylegan2.convert.unpickle import PickleError

__all__ = ["Checkpoint", "PickleError", "export_onnx", "from_published", "read_checkpoint", "read_tensors", "to_port",
           "to_published"]
