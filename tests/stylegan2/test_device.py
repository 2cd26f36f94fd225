"""On an accelerator that is pretended (tests/pretend) everything computes what it
does on the CPU, with its tensors on the device, and a training step waits for nothing.
"""

import copy
import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import stylegan2
from stylegan2 import explore, losses, metrics
from stylegan2.augment import COLOUR, GEOMETRY, AdaptiveAugment
from stylegan2.data import Loader, ToyFaces
from stylegan2.data.source import StoredImages
from stylegan2.ema import update_average
from stylegan2.generator import StyleBlock
from stylegan2.images import tile
from stylegan2.metrics import learning
from stylegan2.penalties import interpolates
from stylegan2.progressive import images_at_stage
from stylegan2.stylegan1 import AdaINBlock
from stylegan2.training.players import Players, make_generator, make_mapping, sample
from stylegan2.training.presets import PRESETS
from stylegan2.training.processes import Processes
from stylegan2.training.step import Step
from stylegan2.weights import TrainedGenerator
from tests.pretend import pretended

TINY = {"resolution": 8, "batch_size": 4, "n_features": 4, "max_features": 8,
        "d_latent": 8, "mapping_layers": 2}


def moved(tree, device):
    """Copies on the device: of modules, and of tensors in lists, tuples and dicts."""
    return tree_map(lambda x: copy.deepcopy(x).to(device) if isinstance(x, nn.Module)
                    else x.detach().to(device).requires_grad_(x.requires_grad)
                    if isinstance(x, Tensor) else x, tree)


def tensors_of(tree):
    """The tensors in it, parameters and buffers included."""
    for leaf in tree_leaves(tree):
        if isinstance(leaf, nn.Module):
            yield from leaf.state_dict(keep_vars=True).values()
            yield from leaf.buffers()  # those that are not saved, too
        elif isinstance(leaf, Tensor):
            yield leaf


@pytest.fixture
def _double_precision():
    """Second derivatives lose digits, and the device may compute in another order."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.fixture
def _drawn_by_rows(monkeypatch):
    """`randn_like` draws in the order in which a tensor lies in memory, which differs
    where the device takes another form of a convolution.
    """
    monkeypatch.setattr(torch, "randn_like", lambda x, dtype=None: torch.randn(
        x.shape, dtype=dtype or x.dtype, device=x.device))


def compare(found, expected, rtol=1e-4, atol=1e-5):
    for ours, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
        ours = ours.detach().cpu() if isinstance(ours, Tensor) else ours
        theirs = theirs.detach() if isinstance(theirs, Tensor) else theirs
        if theirs is not None:
            torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


def twice(function, *things, to="pretend", rtol=1e-4):
    """What the function makes of these things on the device is what it makes of them on
    the CPU, for the same draws; its result is on the device, or on the CPU by design.

    Returns:
        what was counted on the device.
    """
    torch.manual_seed(7)
    expected = function(*copy.deepcopy(things))
    with pretended() as (device, counts):
        there = moved(things, device)
        counts.clear()
        torch.manual_seed(7)
        found = function(*there)
        done = copy.deepcopy(counts)
        assert {x.device.type for x in tensors_of(there)} <= {"pretend"}
        assert {x.device.type for x in tensors_of(found)} <= {to}
        compare(found, expected, rtol)
    return done


def differentiated(module, *inputs):
    """The results, the gradients of their squares, and the second ones by all that has
    any.
    """
    results = tree_leaves(module(*inputs))
    sources = [x for x in tensors_of([module, *inputs]) if x.requires_grad]
    total = sum(result.square().sum() for result in results)
    first = torch.autograd.grad(total, sources, create_graph=True, allow_unused=True)
    again = sum(g.square().sum() for g in first if g is not None)
    second = torch.autograd.grad(again, sources, allow_unused=True)
    return results, first, second


def noisy(module):
    """With noise that is heard: its strengths start at 0."""
    for name, parameter in module.named_parameters():
        if name.endswith("noise_strength"):
            nn.init.constant_(parameter, 0.5)
    return module


def images(batch=4, channels=3, side=8):
    return torch.randn(batch, channels, side, side)


def w_of(layers, batch=4):
    return torch.randn(layers, batch, 8).requires_grad_()


def maps():
    return [(None, images(1, 1, 4)), (images(1, 1, 8), None)]


def at(stage, module):
    module.stage = stage
    return module


DRAWS = {"randn", "rand", "randint", "multinomial"}  # what of a step is the CPU's
LABELS = torch.tensor([0, 2, 1, 2])
WEIGHTS = torch.tensor([1.0, 2.0, 1.0])  # of classes; on the CPU, which draws labels
SIZES = (3, 8, 4, 8)  # log_resolution, d_latent, n_features, max_features
# What the package exports, by name: a module, and what it is called with.
MODULES = {
    "AdaIN": lambda: (stylegan2.AdaIN(8, 4), images(4, 4), torch.randn(4, 8)),
    "AdaINBlock": lambda: (noisy(AdaINBlock(8, 4, 6, 16, up=True)), images(4, 4),
                           torch.randn(4, 8), "random"),
    "Conv2dWeightModulate": lambda: (stylegan2.Conv2dWeightModulate(4, 6, 3, up=True),
                                     images(4, 4), torch.randn(4, 4)),
    "Discriminator": lambda: (
        stylegan2.Discriminator(3, 4, 8, n_classes=3, label_layers=1), images(),
        LABELS),
    "DiscriminatorBlock": lambda: (stylegan2.DiscriminatorBlock(4, 6), images(4, 4)),
    "DownSample": lambda: (stylegan2.DownSample(), images().requires_grad_()),
    "EqualizedConv2d": lambda: (stylegan2.EqualizedConv2d(3, 4, 3), images()),
    "EqualizedLinear": lambda: (stylegan2.EqualizedLinear(8, 4), torch.randn(5, 8)),
    "EqualizedWeight": lambda: (stylegan2.EqualizedWeight([4, 8]),),
    "Generator": lambda: (noisy(stylegan2.Generator(*SIZES)), w_of(4), "random"),
    "GeneratorBlock": lambda: (noisy(stylegan2.GeneratorBlock(8, 4, 6, 16)),
                               images(4, 4), w_of(3), ("random", "const")),
    "GrowingDiscriminator": lambda: (
        at(0.5, stylegan2.GrowingDiscriminator(3, 4, 8, n_classes=3)), images(),
        LABELS),
    "GrowingGenerator": lambda: (
        at(0.5, noisy(stylegan2.GrowingGenerator(*SIZES, style_block=AdaINBlock))),
        w_of(4), "random"),
    "MappingNetwork": lambda: (stylegan2.MappingNetwork(8, 3, n_classes=3),
                               torch.randn(4, 8), LABELS),
    "MiniBatchStdDev": lambda: (stylegan2.MiniBatchStdDev(2),
                                images().requires_grad_()),
    "PixelNorm": lambda: (stylegan2.PixelNorm(), images().requires_grad_()),
    "ProgressiveDiscriminator": lambda: (
        at(0.5, stylegan2.ProgressiveDiscriminator(3, 4, 8)), images()),
    "ProgressiveGenerator": lambda: (at(0.5, stylegan2.ProgressiveGenerator(*SIZES)),
                                     w_of(1)),
    "ResidualGenerator": lambda: (noisy(stylegan2.ResidualGenerator(*SIZES)), w_of(2),
                                  "const"),
    "SkipDiscriminator": lambda: (stylegan2.SkipDiscriminator(3, 4, 8), images()),
    "Smooth": lambda: (stylegan2.Smooth(padding=2), images().requires_grad_()),
    "StyleBlock": lambda: (noisy(StyleBlock(8, 4, 6, 16, up=True)), images(4, 4),
                           torch.randn(4, 8), "const"),
    "ToRGB": lambda: (stylegan2.ToRGB(8, 4), images(4, 4), torch.randn(4, 8)),
    "UpSample": lambda: (stylegan2.UpSample(), images().requires_grad_()),
    "Generator, maps": lambda: (noisy(stylegan2.Generator(*SIZES)), w_of(2), maps()),
    "GrowingGenerator, demodulation": lambda: (stylegan2.GrowingGenerator(*SIZES),
                                               w_of(3), None),
}
PENALTIES = {"GradientPenalty", "PathLengthPenalty", "WassersteinGradientPenalty",
             "path_lengths"}
ON_CPU = {"load"}  # what is read from a file is there first


def test_all_that_the_package_exports_is_here():
    exported = set(stylegan2.__all__)
    assert {name for name in MODULES if "," not in name} | PENALTIES | ON_CPU == exported


@pytest.mark.usefixtures("_double_precision")
@pytest.mark.parametrize("name", MODULES)
def test_networks_and_layers(name):
    """Outputs, gradients, and gradients of gradients."""
    torch.manual_seed(0)
    done = twice(differentiated, *MODULES[name]())
    assert done.launches
    assert not done.elsewhere


def test_the_mean_of_w_and_truncation():
    def run(mapping, w):
        mapping.update_mean(w[0])
        cut = mapping.truncate(w, 0.5, cutoff=1)
        return mapping.mean_w, mapping.truncate(w, 0.7), cut

    done = twice(run, stylegan2.MappingNetwork(8, 2), torch.randn(3, 4, 8))
    assert not done.elsewhere


def gradients(module, penalty):
    return penalty, torch.autograd.grad(penalty, list(module.parameters()),
                                        allow_unused=True)


def r1(discriminator, real):
    x = real.requires_grad_()
    return gradients(discriminator, stylegan2.GradientPenalty()(x, discriminator(x)))


def wgan_gp(discriminator, real):
    x = interpolates(real, real.flip(0))
    penalty = stylegan2.WassersteinGradientPenalty()
    return gradients(discriminator, penalty(x, discriminator(x)))


def path_length(generator, w, penalty):
    value = penalty(w, generator(w))
    return gradients(generator, value), penalty.mean_length


def lengths(generator, w, y):
    return gradients(generator, stylegan2.path_lengths(w, generator(w), y).mean())


@pytest.mark.usefixtures("_double_precision", "_drawn_by_rows")
@pytest.mark.parametrize(("function", "things"), [
    (r1, lambda: (stylegan2.Discriminator(3, 4, 8), images())),
    (wgan_gp, lambda: (stylegan2.ProgressiveDiscriminator(3, 4, 8), images())),
    (path_length, lambda: (stylegan2.Generator(*SIZES), w_of(4),
                           stylegan2.PathLengthPenalty())),
    (lengths, lambda: (stylegan2.Generator(*SIZES), w_of(2), images()))])
def test_penalties(function, things):
    torch.manual_seed(0)
    done = twice(function, *things())
    assert not done.elsewhere


@pytest.mark.parametrize("name", ["logistic", "hinge", "wasserstein"])
def test_losses(name):
    def run(real, fake):
        of_generator = "logistic" if name == "logistic" else "wasserstein"
        return (getattr(losses, f"{name}_discriminator_loss")(real, fake),
                getattr(losses, f"{of_generator}_generator_loss")(fake))

    done = twice(run, torch.randn(4, 1), torch.randn(4, 1))
    assert not done.elsewhere


@pytest.mark.usefixtures("_double_precision")
@pytest.mark.parametrize("name", ["all", *GEOMETRY, *COLOUR])
def test_augmentation(name):
    """Every transformation, twice differentiable, and the strength that follows."""
    augment = AdaptiveAugment(0.6, 100, None if name == "all" else [name])
    augment.p.fill_(0.7)

    def run(augment, images, scores):
        results = differentiated(augment, images)
        augment.observe(scores)
        return results, augment.adjust(), augment.p, augment.signs

    torch.manual_seed(0)
    done = twice(run, augment, images(6).requires_grad_(), torch.randn(6, 1))
    assert not done.elsewhere


def test_augmentation_that_is_off_does_not_ask_the_device_whether_it_is():
    with pretended() as (device, counts):
        augment, seen = AdaptiveAugment().to(device), images().to(device)
        counts.clear()
        found = augment(seen)
        assert not counts.elsewhere
        torch.testing.assert_close(found.cpu(), seen.cpu())


def test_the_average_of_a_network():
    def run(average, module):
        update_average(average, module, 0.9)
        return list(average.parameters()), list(average.buffers())

    torch.manual_seed(0)
    done = twice(run, stylegan2.Generator(*SIZES), stylegan2.Generator(*SIZES))
    assert not done.elsewhere


def trained(model="stylegan2", n_classes=0, **changes):
    """Not trained, but with a mean of w, and with noise that is heard."""
    torch.manual_seed(0)
    settings = dataclasses.replace(PRESETS[model], **{**TINY, "noise": True, **changes})
    made = TrainedGenerator(settings, make_mapping(settings, n_classes),
                            make_generator(settings))
    nn.init.normal_(made.mapping.mean_w)
    return noisy(made).eval()


def flat(directions):
    return directions.vectors, directions.scores


def means(images):
    """Two factors of an image: what `effects` asks a classifier for."""
    return torch.stack([images.mean(dim=(1, 2, 3)), images.std(dim=(1, 2, 3))], dim=1)


def projected(trained, targets):
    found = explore.project(trained, targets, free_layers=True, steps=3)
    return found.w, found.noise, found.images, found.distances, found.history


def pixels(pictures):
    return [torch.tensor(np.asarray(picture)) for picture in pictures]


def blended(trained, w):
    other = noisy(copy.deepcopy(trained))
    return explore.synthesize(explore.blend(trained, other, 8, width=0.5), w)


LAYERS = range(1, 3)
# By the name in `explore`; all get a generator and some w [4 layers, 3, 8].
EXPLORE = {
    "along": lambda g, w: explore.along(w[0], w[1]),
    "blend": lambda g, w: blended(g, w),
    "draw_w": lambda g, w: explore.draw_w(g, 5, psi=0.7),
    "draw_z": lambda g, w: explore.draw_z(g, 5),
    "effects": lambda g, w: explore.effects(g, means, w, w[0, :2], w[1, 0, :2].abs(),
                                            LAYERS),
    "film": lambda g, w: pixels(explore.film(g, w[:2], columns=2)),
    "lerp": lambda g, w: explore.lerp(w[0], w[1], 0.3),
    "loop": lambda g, w: explore.loop(w, 2, explore.slerp),
    "map_z": lambda g, w: explore.map_z(g, w[0]),
    "mix": lambda g, w: explore.mix(w, w.flip(1), LAYERS),
    "mixing_grid": lambda g, w: explore.mixing_grid(g, w, w[:, :2], LAYERS),
    "move": lambda g, w: explore.move(w, w[0, 0], 0.5, LAYERS),
    "move_grid": lambda g, w: explore.move_grid(g, w, w[0, 0], [-1.0, 1.0], LAYERS),
    "noise_variation": lambda g, w: explore.noise_variation(g, w, draws=3),
    "pca": lambda g, w: flat(explore.pca(w.flatten(0, 1), 3)),
    "per_layer": lambda g, w: explore.per_layer(g, w[0]),
    "project": lambda g, w: projected(g, explore.synthesize(g, w)),
    "pyramid_distance": lambda g, w: explore.pyramid_distance(
        explore.synthesize(g, w), explore.synthesize(g, w.flip(1))),
    "regress": lambda g, w: flat(explore.regress(w.flatten(0, 1),
                                                 w.flatten(0, 1)[:, :2] ** 2)),
    "sefa": lambda g, w: flat(explore.sefa(g, range(4), 3)),
    "sheet": lambda g, w: pixels([explore.sheet(explore.move_grid(
        g, w, w[0, 0], [0.0, 1.0], LAYERS))]),
    "slerp": lambda g, w: explore.slerp(w[0], w[1], 0.3),
    "synthesize": lambda g, w: explore.synthesize(g, w),
    "truncation_sweep": lambda g, w: explore.truncation_sweep(g, w, [0.0, 0.7], 2),
    "with_sources": lambda g, w: explore.with_sources(
        explore.mixing_grid(g, w, w, LAYERS), explore.synthesize(g, w),
        explore.synthesize(g, w)),
}
# No tensors go into these.
WITHOUT = {"Directions", "Projection", "cell_side", "check_film", "image_side",
           "layer_range", "save_animation"}
# Numbers are read on the way: to make a picture, or to say what is wrong.
READING = {"effects", "film", "loop", "regress", "sefa", "sheet", "slerp"}
PICTURES = {"film", "sheet"}
# A module is copied, which torch does of a pretended tensor by way of the CPU.
COPYING = {"blend"}


def test_all_explorations_are_here():
    assert EXPLORE.keys() | WITHOUT == set(explore.__all__)


@pytest.mark.parametrize("name", EXPLORE)
def test_exploring(name):
    made = trained()
    with torch.no_grad():
        w = made.mapping(torch.randn(12, 8)).unflatten(0, (4, 3))
    done = twice(EXPLORE[name], made, w, to="cpu" if name in PICTURES else "pretend")
    assert bool(done.waits) == (name in READING)
    if name not in PICTURES:
        assert done.on_cpu.keys() <= DRAWS | ({"copy_"} if name in COPYING else set())


@pytest.mark.parametrize("model", PRESETS)
def test_samples(model):
    """On the CPU, of z that the CPU draws."""
    labels = 3 if model == "stylegan" else 0
    made = trained(model, labels, growing=False,
                   mapping_layers=0 if model == "progan" else 2)
    done = twice(lambda made: sample(made, 5, 0.7), made, to="cpu")
    assert done.waits == {"_to_copy": 1}  # the images, all at once


def classified(classifier, images):
    return classifier(images), classifier.table(images), classifier.predict(images)


def moments(features):
    found = metrics.Moments(features.shape[1])
    for part in features.split(10):
        found.update(part)
    return found.mean, found.covariance


def features(n=40, d=6):
    return torch.randn(n, d), 1.2 * torch.randn(n, d) + 0.3


def path_lengths_of(made, classifier, z, t, space):
    return metrics.path_lengths(
        made.mapping, lambda w: explore.synthesize(made, explore.per_layer(made, w)),
        metrics.feature_distance(classifier), z, t, space)


def path_things():
    return trained(), metrics.load_classifier(), torch.randn(2, 3, 8), torch.rand(3)


# By the name in `metrics`: where its tensors are to be, what it computes, and of what.
METRICS = {
    "FaceClassifier": ("pretend", classified,
                       lambda: (metrics.FaceClassifier().eval(), images(2, 3, 32))),
    "Moments": ("cpu", moments, lambda: features()[:1]),
    "extract": ("cpu", metrics.extract,
                lambda: (metrics.load_classifier(), [images(2), images(3)])),
    "feature_distance": (
        "pretend", lambda classifier, a, b: metrics.feature_distance(classifier)(a, b),
        lambda: (metrics.load_classifier(), images(), images())),
    "frechet_distance": ("cpu", metrics.frechet_distance, features),
    "kernel_distance": ("cpu", metrics.kernel_distance, features),
    "load_classifier": ("pretend", classified,
                        lambda: (metrics.load_classifier(), images())),
    "path_lengths": ("pretend", lambda *things: path_lengths_of(*things, "w"),
                     path_things),
    "path_lengths, z": ("pretend", lambda *things: path_lengths_of(*things, "z"),
                        path_things),
    "precision_recall": ("cpu", metrics.precision_recall, features),
    "separability": ("cpu", metrics.separability, lambda: features(30, 2)),
    "trimmed_mean": ("cpu", metrics.trimmed_mean, lambda: (torch.rand(50),)),
}
# What a metric is made of or comes out in, and what needs a download.
PARTS = {"METRICS", "Estimate", "FeatureExtractor", "InceptionFeatures", "Metric",
         "PrecisionRecall", "Row", "Separability", "measure", "usable_count"}


def test_all_metrics_are_here():
    assert {name for name in METRICS if "," not in name} | PARTS == set(metrics.__all__)



@pytest.mark.usefixtures("_double_precision")
@pytest.mark.parametrize("name", METRICS)
def test_metrics(name):
    torch.manual_seed(0)
    to, function, things = METRICS[name]
    made = tree_map(lambda x: x.double() if isinstance(x, nn.Module) else x, things())
    done = twice(function, *made, to=to)
    assert done.launches


@pytest.mark.parametrize("part", ["distances", "path-length"])
def test_the_report_on_a_generator(part):
    """But for separability, which computes on the CPU wherever the generator is."""
    names = ["path-length"] if part == "path-length" else metrics.METRICS[:3]

    def run(made, classifier):
        rows = metrics.measure(made, ToyFaces(8, 40), classifier, classifier, names,
                               images=10, pairs=6)
        return [(row.value, row.floor) for row in rows]

    # A path length divides what rounding leaves of a difference by a small square.
    twice(run, trained(), metrics.load_classifier(), to="cpu",
          rtol=0.02 if part == "path-length" else 1e-4)


def test_training_a_classifier():
    """On faces that the CPU draws."""
    with pretended() as (device, _):
        classifier, history = learning.train(20, 2, log_every=5, device=device)
        assert {x.device for x in tensors_of(classifier)} == {device}
        scores = learning.held_out_scores(classifier, images=20)
    numbers = [line["loss"] for line in history] + tree_leaves(scores)
    assert len(numbers) > 26
    assert all(math.isfinite(number) for number in numbers)


STEPS = {
    **{model: {"model": model} for model in PRESETS},
    **{f"{model}, augmentation": {"model": model, "augment": True}
       for model in PRESETS},
    "labels": {"labels": True, "style_mixing": 1.0},
    "stylegan, labels": {"model": "stylegan", "labels": True},
    "accumulate": {"batch_size": 8, "accumulate": 2},
    "everything": {"batch_size": 8, "accumulate": 2, "noise": True, "labels": True,
                   "augment": True},
    "noise": {"noise": True, "style_mixing": 1.0},
    "hinge": {"loss": "hinge"},
    "wasserstein": {"loss": "wasserstein"},
    "progan, logistic": {"model": "progan", "loss": "logistic"},
    "penalties with the loss": {"r1_interval": 1, "path_length_interval": 1},
    "residual and skip": {"generator": "residual", "discriminator": "skip"},
    "plain": {"generator": "plain", "discriminator": "plain"},
    "bf16": {"precision": "bf16"},
}


def players_of(model="stylegan2", **changes):
    torch.manual_seed(0)
    sizes = {**TINY, "grow_from": 4, "grow_images": 6}
    if model == "progan":
        sizes["mapping_layers"] = 0
    settings = dataclasses.replace(PRESETS[model], **{**sizes, **changes})
    players = Players(settings, n_classes=3 if settings.labels else 0)
    if players.augment is not None:
        players.augment.p.fill_(0.5)
    return players


def steps_of(players, real, labels):
    """What some steps measure: with the penalties and without; of a growing run at 4²,
    on the way, and at 8².
    """
    weights = None if labels is None else WEIGHTS
    step = Step(players, Processes(device=real.device), class_weights=weights)
    steps = range(4 if players.settings.growing else 2)
    return [step(i, real, labels) for i in steps]


def batch_for(s):
    real = torch.rand(s.batch_size, 3, s.resolution, s.resolution) * 2 - 1
    return real, torch.arange(s.batch_size) % 3 if s.labels else None


@pytest.mark.usefixtures("_drawn_by_rows")
@pytest.mark.parametrize("name", STEPS)
def test_training_steps(name):
    """They measure the same, wait for nothing, and leave the CPU its draws alone."""
    players = players_of(**STEPS[name])
    real, labels = batch_for(players.settings)
    torch.manual_seed(7)
    expected = steps_of(copy.deepcopy(players), real, labels)
    with pretended() as (device, counts):
        there, *batch = moved((players, real, labels), device)
        counts.clear()
        torch.manual_seed(7)
        found = steps_of(there, *batch)
        assert counts.launches
        assert not counts.waits
        assert counts.on_cpu.keys() <= DRAWS
        assert {x.device for x in tensors_of([there, found])} == {device}
        slopes = [x.grad for x in there.parameters() if x.grad is not None]
        assert {x.device for x in slopes} == {device}
        assert all(x.isfinite().all() for x in tensors_of([there, found]))
        if name != "bf16":  # three digits, of which little is left after a step of Adam
            compare(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("model", PRESETS)
def test_a_step_moves_nothing_to_the_device_but_latents(model):
    players = players_of(model, labels=model != "progan")
    with pretended() as (device, counts):
        there, *batch = moved((players, *batch_for(players.settings)), device)
        counts.clear()
        steps_of(there, *batch)
        assert counts.uploads.keys() == {"_to_copy"}


@pytest.mark.parametrize("stored", [True, False])
def test_loading(stored):
    """Batches on the device of a set that is kept there, or drawn on the CPU."""
    faces, everything = ToyFaces(8, 20), torch.arange(20)
    kept = StoredImages(faces.images(everything), faces.labels(everything))
    chosen = [torch.tensor([3, 0, 7]), torch.tensor([19])]
    with pretended() as (device, counts):
        loader = Loader(kept if stored else faces, device, workers=0)
        batches = zip(chosen, loader.batches(chosen), strict=True)
        for index, (pixels, labels) in batches:
            assert pixels.device == labels.device == device
            assert torch.equal(pixels.cpu(), faces.images(index))
            assert torch.equal(labels.cpu(), faces.labels(index))
    assert counts.uploads


def test_a_growing_batch():
    done = twice(lambda x: images_at_stage(x, 0.5), images())
    assert not done.elsewhere


def test_a_grid_of_pictures():
    twice(lambda x: pixels([tile(x, 2)]), images(), to="cpu")
