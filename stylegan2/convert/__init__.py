"""Weights in and out: the published StyleGAN2 checkpoints, and ONNX."""

from stylegan2.convert.checkpoint import read_tensors
from stylegan2.convert.onnx import export_onnx
from stylegan2.convert.published import from_published, to_published
from stylegan2.convert.unpickle import PickleError

__all__ = ["PickleError", "export_onnx", "from_published", "read_tensors", "to_published"]
