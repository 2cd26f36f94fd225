"""A short number that tells one set of images from another, wherever it lies."""

import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int
from torch import Tensor

SAMPLE_BYTES = 2**26  # of an array, read for its fingerprint: a fraction of a second


def fingerprint_of(parts: Iterable[bytes], labels: Int[np.ndarray, "n"] | None = None,
                   class_names: Sequence[str] = ()) -> str:
    """16 hexadecimal digits: the beginning of the SHA-256 of the parts, in their order,
    of the labels and of the names of the classes.
    """
    names = [name.encode() for name in class_names]
    numbers = [] if labels is None else [labels.astype("<i8").tobytes()]
    digest = hashlib.sha256()
    for part in (*parts, b"labels", *names, *numbers):
        digest.update(len(part).to_bytes(8, "little"))  # where it ends
        digest.update(part)
    return digest.hexdigest()[:16]


def array_fingerprint(array: np.ndarray | Tensor, labels: Int[np.ndarray, "n"] | None,
                      class_names: Sequence[str]) -> str:
    """Of the shape, the type and the bytes of an array [n, …] of bytes; where it has
    more than `SAMPLE_BYTES`, of evenly spread rows.
    """
    size = int(np.prod(array.shape[1:]))
    head = f"uint8 {list(array.shape)}".encode()
    if len(array) * size > SAMPLE_BYTES:
        array = array[evenly_spread(len(array), max(1, SAMPLE_BYTES // size))]
    values = array.numpy(force=True) if isinstance(array, Tensor) else array
    return fingerprint_of((head, values.tobytes()), labels, class_names)


def evenly_spread(n: int, count: int) -> Int[np.ndarray, "chosen"]:
    """`count` of the numbers 0 … n − 1, with the first and the last; all of them where
    there are fewer.
    """
    return np.unique(np.linspace(0, n - 1, min(n, count)).round().astype(np.int64))
