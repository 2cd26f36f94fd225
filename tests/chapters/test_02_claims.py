"""Chapter 2: what its text says of equalized weights, fades and groups, and no cell of it shows."""

import itertools
import json
import math

import pytest
import torch

from book.records import record
from stylegan2.discriminator import MiniBatchStdDev
from stylegan2.equalized import EqualizedWeight
from stylegan2.progressive import images_at_stage
from stylegan2.training.presets import PRESETS


def test_gradient_descent_moves_the_used_weight_by_the_square_of_the_constant():
    torch.manual_seed(0)
    weight, inputs = EqualizedWeight([4, 50], gain=math.sqrt(2)), torch.randn(50)
    before = weight().detach().clone()
    used = before.clone().requires_grad_()
    (used @ inputs).square().sum().backward()
    (weight() @ inputs).square().sum().backward()
    torch.optim.SGD(weight.parameters(), lr=0.01).step()
    torch.testing.assert_close(weight() - before, -0.01 * (2 / 50) * used.grad, rtol=1e-3, atol=1e-6)


def test_a_fade_takes_sharpness_from_the_real_images_too():
    """Of unfaded real images the discriminator would see differences within 2 × 2 pixels that no generated one has."""
    torch.manual_seed(0)
    images = torch.randn(8, 3, 32, 32)

    def within(x):
        return (x[..., 1::2] - x[..., ::2]).square().mean().item()

    assert within(images_at_stage(images, 2 + 1e-6)) < 1e-9
    half = within(images_at_stage(images, 2.5)) / within(images)
    assert half == pytest.approx(0.25, rel=1e-3)  # α²


def test_larger_groups_catch_the_collapse_of_the_exercise_in_part():
    torch.manual_seed(0)
    x = torch.randn(16, 8, 4, 4)
    collapsed = x[torch.arange(4).repeat_interleave(4)]
    honest, caught = (MiniBatchStdDev(16)(batch)[:, -1].mean() for batch in (x, collapsed))
    assert 0.5 * honest < caught < 0.95 * honest


def test_the_rest_of_the_recipe_is_the_papers():
    ours = PRESETS["progan"]
    assert (ours.loss, ours.wgan_gp_weight, ours.r1_interval, ours.grow_from) == ("wasserstein", 10.0, 1, 4)
    assert ours.learning_rate == 0.003


def test_each_resolution_closes_a_gap_and_the_next_opens_one():
    """The record's D(real) − D(generated), a mean over three lines of the history, at times in thousands of images."""
    lines = (record("progan-toyfaces-32") / "history.jsonl").read_text().splitlines()
    gap = {h["images"] // 1000: h["score.real"] - h["score.fake"] for h in map(json.loads, lines)}

    def at(thousands):
        return sum(gap[t] for t in gap if abs(t - thousands) <= 1)

    low_high = [(8, 15), (24, 34), (39, 45), (55, 98)]  # the end of a stable phase, and what comes after
    assert all(at(low) < at(high) for low, high in low_high)
    assert all(at(high) > at(low) for (_, high), (low, _) in itertools.pairwise(low_high))
