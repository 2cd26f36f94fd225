"""From indices to batches on the device, ahead of the training step where that takes time."""

import os
import signal
from collections.abc import Generator, Iterable, Iterator

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stylegan2.data.source import ImageSource, StoredImages

GROUP_PIXELS = 2**18  # drawn at once where nobody draws ahead: PyTorch's calls cost more than few pixels do
Batch = tuple[UInt8[Tensor, "batch channels side side"], Int[Tensor, "batch"] | None]


class Loader:
    """The images of a source, batch by batch, on a device.

    What is in memory moves to the device once and is picked there. What must be decoded or drawn is, by worker
    processes, a few batches ahead. Either way a batch depends on its indices alone, and the random states of this
    process are left as they are.

    Args:
        source: the images.
        device: where batches are wanted.
        workers: processes that decode or draw; 0 for this one. When not given: for a GPU up to 8, shared out among the
            processes of a distributed run; for a CPU, whose cores are busy with training, none.
    """

    def __init__(self, source: ImageSource, device: torch.device, workers: int | None = None):
        self.source = source.to(device) if isinstance(source, StoredImages) else source
        self.device, self.stored = device, isinstance(source, StoredImages)
        self.workers = default_workers(device) if workers is None else workers

    def batches(self, indices: Iterable[Int[Tensor, "_"]]) -> Generator[Batch, None, None]:
        """Images (0 … 255) and labels of each of these index tensors, in their order; as long as there are any.

        `indices` are read ahead of the batches, in this process. Close the iterator to stop the workers.
        """
        if self.stored or self.workers == 0:
            for group in groups(indices, 1 if self.stored else GROUP_PIXELS // self.source.resolution**2):
                yield from self.together(group)
            return
        loader = DataLoader(IndexedBatches(self.source), batch_size=None, sampler=indices,
                            num_workers=self.workers, pin_memory=self.device.type == "cuda",
                            worker_init_fn=leave_signals_to_parent,
                            generator=torch.Generator())  # else it would draw a seed from the default generator
        iterator = iter(loader)
        try:
            for images, labels in iterator:
                labels = labels if labels is None else labels.to(self.device, non_blocking=True)
                yield images.to(self.device, non_blocking=True), labels
        finally:  # dropping it is not enough: the traceback of an exception holds on to it
            iterator._shutdown_workers()  # type: ignore[attr-defined]

    def together(self, group: list[Int[Tensor, "_"]]) -> Iterator[Batch]:
        """Some batches, made here and now and at once, which costs less than one by one."""
        index, sizes = torch.cat(group), [len(index) for index in group]
        index = index.to(self.device) if self.stored else index
        images, labels = self.source.images(index), self.source.labels(index)
        each_labels = [None] * len(group) if labels is None else labels.to(self.device).split(sizes)
        yield from zip(images.to(self.device).split(sizes), each_labels, strict=True)


def groups(indices: Iterable[Int[Tensor, "_"]], size: int) -> Iterator[list[Int[Tensor, "_"]]]:
    """Successive index tensors, as many as give at least `size` images; of the last ones fewer."""
    group: list[Tensor] = []
    for index in indices:
        group.append(index)
        if sum(map(len, group)) >= size:
            yield group
            group = []
    if group:
        yield group


class IndexedBatches(Dataset):
    """A source as PyTorch's DataLoader wants it: one item is a whole batch."""

    def __init__(self, source: ImageSource):
        self.source = source

    def __getitem__(self, index: Int[Tensor, "batch"]) -> Batch:
        return self.source.images(index), self.source.labels(index)


def leave_signals_to_parent(worker: int) -> None:
    """Ctrl-C reaches every process of the terminal; the trainer needs its workers until it has saved."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def default_workers(device: torch.device) -> int:
    """As `Loader` says."""
    if device.type == "cpu":
        return 0
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(8, max(1, (os.cpu_count() or 1) // processes))
