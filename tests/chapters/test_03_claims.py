"""Chapter 3 says that W beats Z; here it is held for both style-based records, with more than a page can draw."""

import json

import pytest
import torch

from book.records import record
from stylegan2.explore import draw_z, per_layer, synthesize
from stylegan2.metrics import feature_distance, load_classifier, path_lengths, separability, trimmed_mean
from stylegan2.metrics.classifier import N_VALUES
from stylegan2.metrics.distances import Estimate
from stylegan2.metrics.report import attribute_scores
from stylegan2.stylegan1 import AdaINBlock, GrowingGenerator
from stylegan2.weights import TrainedGenerator, load

RECORDS = ("stylegan-toyfaces-32", "toyfaces-32")


def length(trained: TrainedGenerator, space: str, t: torch.Tensor) -> Estimate:
    """Path length over as many pairs as there are places t."""
    z = draw_z(trained, 2 * len(t), seed=1).unflatten(0, (2, len(t)))
    return trimmed_mean(path_lengths(
        trained.mapping, lambda w: synthesize(trained, per_layer(trained, w)), feature_distance(load_classifier()),
        z, t, space))


@pytest.mark.parametrize("name", RECORDS)
def test_paths_through_w_are_shorter(name: str) -> None:
    trained, t = load(record(name)), torch.rand(200, generator=torch.Generator().manual_seed(0))
    z, w = length(trained, "z", t), length(trained, "w", t)
    assert w.mean + 3 * w.std < z.mean - 3 * z.std


def test_the_ends_of_paths_through_w_are_shorter_than_the_rest_and_through_z_they_are_not() -> None:
    trained = load(record("stylegan-toyfaces-32"))
    t = torch.rand(400, generator=torch.Generator().manual_seed(0))
    rest, ends = length(trained, "w", t), length(trained, "w", 0 * t)
    assert ends.mean + 2 * ends.std < rest.mean - ends.std
    rest, ends = length(trained, "z", t), length(trained, "z", 0 * t)
    assert ends.mean + 2 * ends.std > rest.mean


@pytest.mark.parametrize("name", RECORDS)
def test_planes_in_w_leave_less_open(name: str) -> None:
    trained = load(record(name))
    z = draw_z(trained, 2000)
    with torch.no_grad():
        w = trained.mapping(z)
        images = synthesize(trained, per_layer(trained, w))
        scores = attribute_scores(torch.cat([load_classifier().table(part) for part in images.split(100)]))
    some = scores[:, :N_VALUES:4]
    in_z, in_w = (separability(latents, some).bits for latents in (z, w))
    assert in_w.mean() < 0.7 * in_z.mean()


def test_the_record_took_a_quarter_of_an_hour_on_two_cores() -> None:
    made = json.loads((record("stylegan-toyfaces-32") / "run.json").read_text())
    assert made["minutes"] == pytest.approx(15, abs=2.5)
    assert int(made["threads"]) == 2


def test_the_first_pattern_comes_from_the_border() -> None:
    torch.manual_seed(0)
    generator = GrowingGenerator(3, 16, 8, 16, style_block=AdaINBlock)
    seen = []
    for layer in (generator.style_constant, generator.style_block.conv):
        layer.register_forward_hook(lambda _, args, out: seen.append(out))
    with torch.no_grad():
        generator(torch.randn(1, 4, 16).expand(2, -1, -1))
    constant, convolved = seen
    assert (constant - constant[..., :1, :1]).abs().max() == 0
    assert (constant[0] - constant[1]).abs().max() > 0.1  # a shift of each image's own
    inside = convolved[..., 1:3, 1:3]
    assert (inside - inside[..., :1, :1]).abs().max() < 1e-5
    assert (convolved - inside[..., :1, :1]).abs().max() > 0.1
