"""What a published PyTorch checkpoint is made of, and the tensors in it.

The `.pkl` of StyleGAN2-ADA and its successors is a dict with the networks G, D and G_ema. A network is stored as the
source code of its class together with a module's attributes; only the attributes are looked at. Its tensors are stored
as PyTorch stores them in a plain pickle: a strided view of a storage, which is a string of bytes that holds five more
pickles and the numbers.
"""

import io
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stylegan2.convert.unpickle import Machine, Name, PickleError, Unfinished

STORAGES = {f"torch.{name}Storage": dtype for name, dtype in (
    ("Float", torch.float32), ("Double", torch.float64), ("Half", torch.float16), ("BFloat16", torch.bfloat16),
    ("Long", torch.int64), ("Int", torch.int32), ("Short", torch.int16), ("Char", torch.int8), ("Byte", torch.uint8),
    ("Bool", torch.bool))}
LEGACY_MAGIC = 0x1950A86A20F9469CFC6C


@dataclass(frozen=True)
class Network:
    """A module of a published network: its attributes, without its code."""

    class_name: str
    state: dict[str, Any]


def tensors_of(network: Any) -> Iterator[tuple[str, Tensor]]:
    """Parameters and buffers of a network, with dotted names as in `state_dict()`.

    Raises:
        PickleError: something in it is neither a module nor a tensor, or a module is in it twice.
    """
    seen: set[int] = set()
    waiting = [("", network)]
    while waiting:
        prefix, module = waiting.pop()
        if not isinstance(module, Network) or id(module) in seen:
            raise PickleError(f"{prefix or 'the network'} is {'there twice' if id(module) in seen else 'no network'}")
        seen.add(id(module))
        for group in ("_parameters", "_buffers", "_modules"):
            for name, value in (module.state.get(group) or {}).items():
                value = value.value if isinstance(value, Array) else value
                if group == "_modules" and value is not None:
                    waiting.append((f"{prefix}{name}.", value))
                elif isinstance(value, (Tensor, np.ndarray)):
                    yield f"{prefix}{name}", torch.as_tensor(value)
                elif value is not None:
                    raise PickleError(f"{prefix}{name} is a {type(value).__name__}, not a tensor")


def network(meta: dict[str, Any]) -> Network:
    """meta has the class's source under module_src, which stays unread."""
    state = meta["state"]
    if not isinstance(state, dict) or not all(isinstance(state.get(group, {}), dict)
                                              for group in ("_parameters", "_buffers", "_modules")):
        raise PickleError("a network without parameters, buffers and modules")
    return Network(str(meta["class_name"]), state)


def storage(content: bytes) -> Tensor:
    """A flat tensor from what `torch.save` wrote for a storage: pickles of a magic number, a version, the platform, the
    storage's type and length, and its key; then the length again in 8 bytes, and the numbers.
    """
    file = io.BytesIO(content)
    magic = Machine(file, {}).run()
    version = Machine(file, {}).run()
    platform = Machine(file, {}).run()
    if magic != LEGACY_MAGIC or version != 1001 or platform.get("little_endian") is not True:
        raise PickleError("a tensor's storage is not in PyTorch's little-endian format 1001")
    kind, _, _, length, view = Machine(file, {}, frozenset(STORAGES), stored_id).run()
    Machine(file, {}).run()  # the list of keys
    dtype = STORAGES[kind.path]
    numbers = bytearray(content[file.tell() + 8:])
    if view is not None or len(numbers) != length * dtype.itemsize:
        raise PickleError(f"a tensor's storage should have {length} numbers and has {len(numbers)} bytes")
    return torch.frombuffer(numbers, dtype=dtype) if length else torch.empty(0, dtype=dtype)


def stored_id(identity: Any) -> tuple[Any, ...]:
    """("storage", type, key, device, length, view): all but the first."""
    if not (isinstance(identity, tuple) and len(identity) == 6 and identity[0] == "storage"
            and isinstance(identity[1], Name) and type(identity[4]) is int):
        raise PickleError("a persistent id that is no storage")
    return identity[1:]


def tensor(flat: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Tensor:
    """A strided view of a storage, copied. Each number of the storage is used once at most, so that a small file cannot
    make a large tensor.
    """
    if not isinstance(flat, Tensor) or len(size) != len(stride) or min((offset, *size, *stride)) < 0:
        raise PickleError(f"a tensor of size {size} and stride {stride} at {offset} of {type(flat).__name__}")
    last = offset + sum((n - 1) * step for n, step in zip(size, stride, strict=True))
    count = math.prod(size)
    if count > len(flat) or (count and last >= len(flat)):
        raise PickleError(f"a tensor of size {size} and stride {stride} does not fit its storage of {len(flat)}")
    return flat.as_strided(size, stride, offset).clone(memory_format=torch.contiguous_format)


def parameter(data: Tensor, *_: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise PickleError(f"a parameter that is a {type(data).__name__}")
    return data


class Kind(Unfinished):
    """A NumPy dtype: its code, and then its byte order."""

    def __init__(self, code: str, *_: Any):
        if not re.fullmatch(r"[biuf][1248]", code):
            raise PickleError(f"an array of {code[:20]!r}: arrays of numbers are read")
        self.dtype = np.dtype(code)

    def finish(self, state: Any) -> None:
        self.dtype = self.dtype.newbyteorder(state[1])


class Array(Unfinished):
    """A NumPy array: nothing, and then its shape, dtype, order and bytes."""

    def __init__(self, *_: Any):
        self.value = np.empty(0)

    def finish(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        flat = np.frombuffer(data, kind.dtype)
        native = flat.astype(flat.dtype.newbyteorder("="))
        self.value = native.reshape(shape, order="F" if fortran else "C")


def array_from_buffer(data: bytes | bytearray, kind: Kind, shape: tuple[int, ...], order: str) -> Array:
    """The form of pickle protocol 5."""
    array = Array()
    array.finish((1, shape, kind, order == "F", data))
    return array


BUILDERS: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": dict,
    "dnnlib.util.EasyDict": dict,
    "builtins.set": set,
    "__builtin__.set": set,
    "_codecs.encode": lambda text, _: text.encode("latin-1"),  # bytes, in protocol 2
    "__builtin__.bytes": lambda: b"",
    "torch_utils.persistence._reconstruct_persistent_obj": network,
    "torch.storage._load_from_bytes": storage,
    "torch._utils._rebuild_tensor_v2": tensor,
    "torch._utils._rebuild_parameter": parameter,
    "torch.Size": tuple,
    "numpy.dtype": Kind,
    **{f"numpy.{core}.multiarray._reconstruct": Array for core in ("core", "_core")},
    **{f"numpy.{core}.multiarray.scalar": lambda kind, data: np.frombuffer(data, kind.dtype)[0]
       for core in ("core", "_core")},
    **{f"numpy.{core}.numeric._frombuffer": array_from_buffer for core in ("core", "_core")},
}
VALUES = frozenset(("numpy.ndarray", "torch.float32", "torch.float16", "torch.contiguous_format",
                    "torch.channels_last"))
