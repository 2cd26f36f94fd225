"""Public sets by name: where they are, and how their files hold images and labels.

Their makers' terms hold: AFHQ (CC BY-NC 4.0) and FFHQ (CC BY-NC-SA 4.0) are not for commercial use.
"""

import gzip
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from stylegan2.data.download import RemoteFile
from stylegan2.data.rows import ArrayRows, Rows, ZipRows

CIFAR_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FASHION_CLASSES = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag",
                   "ankle boot")


@dataclass(frozen=True)
class NamedSet:
    """A public set.

    Args:
        files: what must be fetched.
        read: from where the files are on this machine to the images.
    """

    files: tuple[RemoteFile, ...]
    read: Callable[..., Rows]

    def open(self) -> Rows:
        """
        Raises:
            ConnectionError, ValueError: as `RemoteFile.fetch` says; ValueError also for contents that are
                not those of the set.
        """
        return self.read(*(file.fetch() for file in self.files))


def read_cifar(path: Path) -> ArrayRows:
    """The 50 000 training images of CIFAR-10's binary version: per image a byte of label, then 3·32·32 of pixels.

    Members of the archive are read by their names, nothing is unpacked.

    Raises:
        ValueError: a member is missing, or has another size.
    """
    batches = []
    try:
        with tarfile.open(path) as archive:
            for k in range(1, 6):
                file = archive.extractfile(f"cifar-10-batches-bin/data_batch_{k}.bin")
                data = file.read(10_000 * 3073 + 1) if file else b""
                batches.append(np.frombuffer(data, np.uint8).reshape(10_000, 3073))
    except (tarfile.TarError, KeyError, OSError, EOFError, ValueError) as error:
        message = f"{path} does not hold CIFAR-10's binary version ({error}): delete it to fetch it again"
        raise ValueError(message) from error
    records = np.concatenate(batches)
    return ArrayRows(records[:, 1:].reshape(-1, 3, 32, 32), records[:, 0], CIFAR_CLASSES)


def read_fashion(images: Path, labels: Path) -> ArrayRows:
    """Fashion-MNIST's 60 000 training images, with a black margin of 2 pixels to make 28² pixels 32².

    Raises:
        ValueError: a file is not what it should be.
    """
    pixels = np.pad(read_idx(images, (60_000, 28, 28)), ((0, 0), (2, 2), (2, 2)))
    return ArrayRows(pixels, read_idx(labels, (60_000,)), FASHION_CLASSES)


def read_idx(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "..."]:
    """An array of bytes in MNIST's format: two zeros, 8 (for bytes), the number of dimensions, their sizes as
    big-endian 32-bit integers, the bytes.

    Raises:
        ValueError: the file is cut short, or holds another shape.
    """
    header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">u4").tobytes()
    size = int(np.prod(shape))
    try:
        with gzip.open(path) as file:
            found, data = file.read(len(header)), file.read(size)
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is cut short or no gzip file ({error}): delete it to fetch it again") from error
    if found != header or len(data) != size:
        raise ValueError(f"{path} does not hold bytes of the shape {list(shape)}: delete it to fetch it again")
    return np.frombuffer(data, np.uint8).reshape(shape)


def read_afhq(path: Path) -> ZipRows:
    """The training images: cats, dogs, wild animals."""
    return ZipRows(path, under="afhq/train/")


def read_ffhq(path: Path) -> ZipRows:
    """All 70 000 images. Their folders only keep each other short."""
    return ZipRows(path, labelled=False)


def fashion_file(name: str, checksum: str) -> RemoteFile:
    """One of Fashion-MNIST's files, where its makers keep them."""
    url = f"https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/{name}"
    return RemoteFile(url, checksum, f"fashion-{name}")


NAMED_SETS = {
    "cifar10": NamedSet((RemoteFile("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
                                    "md5:c32a1d4ab5d03f1284b67883e8d87530", "cifar-10-binary.tar.gz"),), read_cifar),
    "fashion-mnist": NamedSet((fashion_file("train-images-idx3-ubyte.gz", "md5:8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
                               fashion_file("train-labels-idx1-ubyte.gz", "md5:25c81989df183df01b3e8a0aad5dffbe")),
                              read_fashion),
    "afhq": NamedSet((RemoteFile("https://www.dropbox.com/s/t9l9o3vsx2jai3z/afhq.zip?dl=1",
                                 "md5:6909887208505a6e70d732fa20629995", "afhq.zip"),), read_afhq),
    # A mirror: the address of the makers is a folder of Google Drive, which does not hand out files of this size.
    "ffhq-thumbnails": NamedSet((RemoteFile(
        "https://huggingface.co/datasets/nuwandaa/ffhq128/resolve/1b277b6efe3ba86ff0c712b88753892ca5c4e7a3/"
        "thumbnails128x128.zip", "sha256:ef9fd4b39922cf599c6446e45b03b334824c6ce19b4b8bdf7aee6d06df355f3f",
        "thumbnails128x128.zip"),), read_ffhq),
}
