"""Chapter 14 reads an ablation: here is what it says about how the runs were made, and how it counts."""

import inspect
from dataclasses import asdict
from itertools import combinations, product

import pytest

from book import experiments
from book.experiments import IMAGES, MEASURED_AT, PAIRS, SERIES
from book.records import series

RUNS = SERIES["ablation"]


@pytest.mark.parametrize(
    ("before", "after", "changed"),
    [
        ("A", "B", {"style"}),
        ("B", "C", {"r1_interval"}),
        ("C", "D", {"path_length_weight"}),
        ("D", "E", {"growing", "generator", "discriminator", "model", "grow_images"}),
        ("E", "F", {"n_features"}),
    ],
)
def test_a_step_changes_what_the_table_says_and_nothing_else(before: str, after: str, changed: set[str]) -> None:
    one, two = (asdict(RUNS[f"{name}-0"]) for name in (before, after))
    assert {key for key in one if one[key] != two[key]} == changed


def test_seeds_differ_in_the_seed_alone() -> None:
    for name in "ABCDEF":
        settings = [asdict(RUNS[f"{name}-{seed}"]) | {"seed": 0} for seed in range(3)]
        assert settings[0] == settings[1] == settings[2]


def test_growing_ends_after_half_of_the_images() -> None:
    settings = RUNS["A-0"]
    full = settings.log_resolution - 2
    assert settings.images == 40_000
    assert settings.stage(19_999) < full == settings.stage(20_000)


def test_measured_with_so_many_images_and_with_a_fifth_on_the_way() -> None:
    assert (IMAGES, PAIRS) == (5_000, 500)
    assert "share = 1 if images == settings.images else 5" in inspect.getsource(experiments.record_run)


def test_every_record_saw_the_same_images_and_was_measured_at_the_same_points() -> None:
    for name, run in series("ablation").items():
        assert run["settings"]["seed"] == int(name[-1])
        if run["ended"] is None:
            assert run["images"] == 40_000
            assert [m["images"] for m in run["measures"]] == [at for at in MEASURED_AT if at <= 40_000]


def test_three_runs_all_beyond_three_others_happen_by_chance_once_in_ten_times() -> None:
    """Of all ways to deal six ranks to two configurations."""
    clear = 0
    deals = list(combinations(range(6), 3))
    for ours in deals:
        others = set(range(6)) - set(ours)
        clear += len({a < b for a, b in product(ours, others)}) == 1
    assert clear / len(deals) == 1 / 10
