"""The counter of bytes against sums done by hand."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses import FakeTensorMode

from book.memory import Memory

KIB = 1024  # bytes of the 256 numbers that each tensor here has


def test_what_is_dropped_no_longer_counts():
    x = torch.zeros(256)
    with Memory() as memory:
        y = x + 1
        z = y + 1
        del y
        z = z + 1
    assert memory.history == [0, KIB, 2 * KIB, 2 * KIB]  # at the third result, the first is gone
    assert (memory.alive, memory.peak) == (KIB, 2 * KIB)
    del z
    assert memory.alive == 0


def test_views_and_results_in_place_add_nothing():
    with Memory() as memory:
        x = torch.zeros(256)
        x.view(16, 16).T[3:].add_(1)
    assert memory.peak == KIB


@settings(max_examples=20, deadline=None)
@given(n=st.integers(1, 12))
def test_a_chain_keeps_what_its_backward_pass_needs(n):
    """n results of tanh, each kept, because its own derivative needs it."""
    x = torch.zeros(256, requires_grad=True)
    with Memory() as memory:
        y = x
        for _ in range(n):
            y = y.tanh()
    assert memory.alive == memory.peak == n * KIB
    del y
    assert memory.alive == 0


def test_fake_tensors_count_as_real_ones():
    def run():
        with Memory() as memory:
            x = torch.zeros(256, requires_grad=True)
            (x.tanh() * x).sum().backward()
        return memory.peak, memory.alive  # not the history: fake tensors take more steps

    with FakeTensorMode():
        hollow = run()
    assert hollow == run()
