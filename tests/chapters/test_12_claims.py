"""Chapter 12 reads curves; here what it says of them, against the records."""

import math

import pytest

from book.records import series


@pytest.fixture(scope="module")
def runs():
    return series("failures")


def between(run, key, first, last):
    return [row[key] for row in run["history"] if first < row["images"] <= last and key in row]


def mean(values):
    return sum(values) / len(values)


def final(run):
    return run["measures"][-1]


def test_the_healthy_runs_loss_tells_of_a_race(runs):
    """The discriminator gains for 18,000 images, then both losses jump towards the end of the game."""
    reference = runs["reference"]
    for key, end in (("loss.discriminator", 2 * math.log(2)), ("loss.generator", math.log(2))):
        ahead = mean(between(reference, key, 10_000, 18_000))
        after = mean(between(reference, key, 20_000, 22_000))
        assert abs(after - end) < 0.7 * abs(ahead - end), key
    distances = [row["frechet"] for row in reference["measures"]]
    assert max(distances[:4]) < 1.3 * min(distances[:4]), "from 2k to 20k the distance hardly moves"
    assert distances[-1] < 0.65 * distances[3]


def test_without_r1_the_players_swing_and_images_move_less(runs):
    healthy, sick = runs["reference"], runs["no-r1"]
    losses = [between(run, "loss.generator", 5_000, 40_000) for run in (healthy, sick)]
    assert max(losses[1]) > 2 * max(losses[0])
    losses = [between(run, "loss.discriminator", 5_000, 40_000) for run in (healthy, sick)]
    assert min(losses[1]) < min(losses[0])
    assert final(sick)["path_length"] < 0.55 * final(healthy)["path_length"]
    assert final(sick)["frechet"] > 0.9 * sick["measures"][0]["frechet"], "the distance stays where it was"


def test_a_rate_ten_times_as_high_calms_down_before_it_explodes(runs):
    fast = runs["fast"]
    assert min(between(fast, "score.fake", 1_000, 2_000)) < -1e4
    assert max(between(fast, "loss.discriminator", 17_000, 21_000)) < 10
    assert max(between(fast, "penalty.r1", 17_000, 21_000)) < 10
    assert max(between(fast, "loss.discriminator", 22_000, 25_000)) > 1e12
    assert min(abs(value) for value in between(fast, "score.fake", 26_000, 40_000)) > 1e9
    assert fast["ended"] is None, "nothing stopped it"


def test_fifty_images_are_learned_by_heart(runs):
    """Real faces that were never seen get a lower score than those that were, by far more than in the healthy run."""
    def gap(name):
        return [row["score_seen"] - row["score_unseen"] for row in runs[name]["measures"]]

    assert max(map(abs, gap("reference"))) < 0.3
    assert gap("tiny")[-1] > 2
    assert gap("tiny")[-2] > 2
    assert final(runs["tiny"])["frechet"] > 1.2 * final(runs["reference"])["frechet"]


def test_augmentation_helps_and_does_not_heal(runs):
    plain, augmented = final(runs["tiny"]), final(runs["tiny-augmented"])
    gaps = [row["score_seen"] - row["score_unseen"] for row in (plain, augmented)]
    assert 1 < gaps[1] < gaps[0]
    assert plain["score_unseen"] < 0 < augmented["score_unseen"]
    assert augmented["frechet"] < plain["frechet"]
    assert max(between(runs["tiny-augmented"], "augment.p", 0, 40_000)) < 0.3, "the strength stayed small"
    assert mean(between(runs["tiny-augmented"], "augment.r", 5_000, 40_000)) == pytest.approx(0.6, abs=0.1)
