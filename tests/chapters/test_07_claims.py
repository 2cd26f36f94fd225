"""Chapter 7: what its text says of the package and of the recorded runs, and no cell of it shows."""

import dataclasses

import pytest
import torch
from torch import nn

from book.records import series
from stylegan2.penalties import squared_gradient_norms
from stylegan2.training.players import Players
from stylegan2.training.presets import PRESETS
from stylegan2.training.step import Step


def test_penalties_are_taken_of_the_plain_images_in_float32():
    torch.manual_seed(0)
    changes = {"resolution": 8, "batch_size": 4, "n_features": 4, "max_features": 8, "d_latent": 8}
    players = Players(dataclasses.replace(PRESETS["stylegan2"], **changes, augment=True, precision="bf16"))
    players.augment.p.fill_(1.0)
    step, real = Step(players), torch.rand(4, 3, 8, 8) * 2 - 1
    seen, formats = [], []
    step.phases.r1.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    first = players.discriminator.from_rgb[0]
    first.register_forward_hook(lambda _, arguments, result: formats.append((arguments[0].detach(), result.dtype)))
    parts = step.parts(real, None)
    step.phases.real_loss(parts[0]).backward()
    step.phases.fake_loss(parts[0]).backward()
    step.phases.discriminator_penalty(parts[0]).backward()
    assert torch.equal(seen[0], real)  # the gradient is taken with respect to the images as they are …
    assert not torch.equal(formats[-1][0], real)  # … and the discriminator saw them transformed
    assert [dtype for _, dtype in formats] == [torch.bfloat16, torch.bfloat16, torch.float32]
    assert any(p.grad is not None and p.grad.any() for p in players.discriminator.parameters())


def test_r1_reaches_every_weight_of_a_piecewise_linear_critic_and_no_bias():
    torch.manual_seed(0)
    critic = nn.Sequential(nn.Flatten(), nn.Linear(12, 16), nn.LeakyReLU(0.2), nn.Linear(16, 1))
    x = torch.randn(8, 3, 2, 2, requires_grad=True)
    squared_gradient_norms(x, critic(x)).mean().backward()
    for name, p in critic.named_parameters():
        assert (p.grad is not None and bool(p.grad.any())) == name.endswith("weight"), name


def test_the_recorded_run_without_r1_swings_more_and_ends_further_from_the_data():
    def late(run):
        return [row["score.real"] - row["score.fake"] for row in run["history"] if row["images"] > 20_000]

    runs = series("failures")
    gaps = {name: late(runs[name]) for name in ("reference", "no-r1")}
    means = {name: sum(gap) / len(gap) for name, gap in gaps.items()}
    assert means["no-r1"] > 2 * means["reference"]
    assert max(gaps["no-r1"]) > 2 * max(gaps["reference"])
    distances = {name: runs[name]["measures"][-1]["frechet"] for name in gaps}
    assert distances["no-r1"] > 1.5 * distances["reference"]
    differing = {key for key in runs["no-r1"]["settings"]
                 if runs["no-r1"]["settings"][key] != runs["reference"]["settings"][key]}
    assert differing == {"r1_gamma"}
    assert runs["reference"]["images"] == pytest.approx(40_000)
