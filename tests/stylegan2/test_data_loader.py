"""The loader: batches that depend on their indices alone, and workers that end."""

import contextlib
import itertools
import multiprocessing
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import psutil
import pytest
import torch
from PIL import Image

from stylegan2.data import Loader, StoredImages, ToyFaces, loader, open_source, opening, shuffled_indices

CPU = torch.device("cpu")


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(12):
        path = tmp_path / ("cat" if i % 2 else "dog") / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(path)
    return tmp_path


def source_of(kind, folder, monkeypatch):
    if kind == "drawn":
        return ToyFaces(8, size=12)
    if kind == "later":
        monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    return open_source(folder, 8)


def order(batches=4):
    return [shuffled_indices(12, 5 * k, 5, seed=1) for k in range(batches)]


@pytest.mark.parametrize("kind", ["drawn", "stored", "later"])
@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_those_of_the_indices(folder, monkeypatch, kind, workers):
    source = source_of(kind, folder, monkeypatch)
    batches = list(Loader(source, CPU, workers).batches(order()))
    assert len(batches) == 4
    for index, (images, labels) in zip(order(), batches, strict=True):
        torch.testing.assert_close(images, source.images(index))
        torch.testing.assert_close(labels, source.labels(index))


@pytest.mark.parametrize("workers", [0, 2])
def test_sets_without_labels(workers):
    source = StoredImages(torch.zeros(4, 3, 8, 8, dtype=torch.uint8))
    assert [labels for _, labels in Loader(source, CPU, workers).batches([torch.arange(4)])] == [None]


@pytest.mark.parametrize("workers", [0, 2])
def test_random_states_are_left_alone(workers):
    """A draw by the loader would make a resumed run another one."""
    before = torch.get_rng_state()
    numpy_before = np.random.get_state()[1].copy()  # noqa: NPY002 (the state that must not move)
    list(Loader(ToyFaces(8), CPU, workers).batches(order()))
    torch.testing.assert_close(torch.get_rng_state(), before)
    np.testing.assert_array_equal(np.random.get_state()[1], numpy_before)  # noqa: NPY002


def test_indices_may_go_on_for_ever():
    endless = (shuffled_indices(12, 5 * k, 5, seed=1) for k in itertools.count())
    batches = Loader(ToyFaces(8, size=12), CPU, 2).batches(endless)
    found = [next(batches)[0] for _ in range(6)]
    torch.testing.assert_close(torch.stack(found), torch.stack([ToyFaces(8, size=12).images(i) for i in order(6)]))


def test_several_batches_are_drawn_at_once(monkeypatch):
    """Of any size, and read ahead no farther than what is drawn at once."""
    monkeypatch.setattr(loader, "GROUP_PIXELS", 10 * 8**2)
    faces, read = ToyFaces(8, size=12), []

    def indices():
        for k, size in enumerate([4, 4, 1, 4, 2]):
            read.append(k)
            yield torch.arange(size)

    batches = Loader(faces, CPU).batches(indices())
    next(batches)
    assert read == [0, 1, 2, 3]
    assert [len(labels) for _, labels in batches] == [4, 1, 4, 2]


def workers_end(before, seconds=20):
    end = time.monotonic() + seconds
    while (left := set(multiprocessing.active_children()) - before) and time.monotonic() < end:
        time.sleep(0.05)
    return not left


@pytest.mark.parametrize("how", ["close", "drop", "exception"])
def test_workers_end_with_the_iterator(how):
    before = set(multiprocessing.active_children())
    batches = Loader(ToyFaces(8, size=12), CPU, 2).batches(order(100))
    next(batches)
    assert len(set(multiprocessing.active_children()) - before) == 2
    if how == "close":
        batches.close()
    elif how == "drop":
        del batches
    else:
        with pytest.raises(ValueError, match="from the generator"):
            batches.throw(ValueError("from the generator"))
    assert workers_end(before)


def test_an_error_in_a_worker_is_raised_here():
    before = set(multiprocessing.active_children())
    with pytest.raises(IndexError, match="this set has 0 to 11"):
        list(Loader(ToyFaces(8, size=12), CPU, 2).batches([torch.tensor([99])]))
    assert workers_end(before)


SCRIPT = """
    import multiprocessing, os, signal, sys
    import torch
    from stylegan2.data import Loader, open_source, opening

    if __name__ == "__main__":
        multiprocessing.set_start_method("fork")
        opening.MEMORY_LIMIT = 0
        stopped = []
        signal.signal(signal.SIGINT, lambda *_: stopped.append(1))  # as the trainer does: finish the step, then stop
        source = open_source(sys.argv[1], 8)
        batches = Loader(source, torch.device("cpu"), 2).batches(torch.arange(12).split(4)[k % 3] for k in range(10**9))
        print(*[p.pid for p in multiprocessing.active_children()] or [next(batches)[0].shape[0]], flush=True)
        print(*[p.pid for p in multiprocessing.active_children()], flush=True)
        while not stopped:
            images, labels = next(batches)
        for _ in range(20):
            next(batches)
        print("stopped", flush=True)
"""


@pytest.fixture
def started(folder):
    """The script, with the processes that decode for it; whatever becomes of the test, they end with it."""
    process = subprocess.Popen([sys.executable, "-W", "ignore", "-c", textwrap.dedent(SCRIPT), str(folder)],
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    try:
        assert process.stdout.readline() == "4\n"
        yield process, [int(pid) for pid in process.stdout.readline().split()]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def gone(pids, seconds=20):
    _, alive = psutil.wait_procs([psutil.Process(p) for p in pids if psutil.pid_exists(p)], timeout=seconds)
    return not alive


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX signals")
def test_control_c_stops_the_trainer_before_its_workers(started):
    """A terminal sends SIGINT to every process; those that decode go on until the last step is done."""
    process, pids = started
    os.killpg(process.pid, signal.SIGINT)
    rest = process.communicate(timeout=60)[0]
    assert rest == "stopped\n"
    assert process.returncode == 0
    assert gone(pids)


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="POSIX signals")
def test_workers_outlive_no_kill(started):
    process, pids = started
    assert len(pids) == 2
    process.kill()
    process.wait()
    assert gone(pids)


@pytest.mark.parametrize("kind", ["folder", "zip"])
def test_sources_reach_processes_that_share_nothing(folder, monkeypatch, kind):
    """Where processes are spawned (Windows, macOS, Python 3.14), each opens the files for itself."""
    monkeypatch.setattr(opening, "MEMORY_LIMIT", 0)
    path = shutil.make_archive(str(folder / "set"), "zip", folder) if kind == "zip" else folder
    source = open_source(path, 8)
    index = torch.arange(12)
    torch.testing.assert_close(pickle.loads(pickle.dumps(source)).images(index), source.images(index))


def test_workers_by_default(monkeypatch):
    monkeypatch.setattr(loader.os, "cpu_count", lambda: 12)
    assert loader.default_workers(CPU) == 0
    cuda = torch.device("cuda")
    assert loader.default_workers(cuda) == 8
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert loader.default_workers(cuda) == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert loader.default_workers(cuda) == 1
