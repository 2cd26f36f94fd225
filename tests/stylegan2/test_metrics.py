"""Path length, separability, feature extractors, the classifier that comes with the package, and the report."""

import json
import math
import sys
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from stylegan2.commands.classifier import TrainClassifier
from stylegan2.commands.measure import Measure
from stylegan2.data import FACTORS, HAIR_STYLES, StoredImages, ToyFaces
from stylegan2.images import to_float
from stylegan2.metrics import (
    METRICS,
    FeatureExtractor,
    InceptionFeatures,
    Moments,
    extract,
    feature_distance,
    frechet_distance,
    load_classifier,
    measure,
    path_lengths,
    separability,
    trimmed_mean,
    usable_count,
)
from stylegan2.metrics.classifier import COLUMNS, HUES, LEVELS, SCALARS, SHIPPED, resize, targets
from stylegan2.metrics.learning import train
from stylegan2.metrics.separability import conditional_entropy
from stylegan2.training.config import Settings
from stylegan2.training.players import TrainedGenerator, make_generator, make_mapping

FACES = ToyFaces(32, size=100_000, seed=77)  # of a seed that the classifier has not been trained on


@pytest.fixture(scope="module")
def classifier():
    return load_classifier()


def faces(count):
    return to_float(FACES.images(torch.arange(count)))


@pytest.fixture(scope="module")
def two_sets():
    """800 faces; those that are spoilt, and those that they are compared with."""
    return faces(800).split(400)


def draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# Path length


def squared(a, b):
    return (a - b).square().flatten(1).sum(dim=1)


def test_path_length_of_a_linear_generator_in_w():
    """d(G(t), G(t + ε)) / ε² = ‖A (w₁ − w₀)‖² wherever on the path."""
    a, b = draw(8, 12).double(), draw(8, 8, seed=1).double()
    z, t = draw(2, 50, 8, seed=2).double(), torch.rand(50, dtype=torch.float64)
    found = path_lengths(lambda z: z @ b, lambda w: (w @ a).view(-1, 3, 2, 2), squared, z, t, "w")
    torch.testing.assert_close(found, ((z[1] - z[0]) @ b @ a).square().sum(dim=1), rtol=1e-6, atol=0)


def test_path_length_in_z_is_the_squared_speed_on_the_great_circle():
    """On the unit sphere, with images that are z itself: the angle between the ends, squared, wherever on the path."""
    z = F.normalize(draw(2, 50, 12).double(), dim=-1)
    angle = torch.acos((z[0] * z[1]).sum(dim=1))
    for t in (torch.zeros(50, dtype=torch.float64), torch.rand(50, dtype=torch.float64)):
        found = path_lengths(lambda z: z, lambda w: w.view(-1, 3, 2, 2), squared, z, t, "z")
        torch.testing.assert_close(found, angle.square(), rtol=1e-5, atol=0)


def test_path_length_sees_where_on_the_path_it_is():
    """G(w) = w²: speed 2w Δ, so that end points and the whole path differ."""
    z = torch.stack([torch.zeros(4000, 3), torch.ones(4000, 3)]).double()
    t = (torch.arange(4000).double() + 0.5) / 4000

    def lengths(at):
        return path_lengths(lambda z: z, lambda w: (w**2).view(-1, 3, 1, 1), squared, z, at, "w").mean().item()

    assert lengths(t) == pytest.approx(3 * 4 / 3, rel=1e-3)  # 3 pixels × E[(2t)²]
    assert lengths(torch.zeros_like(t)) == pytest.approx(0, abs=1e-6)


def test_a_trimmed_mean_leaves_out_the_extremes():
    lengths = torch.arange(1000.0)
    lengths[0], lengths[-1] = -1e9, 1e9
    found = trimmed_mean(lengths[torch.randperm(1000)])
    assert found.mean == pytest.approx(499.5)
    assert found.std == pytest.approx(torch.arange(10.0, 990.0).std().item() / math.sqrt(980), rel=1e-6)


def test_path_lengths_that_make_no_sense():
    z = draw(2, 3, 12)
    with pytest.raises(ValueError, match="3 of 3 path lengths are NaN"):
        path_lengths(lambda z: z, lambda w: w.view(-1, 3, 2, 2) / 0, squared, z, torch.rand(3))
    with pytest.raises(ValueError, match="1 path lengths are too few"):
        trimmed_mean(torch.ones(1))


# Separability


def test_separability_is_one_where_planes_tell_all():
    """Of the confident half: points far from the plane, where even a fit to other points is right."""
    latents, normals = draw(2000, 6), draw(6, 3, seed=1)
    found = separability(latents, latents @ normals + 0.5)
    assert found.score == pytest.approx(1, abs=0.02)


def test_separability_of_what_latents_do_not_tell():
    """Three fair coins: one bit each, 2³."""
    found = separability(draw(4000, 6), draw(4000, 3, seed=1))
    torch.testing.assert_close(found.bits, torch.ones(3, dtype=torch.float64), atol=0.005, rtol=0)
    assert found.score == pytest.approx(8, rel=0.01)


def test_no_plane_separates_an_exclusive_or():
    """Two bits of a latent decide the attribute, and yet no plane knows anything."""
    latents = draw(4000, 2)
    assert separability(latents, latents.prod(dim=1, keepdim=True)).score == pytest.approx(2, rel=0.02)


def test_an_attribute_that_all_or_none_have_counts_nothing():
    assert separability(draw(100, 4), torch.cat([torch.ones(100, 1), -torch.ones(100, 1)], dim=1)).score == 1


def test_the_unsure_half_is_left_out():
    """Labels are right where the score is large, and random where it is small."""
    latents, coin = draw(4000, 3), torch.rand(4000, generator=torch.Generator().manual_seed(1)) < 0.5
    sure = latents[:, 0].abs() > latents[:, 0].abs().median()
    scores = torch.where(sure, latents[:, 0].sign(), torch.where(coin, 0.01, -0.01))
    assert separability(latents, scores[:, None]).score == pytest.approx(1, abs=0.03)


def test_conditional_entropy_by_hand():
    """A plane that is right for 3 in 4: the entropy of 3/4 : 1/4."""
    x = torch.tensor([True] * 4 + [False] * 4)
    y = torch.tensor([True, True, True, False, False, False, False, True])
    expected = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert conditional_entropy(y, x) == pytest.approx(expected)


def test_separability_refuses():
    with pytest.raises(ValueError, match="8 latents or more and as many rows of scores, not 7 and 7"):
        separability(draw(7, 2), draw(7, 1))
    with pytest.raises(ValueError, match="as many rows of scores, not 10 and 9"):
        separability(draw(10, 2), draw(9, 1))
    with pytest.raises(ValueError, match="NaN"):
        separability(draw(10, 2), draw(10, 1) / 0)


# The classifier


def test_the_shipped_classifier_reads_faces_it_has_never_seen(classifier):
    """In the factors' own units, against what the faces were drawn from; the record's scores are of other faces."""
    index = torch.arange(600)
    truth, record = FACES.factors(index), json.loads((SHIPPED / "run.json").read_text())["held_out"]
    found = classifier.predict(faces(600))
    assert found.keys() == FACTORS.keys() == record.keys()
    for name, factor in FACTORS.items():
        if name in LEVELS:
            assert found[name].shape == (600, LEVELS[name])
            torch.testing.assert_close(found[name].sum(dim=1), torch.ones(600))
            score, expected = (found[name].argmax(dim=1) == truth[name]).float().mean().item(), record[name]["accuracy"]
        elif name in HUES:
            assert ((found[name] >= 0) & (found[name] < 1)).all()
            gap = (found[name] - truth[name] + 0.5) % 1 - 0.5  # on the circle
            score, expected = 1 - 12 * gap.square().mean().item(), record[name]["r2"]
        else:
            error = (found[name] - truth[name]).square().mean().item()
            score, expected = 1 - error / ((factor.high - factor.low) ** 2 / 12), record[name]["r2"]
        assert score > expected - 0.12, name
    assert min(record[name]["accuracy"] for name in LEVELS) > 0.95
    assert sorted(record[name]["r2"] for name in SCALARS)[len(SCALARS) // 2] > 0.85


def test_the_shipped_classifier_is_small_and_frozen(classifier):
    assert sum(p.numel() for p in classifier.parameters()) <= 300_000
    assert sum(file.stat().st_size for file in SHIPPED.iterdir()) < 1_500_000
    assert not classifier.training
    assert not any(p.requires_grad for p in classifier.parameters())
    assert isinstance(classifier, FeatureExtractor)


def test_columns_name_what_is_in_them(classifier):
    """A truth in the form that the network learns, given back by a head that repeats it."""
    factors = FACES.factors(torch.arange(50))
    truth = targets(factors)
    values = dict(zip(COLUMNS, truth[:, :len(COLUMNS)].T, strict=False))
    for name in SCALARS:
        assert values[name].abs().max() <= math.sqrt(3) + 1e-5  # a uniform one, standardised
    hue = torch.atan2(values["eye_hue.sin"], values["eye_hue.cos"]) / (2 * math.pi) % 1
    torch.testing.assert_close(hue, factors["eye_hue"], atol=1e-5, rtol=0)
    table = classifier.table(faces(50))
    hair = table[:, [COLUMNS.index(f"hair.{level}") for level in range(len(HAIR_STYLES))]]
    assert (hair.argmax(dim=1) == FACES.labels(torch.arange(50))).float().mean() > 0.9


@pytest.mark.parametrize("side", [64, 128])
def test_images_of_other_sizes_are_read_too(classifier, side):
    index = torch.arange(100)
    images = to_float(ToyFaces(side, seed=77).images(index))
    assert (classifier.predict(images)["hair"].argmax(dim=1) == FACES.labels(index)).float().mean() > 0.9


def test_resizing_keeps_the_mean_and_what_fits():
    images = draw(2, 3, 64, 64)
    torch.testing.assert_close(resize(images, 32), F.avg_pool2d(images, 2))
    assert resize(images, 64) is images or torch.equal(resize(images, 64), images)
    torch.testing.assert_close(resize(torch.full([1, 3, 8, 8], 0.3), 32), torch.full([1, 3, 32, 32], 0.3))


def test_training_learns_and_is_the_same_each_time():
    first, history = train(640, batch_size=32, log_every=5)
    again, _ = train(640, batch_size=32, log_every=5)
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    for name, value in first.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name
    with pytest.raises(ValueError, match="take at least 640"):
        train(100)


def test_the_command_writes_a_record_that_can_be_loaded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("stylegan2.commands.classifier.held_out_scores", lambda _: {"hair": {"accuracy": 0.5}})
    TrainClassifier(out=tmp_path / "made", images=640).execute()
    made = json.loads((tmp_path / "made/run.json").read_text())
    assert made["command"] == "python -m stylegan2 train-classifier --images 640 --seed 0"
    assert made["held_out"] == {"hair": {"accuracy": 0.5}}
    assert json.loads((tmp_path / "made/history.jsonl").read_text().splitlines()[-1])["images"] == 640
    loaded = load_classifier(tmp_path / "made")
    fresh, _ = train(640)
    torch.testing.assert_close(loaded(faces(4)), fresh(faces(4)), rtol=1e-4, atol=1e-4)
    with pytest.raises(FileNotFoundError):
        load_classifier(tmp_path)


# Features


@pytest.mark.parametrize("spoil", ["blur", "noise", "negatives"])
def test_toy_distance_grows_with_the_damage(classifier, two_sets, spoil):
    noise = draw(400, 3, 32, 32, seed=5)

    def damaged(images, amount):
        if spoil == "blur":
            kernel = torch.exp(-torch.arange(-6.0, 7.0) ** 2 / (2 * amount**2))
            kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
            padded = F.pad(images, [6] * 4, mode="reflect")
            return F.conv2d(F.conv2d(padded, kernel, groups=3), kernel.mT, groups=3)
        if spoil == "noise":
            return images + amount * 0.1 * noise
        return torch.cat([images[:int(100 * amount)] * -1, images[int(100 * amount):]])  # negatives among them

    good, other = two_sets
    real = Moments.of(extract(classifier, [other]))
    images = [good, *(damaged(good, amount) for amount in (0.6, 1.2, 2.4))]
    found = [frechet_distance(real, Moments.of(extract(classifier, [batch]))) for batch in images]
    assert found == sorted(found)
    assert found[3] > 2 * found[1] > 2 * found[0]


def test_feature_distance_is_zero_for_the_same_image(classifier):
    distance = feature_distance(classifier)
    a = faces(4)
    assert (distance(a, a) == 0).all()
    expected = [(classifier(a[i:i + 1]) - classifier(-a[i:i + 1])).square().sum().item() for i in range(4)]
    torch.testing.assert_close(distance(a, -a), torch.tensor(expected), rtol=1e-3, atol=1e-3)


class StubInception(nn.Module):
    """What torch-fidelity documents: a name, a list of features, bytes in, a tuple out."""

    def __init__(self, name, features_list):
        super().__init__()
        assert (name, features_list) == ("inception-v3-compat", ["2048"])

    def forward(self, x):
        assert x.dtype == torch.uint8
        return (x.float().mean(dim=(1, 2, 3))[:, None].expand(-1, 2048),)


def install(monkeypatch, extractor):
    module = ModuleType("torch_fidelity.feature_extractor_inceptionv3")
    module.FeatureExtractorInceptionV3 = extractor
    monkeypatch.setitem(sys.modules, "torch_fidelity", ModuleType("torch_fidelity"))
    monkeypatch.setitem(sys.modules, module.__name__, module)


def test_inception_takes_bytes(monkeypatch):
    install(monkeypatch, StubInception)
    features = InceptionFeatures()
    assert isinstance(features, FeatureExtractor)
    found = features(torch.stack([torch.full([3, 8, 8], value) for value in (-1.0, 0.0, 1.0)]))
    assert found[:, 0].tolist() == [0, 128, 255]


def test_inception_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity.feature_extractor_inceptionv3", None)
    with pytest.raises(ModuleNotFoundError, match="pip install torch-fidelity"):
        InceptionFeatures()

    def offline(*_):
        raise OSError("no route to host")

    install(monkeypatch, offline)
    with pytest.raises(ConnectionError, match=r"could not fetch the weights of Inception \(no route to host\)"):
        InceptionFeatures()


# The report


def small_generator(n_classes=0):
    torch.manual_seed(0)
    settings = Settings(resolution=8, n_features=4, max_features=8, d_latent=8, mapping_layers=1)
    return TrainedGenerator(settings, make_mapping(settings, n_classes), make_generator(settings)).eval()


def report(classifier, metrics, n_classes=0, **more):
    rows = measure(small_generator(n_classes), ToyFaces(8, size=1000), classifier, classifier, metrics, images=60,
                   pairs=20, **more)
    return {row.name: row for row in rows}


def test_report(classifier):
    rows = report(classifier, METRICS)
    assert rows["Fréchet distance"].value > 3 * rows["Fréchet distance"].floor  # an untrained generator
    assert rows["precision"].value < rows["precision"].floor
    assert {f"path length in {s}, {p}" for s in "zw" for p in ("full path", "end points")} <= rows.keys()
    assert all(math.isfinite(row.value) for row in rows.values())
    some = ("frechet", "path-length")
    once, other = report(classifier, some), report(classifier, some, seed=1)
    assert once.items() <= rows.items()  # the same numbers, whatever else is measured
    assert all(once[name] != other[name] for name in once)
    assert list(report(classifier, ("precision-recall",))) == ["precision", "recall"]


def test_report_of_a_generator_with_classes(classifier):
    """Each generated image has a label of the set's, which the mapping would refuse to do without."""
    rows = report(classifier, ("frechet", "path-length"), n_classes=5)
    assert len(rows) == 5
    assert all(math.isfinite(row.value) for row in rows.values())


def test_a_generator_that_draws_the_set_reaches_the_floor(classifier):
    """With the data in place of a generator, a distance is what real images have against real images."""
    source, trained = ToyFaces(32, size=1000), small_generator()

    class Replay(nn.Module):
        n_layers = n_blocks = 2
        d_latent = 8

        def forward(self, w, noise):
            index = (w[0, :, 0].abs() * 1e6).long() % 1000
            return to_float(source.images(index))

    trained.generator = Replay()
    rows = {row.name: row for row in measure(trained, source, classifier, classifier,
                                             ("frechet", "kernel", "precision-recall"), images=300)}
    assert rows["Fréchet distance"].value == pytest.approx(rows["Fréchet distance"].floor, rel=0.3)
    assert abs(rows["kernel distance"].value) < 0.05
    assert rows["recall"].value == pytest.approx(rows["recall"].floor, abs=0.05)


def test_half_of_a_small_set_is_kept_for_the_floor():
    small = StoredImages(torch.zeros(20, 3, 8, 8, dtype=torch.uint8))
    assert usable_count(10_000, small) == 10
    with pytest.raises(ValueError, match="at least 8 are needed"):
        usable_count(7, small)


def test_the_command_prints_and_writes_what_a_number_needs(tmp_path, monkeypatch, capsys, classifier):
    trained = small_generator()
    monkeypatch.setattr("stylegan2.commands.measure.load_here", lambda _: trained)
    Measure(run=tmp_path, metrics=("frechet",), images=50, seed=3, out=tmp_path / "metrics.json").execute()
    shown, made = capsys.readouterr().out, json.loads((tmp_path / "metrics.json").read_text())
    for part in ("50 images a side", "seed 3", "ToyFaces features", "no Inception", "Fréchet distance"):
        assert part in shown
    assert "cartoon faces" not in shown  # that warning is for other sets
    assert (made["images"], made["seed"], made["features"]) == (50, 3, "ToyFaces features")
    assert f"{made['results']['Fréchet distance']['value']:.4g}" in shown
    assert "cartoon" in Measure(run=tmp_path).caution("photos.zip")
