"""One step: who moves when, lazy regularization, parts of a batch, latents."""

import dataclasses

import pytest
import torch

from stylegan2 import losses as published
from stylegan2.training import Settings
from stylegan2.training.phases import GAMES
from stylegan2.training.players import Latents, Players
from stylegan2.training.presets import PRESETS
from stylegan2.training.processes import Processes
from stylegan2.training.step import Step
from stylegan2.training.update import Update

TINY = {"resolution": 8, "batch_size": 4, "n_features": 4, "max_features": 8, "d_latent": 8}


def make(seed=0, class_weights=None, **changes):
    torch.manual_seed(seed)
    model = changes.pop("model", "stylegan2")
    players = Players(dataclasses.replace(PRESETS[model], **{**TINY, **changes}),
                      n_classes=0 if class_weights is None else len(class_weights))
    step = Step(players, class_weights=class_weights)
    return players, step, torch.rand(step.settings.batch_size, 3, 8, 8) * 2 - 1


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def snapshot(module):
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def changed(module, before):
    return {name for name, p in module.named_parameters() if not torch.equal(p, before[name])}


def halves(step, parts):
    return (half(part) for part in parts for half in (step.phases.real_loss, step.phases.fake_loss))


def phases(step, real):
    """The four phases, by the player that each trains: (update, losses). The first has two halves."""
    parts, latents = step.parts(real, None), step.draw(len(real))
    yield "discriminator", step.update_discriminator, halves(step, parts)
    yield "discriminator", step.update_discriminator, map(step.phases.discriminator_penalty, parts)
    yield "generator", step.update_generator, map(step.phases.generator_loss, latents)
    yield "generator", step.update_generator, map(step.phases.generator_penalty, latents)


def test_each_player_moves_only_in_its_own_phases():
    players, step, real = make()
    modules = {"discriminator": players.discriminator, "generator": players.generator}
    for mover, update, losses in phases(step, real):
        before = {name: snapshot(module) for name, module in modules.items()}
        update.descend(losses)
        for name, module in modules.items():
            assert bool(changed(module, before[name])) == (name == mover)


def test_the_generators_step_leaves_no_gradient_in_the_discriminator(monkeypatch):
    """What D has collected when G has moved is what it had when it had moved itself."""
    players, step, real = make()
    collected = []
    for update in (step.update_discriminator, step.update_generator):
        update.adam.register_step_post_hook(lambda *_: collected.append(gradients(players.discriminator)))
    step(1, real)  # no penalties: one step of each
    assert len(collected) == 2
    assert collected[0].keys() == collected[1].keys() != set()
    assert all(torch.equal(collected[0][name], collected[1][name]) for name in collected[0])


@pytest.mark.parametrize("by_hand", [True, False])
@pytest.mark.parametrize("fails", [True, False])
def test_freezing_the_discriminator_restores_what_it_found(monkeypatch, by_hand, fails):
    """Also a layer that was frozen by hand, and also where the generator's turn raises."""
    players, step, real = make()
    layer = players.discriminator.from_rgb[0]
    layer.requires_grad_(not by_hand)
    before = {name: p.requires_grad for name, p in players.discriminator.named_parameters()}
    weights = snapshot(layer)
    if fails:
        def broken(scores):
            assert not any(p.requires_grad for p in players.discriminator.parameters())
            raise RuntimeError("out of memory, say")

        monkeypatch.setattr(step.phases, "game", step.phases.game._replace(of_generator=broken))
        with pytest.raises(RuntimeError, match="say"):
            step(1, real)
    else:
        step(0, real)
    assert {name: p.requires_grad for name, p in players.discriminator.named_parameters()} == before
    assert bool(changed(layer, weights)) != by_hand


def test_penalties_come_at_their_intervals():
    _, step, real = make()
    seen = [set(step(i, real)) for i in range(17)]
    assert [i for i, names in enumerate(seen) if "penalty.r1" in names] == [0, 16]
    assert [i for i, names in enumerate(seen) if "penalty.path_length" in names] == [0, 4, 8, 12, 16]


def test_penalties_are_multiplied_by_their_interval(monkeypatch):
    """The gradient that reaches Adam, from the penalty alone: γ/2 · 16 · ∇R1."""
    players, step, real = make()
    x = real.clone().requires_grad_()
    image_gradient, = torch.autograd.grad(players.discriminator(x).sum(), x, create_graph=True)
    r1 = image_gradient.square().sum() / len(x)
    expected, = torch.autograd.grad(r1, players.discriminator.from_rgb[0].weight.weight)
    monkeypatch.setattr(step.update_discriminator.adam, "step", lambda: None)
    step.update_discriminator(16, halves(step, step.parts(real, None)),
                              map(step.phases.discriminator_penalty, step.parts(real, None)))
    torch.testing.assert_close(players.discriminator.from_rgb[0].weight.weight.grad, expected * (0.3 / 2 * 16))


def test_a_penalty_in_pieces_has_the_gradients_of_the_whole(monkeypatch):
    """Each has whole groups of the minibatch standard deviation; four images are not cut."""
    found = []
    for pixels, count in ((4 * 256**2, 1), (8 * 8**2, 2), (1, 4)):
        players, step, real = make(batch_size=16)
        monkeypatch.setattr("stylegan2.training.phases.PENALTY_PIXELS", pixels)
        part, = step.parts(real, None)
        pieces = part.pieces()
        assert [len(piece.real) for piece in pieces] == [16 // count] * count
        for piece in pieces:
            step.phases.discriminator_penalty(piece, 1 / count).backward()
        found.append((gradients(players.discriminator), step.phases.measured["penalty.r1"]))
    for others, r1 in found[1:]:
        torch.testing.assert_close(r1, found[0][1])
        for name, gradient in found[0][0].items():
            torch.testing.assert_close(others[name], gradient, rtol=1e-4, atol=1e-7, msg=name)


@pytest.mark.parametrize("name", GAMES)
def test_the_halves_of_a_game_are_the_published_loss(name):
    whole = getattr(published, f"{name}_discriminator_loss")
    real, fake = torch.randn(2, 8, 1, dtype=torch.float64)
    torch.testing.assert_close(GAMES[name].on_real(real) + GAMES[name].on_fake(fake), whole(real, fake))


def test_interval_1_adds_the_penalty_to_the_loss():
    """d/dw of w² + 3w at w = 2, in one step of Adam; with an interval of 2 there are two, the second of 2 · 3."""
    def run(interval, step):
        layer = torch.nn.Linear(1, 1, bias=False)
        torch.nn.init.constant_(layer.weight, 2.0)
        update, seen = Update(layer, 0.1, interval), []
        update.adam.register_step_pre_hook(lambda *_: seen.append(layer.weight.grad.item()))
        update(step, [layer.weight.square().sum()], [3 * layer.weight.sum()])
        return seen

    assert run(1, 0) == run(1, 1) == [7.0]
    assert run(2, 0) == [4.0, 6.0]
    assert run(2, 1) == run(None, 0) == [4.0]


def test_lazy_correction_of_adam():
    group = Update(torch.nn.Linear(1, 1), 0.0025, 16).adam.param_groups[0]
    assert group["lr"] == pytest.approx(0.0025 * 16 / 17)
    assert group["betas"] == pytest.approx((0.0, 0.99 ** (16 / 17)))
    for interval in (1, None):
        assert Update(torch.nn.Linear(1, 1), 0.0025, interval).adam.param_groups[0]["lr"] == 0.0025


@pytest.mark.parametrize("phase", range(3))
@pytest.mark.parametrize("model", ["stylegan2", "progan"])
def test_a_batch_in_parts_has_the_gradients_of_the_whole(model, phase, monkeypatch):
    """Both players' losses and R1, with two groups of the minibatch standard deviation, whose groups stay whole."""
    found = []
    for accumulate in (1, 2):
        changes = {"batch_size": 8, "accumulate": accumulate, "model": model, "growing": False, "loss": "logistic"}
        players, step, real = make(**changes)
        _, update, losses = list(phases(step, real))[phase]
        monkeypatch.setattr(update.adam, "step", lambda: None)
        update.descend(losses)
        if step.phases.seen_w:
            players.mapping.update_mean(step.phases.take_w())
        found.append((gradients(players), players.mapping.mean_w.clone()))
    assert found[0][0].keys() == found[1][0].keys() != set()
    for name, gradient in found[0][0].items():
        torch.testing.assert_close(found[1][0][name], gradient, rtol=1e-4, atol=1e-6, msg=lambda m, name=name: name + m)
    torch.testing.assert_close(found[1][1], found[0][1])


def test_the_shares_of_the_processes_are_the_batch():
    batch = torch.arange(16)
    shares = [Processes(rank, 4).share(batch) for rank in range(4)]
    assert torch.stack(shares, dim=1).flatten().tolist() == batch.tolist()
    groups = {frozenset((share % 4).tolist()) for share in shares}  # groups of the minibatch standard deviation
    assert groups == {frozenset({k}) for k in range(4)}


def test_all_processes_draw_the_same_latents():
    players, step, _ = make(batch_size=8)
    whole, = step.draw(8)
    for rank in range(2):
        alike = Step(players, Processes(rank, 2))
        part, = alike.draw(8)
        assert torch.equal(part.z, whole.z[:, rank::2])
        assert part.crossover == whole.crossover


def test_style_mixing_takes_two_z():
    _, mixing, _ = make(style_mixing=1.0)
    players, plain, _ = make(style_mixing=0.0)
    latents, = mixing.draw(3)
    assert latents.z.shape == (2, 3, 8)
    assert 1 <= latents.crossover < players.generator.n_layers
    w, _ = players.generate(latents)
    of_z = [players.mapping(z) for z in latents.z]
    for layer, w_layer in enumerate(w):
        torch.testing.assert_close(w_layer, of_z[layer >= latents.crossover])
    w, _ = players.generate(*plain.draw(3))
    assert all(torch.equal(w[0], w_layer) for w_layer in w)


def test_labels_reach_both_players():
    players, step, real = make(class_weights=torch.tensor([1.0, 0.0, 3.0]), labels=True)
    latents, = step.draw(400)
    counts = latents.labels.bincount(minlength=3)
    assert counts[1] == 0
    assert counts[2] > 2 * counts[0] > 0
    step(0, real, torch.tensor([0, 2, 2, 0]))
    z = torch.randn(1, 1, 8).expand(1, 2, 8)
    _, images = players.generate(Latents(z, players.generator.n_layers, torch.tensor([0, 2])))
    assert not torch.allclose(images[0], images[1])
    scores = players.score(real[:1].expand(2, -1, -1, -1), torch.tensor([0, 2]))
    assert not torch.allclose(scores[0], scores[1])


def test_the_strength_of_the_augmentation_moves_every_fourth_step():
    players, step, real = make(augment=True, augment_images=64, batch_size=4)
    strengths = []
    for i in range(9):
        step(i, real)
        strengths.append(float(players.augment.p))
    assert [i for i in range(1, 9) if strengths[i] != strengths[i - 1]] == [4, 8] or strengths == [0.0] * 9
    players.augment.signs.copy_(torch.tensor([16.0, 16.0]))  # sure of all 16 real images
    step.follow(12)
    assert float(players.augment.p) == pytest.approx(min(1.0, strengths[-1] + 16 / 64))


@pytest.mark.parametrize("model", ["progan", "stylegan"])
def test_growing_runs_through_all_its_stages(model):
    players, step, real = make(model=model, grow_from=4, grow_images=8)
    sides = []
    for i in range(10):
        metrics = step(i, real)
        assert all(value.isfinite() for value in metrics.values())
        sides.append(players.generate(*step.draw(4))[1].shape[-1])
    assert sides == [4, 4, 4] + [8] * 7
    assert players.average.generator.stage == players.generator.stage == 1.0


@pytest.mark.parametrize("changes", [
    {"style": style, "generator": g, "discriminator": d, "loss": loss}
    for style, g, d, loss in [("adain", "skip", "skip", "hinge"), ("adain", "residual", "plain", "logistic"),
                              ("demodulation", "plain", "residual", "logistic"),
                              ("demodulation", "residual", "skip", "wasserstein"),
                              ("none", "plain", "plain", "hinge")]])
def test_architectures_styles_and_losses_combine(changes):
    _, step, real = make(**changes)
    for i in range(2):
        assert all(value.isfinite() for value in step(i, real).values())


def test_settings_that_do_not_go_together():
    for changes, message in [({"growing": True}, "growing needs generator plain"),
                             ({"style": "none"}, "style none .* needs generator plain"),
                             ({"accumulate": 3}, "multiple of 4"), ({"style_mixing": 1.5}, "from 0 to 1"),
                             ({"r1_gamma": -1.0}, "must be from 0 to"),
                             ({"mapping_layers": 0}, "no paths in w"),
                             ({"mapping_layers": 0, "path_length_weight": 0.0, "labels": True}, "at least one layer")]:
        with pytest.raises(ValueError, match=message):
            Settings(**changes)
    with pytest.raises(ValueError, match=r"4 parts .* of 6 images: each must have a multiple of 4"):
        Settings(batch_size=24).check_parts(4)
