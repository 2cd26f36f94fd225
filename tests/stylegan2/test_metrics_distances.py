"""Distances between sets of feature vectors: against closed forms, scipy, and loops."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import linalg

from stylegan2.metrics import Moments, frechet_distance, kernel_distance, precision_recall
from stylegan2.metrics.distances import share_inside, unbiased_mmd


def gaussian(mean, covariance):
    """Moments that are given, not estimated."""
    moments = Moments(len(mean))
    moments.count, moments.mean = 2, torch.tensor(mean, dtype=torch.float64)
    moments.scatter = torch.as_tensor(covariance, dtype=torch.float64)  # divided by count − 1 = 1
    return moments


def draw(n, d, seed=0, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)) + shift


@settings(max_examples=30, deadline=None)
@given(values=st.lists(st.tuples(*[st.floats(-10, 10)] * 2, *[st.floats(0, 10)] * 2), min_size=1, max_size=5))
def test_frechet_distance_of_independent_coordinates(values):
    """Σ (μ₁ − μ₂)² + (σ₁ − σ₂)²; a σ of 0 is a covariance without full rank."""
    m1, m2, s1, s2 = (np.array(column) for column in zip(*values, strict=True))
    found = frechet_distance(gaussian(m1.tolist(), np.diag(s1**2)), gaussian(m2.tolist(), np.diag(s2**2)))
    assert found == pytest.approx(((m1 - m2) ** 2 + (s1 - s2) ** 2).sum(), rel=1e-9, abs=1e-9)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), d=st.integers(1, 12))
def test_frechet_distance_agrees_with_the_matrix_square_root_of_scipy(seed, d):
    random = np.random.default_rng(seed)
    a, b = (random.normal(size=(d, d + 3)) for _ in range(2))
    a, b, shift = a @ a.T, b @ b.T, random.normal(size=d)
    expected = shift @ shift + np.trace(a + b - 2 * linalg.sqrtm(a @ b).real)
    assert frechet_distance(gaussian([0.0] * d, a), gaussian(shift.tolist(), b)) == pytest.approx(expected, rel=1e-6)


def test_frechet_distance_is_zero_at_home_and_symmetric():
    a, b = Moments.of(draw(10, 20)), Moments.of(3 * draw(10, 20, seed=1))  # fewer vectors than dimensions
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-9)


def test_frechet_distance_of_few_vectors_in_many_dimensions():
    """Two points each: rank 1. In their plane the distance can be written down."""
    a, b = torch.zeros(2, 50), torch.zeros(2, 50)
    a[:, 0], b[:, 1] = torch.tensor([-1.0, 1.0]), torch.tensor([-3.0, 3.0])  # variances 2 and 18, orthogonal
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx(2 + 18)
    b = b.roll(-1, dims=1)  # the same direction: (√2 − √18)²
    assert frechet_distance(Moments.of(a), Moments.of(b)) == pytest.approx((math.sqrt(18) - math.sqrt(2)) ** 2)


@settings(max_examples=10, deadline=None)
@given(sizes=st.lists(st.integers(0, 7), min_size=1, max_size=6), offset=st.sampled_from([0.0, 1e4]))
def test_moments_that_come_in_batches_are_those_of_the_whole(sizes, offset):
    """In float64, also where the mean is far larger than the spread."""
    x = draw(sum(sizes) + 2, 3).double() + offset
    moments = Moments(3)
    for batch in x.split([*sizes, 2]):
        moments.update(batch)
    torch.testing.assert_close(moments.mean, torch.from_numpy(x.numpy().mean(axis=0)), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(moments.covariance, torch.from_numpy(np.cov(x.numpy(), rowvar=False)), rtol=1e-9,
                               atol=1e-9)


def test_kernel_distance_is_the_double_loop():
    x, y, d = draw(5, 3).double(), draw(7, 3, seed=1).double(), 3

    def kernel(u, v):
        return (float(u @ v) / d + 1) ** 3

    expected = (np.mean([kernel(x[i], x[j]) for i in range(5) for j in range(5) if i != j])
                + np.mean([kernel(y[i], y[j]) for i in range(7) for j in range(7) if i != j])
                - 2 * np.mean([kernel(u, v) for u in x for v in y]))
    assert unbiased_mmd(x, y).item() == pytest.approx(expected, rel=1e-12)


def test_kernel_distance_is_zero_on_average_where_the_sets_are_alike():
    """Over sets of their own: subsets of one set share its chance. A biased estimate would be all above 0."""
    found = torch.stack([unbiased_mmd(draw(30, 4, seed=2 * i).double(), draw(30, 4, seed=2 * i + 1).double())
                         for i in range(200)])
    error = found.std().item() / math.sqrt(200)
    assert abs(found.mean().item()) < 4 * error
    assert (found < 0).double().mean().item() > 0.3
    with_itself = torch.cat([draw(30, 4)] * 2).double()  # what a biased estimate would be off by is far more than that
    assert ((with_itself @ with_itself.T / 4 + 1).diagonal() ** 3).mean().item() / 30 > 10 * error


def test_kernel_distance_over_subsets():
    a, b = draw(300, 4), draw(300, 4, seed=1, shift=0.5)
    found = kernel_distance(a, b, subsets=50, subset_size=100)
    assert found.mean == pytest.approx(unbiased_mmd(a.double(), b.double()).item(), abs=4 * found.std / math.sqrt(50))
    assert found == kernel_distance(a, b, subsets=50, subset_size=100)
    assert found != kernel_distance(a, b, subsets=50, subset_size=100, seed=1)
    assert kernel_distance(a, b, subsets=5, subset_size=10**6).std > 0  # subsets differ also of a small set


def test_precision_and_recall_of_sets_that_can_be_overlooked():
    real = draw(200, 3)
    assert precision_recall(real, real) == (1, 1)
    assert precision_recall(real, real + 100) == (0, 0)


def test_a_dropped_mode_costs_recall_and_no_precision():
    real = torch.cat([draw(300, 2), draw(300, 2, seed=1, shift=50)])
    one_mode, both = draw(600, 2, seed=2), torch.cat([draw(300, 2, seed=2), draw(300, 2, seed=3, shift=50)])
    assert precision_recall(real, both).recall > 0.9
    found = precision_recall(real, one_mode)
    assert found.precision > 0.9
    assert found.recall == pytest.approx(0.5, abs=0.02)
    invented = precision_recall(one_mode, real)  # the other way round: what is invented costs precision
    assert invented.precision == pytest.approx(0.5, abs=0.02)
    assert invented.recall > 0.9


@pytest.mark.parametrize("chunk", [1, 7, 1000])
def test_shares_are_those_of_a_loop_whatever_the_chunk(chunk):
    points, centres = draw(40, 2, seed=1, shift=0.7), draw(30, 2)
    inside = 0
    for p in points:
        for c in centres:
            radius = sorted(math.dist(c, other) for other in centres)[3]  # 0 is the centre itself
            if math.dist(p, c) <= radius:
                inside += 1
                break
    assert share_inside(points, centres, k=3, chunk=chunk) == pytest.approx(inside / 40)


def test_bad_features_are_named():
    good, bad = draw(20, 3), draw(20, 3)
    bad[7, 1] = float("nan")
    for metric in (kernel_distance, precision_recall):
        with pytest.raises(ValueError, match="the first is number 7"):
            metric(good, bad)
        with pytest.raises(ValueError, match=r"3 numbers each on one side and 4 on the other"):
            metric(good, draw(20, 4))
        with pytest.raises(ValueError, match="1 feature vectors are too few"):
            metric(good, good[:1])
    with pytest.raises(ValueError, match="the first is number 7"):
        Moments.of(bad)
    with pytest.raises(ValueError, match="needs two feature vectors or more, not 1"):
        frechet_distance(Moments.of(good), Moments.of(good[:1]))
    with pytest.raises(ValueError, match="3 numbers each on one side and 4"):
        frechet_distance(Moments.of(good), Moments.of(draw(20, 4)))
    with pytest.raises(ValueError, match="4 numbers each, those before had 3"):
        Moments.of(good).update(draw(2, 4))
    with pytest.raises(ValueError, match="two subsets of two vectors are the least"):
        kernel_distance(good, good, subsets=1)


def test_features_stand_for_their_moments():
    torch.manual_seed(0)
    x, y = torch.randn(40, 5), torch.randn(30, 5) + 1
    assert frechet_distance(x, y) == frechet_distance(Moments.of(x), Moments.of(y))
