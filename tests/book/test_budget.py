import pytest
import torch

from book import budget


@pytest.mark.parametrize(("name", "expected"), [("smoke", 1), ("cpu", 2), ("cuda", 3), ("full", 4)])
def test_environment_decides(monkeypatch, name, expected):
    monkeypatch.setenv("BOOK_BUDGET", name)
    assert budget.name() == name
    assert budget.pick(smoke=1, cpu=2, cuda=3, full=4) == expected


@pytest.mark.parametrize(("has_gpu", "expected"), [(True, "cuda"), (False, "cpu")])
def test_device_decides_otherwise(monkeypatch, has_gpu, expected):
    monkeypatch.delenv("BOOK_BUDGET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: has_gpu)
    assert budget.name() == expected
    assert budget.choose_device() == torch.device(expected)
    monkeypatch.setenv("BOOK_DEVICE", "cpu")
    assert budget.name() == "cpu"
    assert budget.choose_device() == torch.device("cpu")


def test_bigger_budgets_fall_back(monkeypatch):
    monkeypatch.setenv("BOOK_BUDGET", "full")
    assert budget.pick(smoke=1, cpu=2) == 2
    assert budget.pick(smoke=1, cpu=2, cuda=3) == 3
    monkeypatch.setenv("BOOK_BUDGET", "cuda")
    assert budget.pick(smoke=1, cpu=2, full=4) == 2


def test_a_value_that_is_false_is_a_value(monkeypatch):
    monkeypatch.setenv("BOOK_BUDGET", "full")
    assert budget.pick(smoke=5, cpu=5, cuda=0) == 0
    assert budget.pick(smoke=True, cpu=True, full=False) is False


def test_unknown_budget_is_named(monkeypatch):
    monkeypatch.setenv("BOOK_BUDGET", "tpu")
    with pytest.raises(ValueError, match=r"'tpu'.*smoke, cpu, cuda, full"):
        budget.name()


def test_a_mac_s_gpu_is_taken_only_when_asked_for(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert budget.choose_device() == torch.device("cpu")


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "gpu", "cuda:x"])
def test_a_device_that_is_not_there_is_named(monkeypatch, device):
    monkeypatch.setenv("BOOK_DEVICE", device)
    with pytest.raises(ValueError, match=f"BOOK_DEVICE is '{device}'.*set it to"):
        budget.choose_device()


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_clock_is_read_once_the_device_has_done_its_work(monkeypatch, kind):
    """The processor's on a CPU; on a GPU, where that stands still while it computes, the wall's."""
    read = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: read.append("waited"))
    monkeypatch.setattr(budget.time, "process_time", lambda: read.append("processor") or 1.0)
    monkeypatch.setattr(budget.time, "perf_counter", lambda: read.append("wall") or 2.0)
    assert budget.now(torch.device(kind)) == {"cpu": 1.0, "cuda": 2.0}[kind]
    assert read == {"cpu": ["processor"], "cuda": ["waited", "wall"]}[kind]
