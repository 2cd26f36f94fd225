"""The classes of images: by their folders, by a dataset tool's list, or by an array."""

import json
import logging
import posixpath
import re
import reprlib
from collections.abc import Callable, Collection, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Shaped

from stylegan2.data.names import printable, with_slashes

log = logging.getLogger(__name__)
LIST = "dataset.json"  # where the dataset tool of StyleGAN2-ADA and 3 keeps the labels
MAX_LIST_BYTES = 2**28  # of that file: some millions of images
MAX_CLASSES = 2**16  # a larger label is no number of a class, but an identifier or so
# Folders that only keep each other short: 00001/img00001000.png of the dataset tool,
# 01000/01000.png of FFHQ.
SHARD = re.compile(r"(^|/)((\d{5})/img\3\d{3}|(\d\d)000/\4\d{3})\.\w+$")
Labels = tuple[Int[np.ndarray, "n"] | None, tuple[str, ...]]  # and the classes' names


def labels_of_files(files: Sequence[str], known: Collection[str],
                    read: Callable[[str], bytes | None], what: str) -> Labels:
    """The classes of image files, by `dataset.json` where there is one, else by their
    folders.

    Args:
        files: their paths in the set.
        known: the paths of all its image files, also of those that are not used.
        read: the bytes of the file of this path in the set; nothing if there is none.
        what: the set, for messages.

    Raises:
        ValueError: `dataset.json` is not what it should be, or lists other files.
    """
    names = [with_slashes(file) for file in files]
    for folder in folders_of_all(names):
        data = read(folder + LIST)
        if data is not None:
            inside = [name.removeprefix(folder) for name in names]
            others = [with_slashes(file).removeprefix(folder) for file in known]
            return listed_labels(data, inside, others, f"{folder}{LIST} of {what}")
    return labels_by_folder(names)


def folders_of_all(names: Sequence[str]) -> list[str]:
    """The folders that hold all these files, from the top of the set ("") down, with a
    slash at the end.
    """
    above = [str(PurePosixPath(name).parent) for name in names] or ["."]
    common = PurePosixPath(posixpath.commonpath(above)).parts
    return ["".join(f"{part}/" for part in common[:depth])
            for depth in range(len(common) + 1)]


def labels_by_folder(names: Sequence[str]) -> Labels:
    """Labels by the first folder in which the paths differ: train/cat/1.png,
    train/dog/2.png → cat, dog.

    Returns:
        No labels where there is one folder only, where a file lies beside the folders,
        or where the folders only keep each other short (`SHARD`).
    """
    parents = [PurePosixPath(name).parent.parts for name in names]
    levels = zip(*parents, strict=False)  # as many as the least deep file has
    depth = next((k for k, level in enumerate(levels) if len(set(level)) > 1), None)
    if depth is None or all(SHARD.search(name) for name in names):
        return None, ()
    folders = sorted({parent[depth] for parent in parents})
    number = {name: k for k, name in enumerate(folders)}
    labels = np.array([number[parent[depth]] for parent in parents])
    return labels, tuple(map(printable, folders))


def numbers(n_classes: int) -> tuple[str, ...]:
    """Names for classes that have none."""
    return tuple(str(k) for k in range(n_classes))


# ---- the list of a dataset tool

def listed_labels(data: bytes, names: Sequence[str], known: Collection[str],
                  what: str) -> Labels:
    """The classes of these images by the bytes of a `dataset.json`.

    Args:
        data: {"labels": [["00000/img00000000.png", 3], …]}; or one-hot vectors in place
            of numbers; or null, or nothing, for a set without labels.
        names: the images, as they are listed.
        known: all image files that may be listed.
        what: the list, for messages.

    Raises:
        ValueError: it has another form, or is not the list of these images.
    """
    listed = parse_list(data, what)
    if all(label is None for label in listed.values()):
        if labels_by_folder(names)[0] is not None:
            log.warning("%s gives no labels, so that the folders are not taken for "
                        "classes; remove it if they are", what)
        return None, ()
    missing = sorted(set(listed) - set(known))
    if missing:
        raise ValueError(f"{what} lists {several(missing)}, and there is no such image"
                         ": add what is missing, or take it out of the list")
    unlisted = sorted(set(names) - set(listed))
    if unlisted:
        raise ValueError(f"{what} does not list {several(unlisted)}: add the labels, "
                         "or take these files out of the set")
    classes, n_classes = classes_of(listed, what)
    number = dict(zip(listed, classes, strict=True))
    return np.array([number[name] for name in names], np.int64), numbers(n_classes)


def parse_list(data: bytes, what: str) -> dict[str, Any]:
    """The labels in a `dataset.json` by file, as they are there; none where they are
    null or missing.

    Raises:
        ValueError: it has another form, or gives a file two labels.
    """
    repair = "mend it, or remove it to train without its labels"
    try:
        content = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{what} is no JSON ({error}): {repair}") from error
    if not isinstance(content, dict):
        raise ValueError(f'{what} holds {reprlib.repr(content)}, not an object like '
                         f'{{"labels": [["00000/img00000000.png", 3], …]}}: {repair}')
    pairs = content.get("labels")
    if not isinstance(pairs, list | None):
        raise ValueError(f"{what} has the labels {reprlib.repr(pairs)}, neither null "
                         f"nor a list of pairs of file and label: {repair}")
    labels: dict[str, Any] = {}
    for pair in pairs or []:
        if not (isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str)):
            raise ValueError(f"{what} lists {reprlib.repr(pair)}, which is no pair of "
                             f"file and label: {repair}")
        if labels.setdefault(with_slashes(pair[0]), pair[1]) != pair[1]:
            raise ValueError(f"{what} lists {printable(pair[0])} twice, with different "
                             "labels: take the wrong one out")
    return labels


def classes_of(listed: dict[str, Any], what: str) -> tuple[list[int], int]:
    """The number of each file's class, and how many classes there are: one more than
    the largest number, or the length of the one-hot vectors.

    Raises:
        ValueError: the labels are neither all numbers of classes nor all one-hot
            vectors.
    """
    nulls = [name for name, label in listed.items() if label is None]
    if nulls:
        raise ValueError(f"{what} gives no label (null) to {several(nulls)}, but "
                         "labels other images: label every image, or none")
    labels = list(listed.values())
    if all(isinstance(label, list) for label in labels):
        lengths = {len(label) for label in labels}
        bits = all(value in (0, 1) for label in labels for value in label)
        if bits and len(lengths) == 1:
            classes, one_hot = from_one_hot(np.array(labels, np.float64))
            if one_hot.all():
                return classes.tolist(), lengths.pop()
        raise ValueError(f"{what} has vectors as labels, not all of which are one-hot "
                         "(a single 1, else 0) and as long as the others: give each "
                         "image the number of one class")
    for name, label in listed.items():
        if type(label) is not int or not 0 <= label < MAX_CLASSES:
            raise ValueError(f"{what} gives {printable(name)} the label "
                             f"{reprlib.repr(label)}: number the classes 0, 1, 2, … up "
                             f"to {MAX_CLASSES - 1} at most")
    return labels, max(labels) + 1


def from_one_hot(vectors: Shaped[np.ndarray, "n classes"]
                 ) -> tuple[Int[np.ndarray, "n"], Bool[np.ndarray, "n"]]:
    """Where the 1 is in each vector, and whether all the rest of it is 0."""
    ones = vectors == 1
    one_hot = (ones.sum(1) == 1) & (ones | (vectors == 0)).all(1)
    return ones @ np.arange(vectors.shape[1]), one_hot


def several(names: Sequence[str]) -> str:
    """The first of some names, and how many there are besides."""
    return printable(names[0]) + (f" and {len(names) - 1} more" if names[1:] else "")


# ---- arrays

def check_labels(labels: np.ndarray, n: int,
                 what: str) -> tuple[Int[np.ndarray, "n"], int]:
    """The labels of n images and the number of classes, from numbers of classes [n] or
    one-hot vectors [n, classes].

    Raises:
        ValueError: they are neither, or not n, or a number is negative or too large.
    """
    if labels.ndim == 2 and labels.shape[1] > 1 and labels.dtype.kind in "biuf":
        classes, one_hot = from_one_hot(labels)
        if len(labels) == n and one_hot.all():
            return classes, labels.shape[1]
        raise ValueError(f"the labels of {what} have the shape {list(labels.shape)}, "
                         f"but are not {n} one-hot vectors (a single 1, else 0): give "
                         "each image the number of one class, 0, 1, 2, …")
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"the labels of {what} are {labels.dtype}: they must be "
                         "integers, 0, 1, 2, …; np.unique(labels, return_inverse="
                         "True)[1] numbers classes of any kind")
    if labels.shape != (n,):
        raise ValueError(f"the labels of {what} have the shape {list(labels.shape)}: "
                         f"there must be {n} of them, one for each image; "
                         "labels.reshape(-1) drops axes of length 1")
    if labels.min() < 0 or labels.max() >= MAX_CLASSES:
        raise ValueError(f"the labels of {what} begin at {labels.min()} and end at "
                         f"{labels.max()}: number the classes 0, 1, 2, … up to "
                         f"{MAX_CLASSES - 1} at most")
    return labels.astype(np.int64), int(labels.max()) + 1
