"""From indices to batches on the device, ahead of the training step where that takes time."""

import os
import signal
from collections.abc import Iterable, Iterator

import torch
from jaxtyping import Int, UInt8
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from stylegan2.data.source import ImageSource, StoredImages

Batch = tuple[UInt8[Tensor, "batch 3 side side"], Int[Tensor, "batch"] | None]


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

    def batches(self, indices: Iterable[Int[Tensor, "batch"]]) -> Iterator[Batch]:
        """Images (0 … 255) and labels of each of these index tensors, in their order; as long as there are any.

        Close the iterator, or drop it, to stop the workers. They read `indices` ahead, from this process.
        """
        if self.stored or self.workers == 0:
            for index in indices:
                yield self.batch(index)
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

    def batch(self, index: Int[Tensor, "batch"]) -> Batch:
        """One batch, made here and now."""
        index = index.to(self.device) if self.stored else index
        images, labels = self.source.images(index), self.source.labels(index)
        return images.to(self.device), labels if labels is None else labels.to(self.device)


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
