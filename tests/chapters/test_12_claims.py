"""Chapter 12 reads curves; here what it says of them, against the records."""

import math

import pytest

from book.records import series
from stylegan2.penalties import PathLengthPenalty
from stylegan2.training import Settings


@pytest.fixture(scope="module")
def runs():
    return series("failures")


@pytest.fixture(scope="module")
def healthy(runs):
    """The reference, and the same settings with two more seeds."""
    ablation = series("ablation")
    return [runs["reference"], ablation["E-1"], ablation["E-2"]]


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


def test_without_r1_the_players_swing_and_images_move_less(runs, healthy):
    """Against all healthy seeds, where the chapter says so; and what does not tell them apart."""
    sick = runs["no-r1"]
    for run in healthy:
        losses = [between(r, "loss.generator", 5_000, 40_000) for r in (run, sick)]
        assert max(losses[1]) > 2 * max(losses[0])
        losses = [between(r, "loss.discriminator", 5_000, 40_000) for r in (run, sick)]
        assert min(losses[1]) < min(losses[0])
        assert final(sick)["path_length"] < 0.6 * final(run)["path_length"]
        assert final(sick)["frechet"] > 1.3 * final(run)["frechet"]
    assert final(sick)["path_length"] < 0.55 * final(runs["reference"])["path_length"]
    assert final(sick)["frechet"] > 0.9 * sick["measures"][0]["frechet"], "the distance stays where it was"
    assert final(sick)["precision"] > min(final(run)["precision"] for run in healthy), "precision would have passed it"
    ends = [mean(between(run, "path_length", 35_000, 40_000)) for run in (runs["reference"], sick)]
    assert ends[1] == pytest.approx(ends[0], rel=0.1), "the game's own path length does not show it"


def test_without_minibatch_std_the_distance_is_a_healthy_one(runs, healthy):
    distances = [final(run)["frechet"] for run in healthy]
    assert min(distances) < final(runs["no-minibatch-std"])["frechet"] < max(distances)


def test_a_rate_ten_times_as_high_calms_down_before_it_explodes(runs):
    fast = runs["fast"]
    assert min(between(fast, "score.fake", 1_000, 2_000)) < -1e4
    assert max(between(fast, "loss.discriminator", 17_000, 21_000)) < 10
    assert max(between(fast, "penalty.r1", 17_000, 21_000)) < 10
    assert max(between(fast, "loss.discriminator", 22_000, 25_000)) > 1e12
    assert min(abs(value) for value in between(fast, "score.fake", 26_000, 40_000)) > 1e9
    assert fast["ended"] is None, "nothing stopped it"


def test_ten_times_the_rate_never_draws_a_face(runs):
    assert max(row["precision"] for row in runs["fast"]["measures"]) < 0.05


def test_fifty_images_are_learned_by_heart(runs, healthy):
    """Real faces that were never seen get a lower score than those that were, by far more than in the healthy run."""
    def gap(run):
        return [row["score_seen"] - row["score_unseen"] for row in run["measures"]]

    assert max(abs(value) for run in healthy for value in gap(run)) < 0.3
    tiny = runs["tiny"]
    assert min(gap(tiny)[-2:]) > 2
    assert max(row["score_unseen"] for row in tiny["measures"] if row["images"] >= 20_000) < 0
    distances = [row["frechet"] for row in tiny["measures"]]
    assert max(distances[-3:]) < 1.05 * min(distances[-3:]), "it stands still"
    assert max(final(run)["frechet"] for run in healthy) < distances[-1] < 1.1 * max(
        final(run)["frechet"] for run in healthy), "outside, and not by much"


def test_augmentation_helps_and_does_not_heal(runs, healthy):
    plain, augmented = final(runs["tiny"]), final(runs["tiny-augmented"])
    gaps = [row["score_seen"] - row["score_unseen"] for row in (plain, augmented)]
    assert 1 < gaps[1] < 0.5 * gaps[0]
    assert plain["score_unseen"] < -1
    assert abs(augmented["score_unseen"]) < 0.3
    distances = [final(run)["frechet"] for run in healthy]
    assert min(distances) < augmented["frechet"] < max(distances)
    assert max(between(runs["tiny-augmented"], "augment.p", 0, 40_000)) < 0.3, "the strength stayed small"
    assert mean(between(runs["tiny-augmented"], "augment.r", 5_000, 40_000)) == pytest.approx(0.6, abs=0.1)


def test_defaults_that_the_table_names():
    """And those that the chapter counts on: of the path length and of the average."""
    s = Settings()
    assert (s.learning_rate, s.r1_gamma, s.max_features, s.images) == (0.015, 0.3, 128, 100_000)
    assert 0.0002 * s.resolution**2 / s.batch_size == pytest.approx(0.006, abs=0.001)
    assert (s.augment_images, s.ema_half_life, s.path_length_interval, s.batch_size) == (500_000, 10_000, 4, 32)
    assert PathLengthPenalty().beta == 0.99


def test_emoji_are_not_learned_by_heart_and_not_augmented():
    """Little gap, little augmentation; the only gap to speak of is the last of 500 emoji. And what is told in words."""
    emoji = series("emoji")
    gaps = {name: [row["score_seen"] - row["score_unseen"] for row in run["measures"]] for name, run in emoji.items()}
    assert max(map(abs, gaps["3000"])) < 0.1
    assert max(gaps["500"][:-1]) < 0.3 < 0.5 < gaps["500"][-1]
    for size in ("500", "3000"):
        augmented = emoji[f"{size}-augmented"]
        assert max(between(augmented, "augment.p", 0, 100_000)) < 0.15
        assert final(augmented)["frechet"] > final(emoji[size])["frechet"]
    assert [100_000 // run["settings"]["subset"] for run in emoji.values()] == [33, 33, 200, 200]
    assert all(run["settings"]["x_flip"] and run["settings"]["seed"] == 0 for run in emoji.values())
