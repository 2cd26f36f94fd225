"""Recorded runs are found wherever the book is, and hold together."""

import json
import re
import sysconfig
from dataclasses import replace

import numpy as np
import pytest
import tomllib
import torch
from PIL import Image

from book import experiments, records
from book.experiments import MEASURED_AT, SERIES
from stylegan2.cli import parse
from stylegan2.images import tile
from stylegan2.training import Settings, presets
from stylegan2.training.players import Players
from stylegan2.training.trainer import Trainer
from stylegan2.weights import load, sample


def test_a_record_of_the_checkout(tmp_path, monkeypatch):
    (tmp_path / "results" / "run").mkdir(parents=True)
    monkeypatch.setattr(records, "ROOT", tmp_path)
    assert records.record("run") == tmp_path / "results" / "run"


def test_a_record_of_the_installation(tmp_path, monkeypatch):
    folder = tmp_path / "share/annotated-stylegan2-gradnorm/results/run"
    folder.mkdir(parents=True)
    monkeypatch.setattr(records, "ROOT", tmp_path / "site-packages")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert records.record("run") == folder
    with pytest.raises(FileNotFoundError, match="no record 'walk'; the records are run"):
        records.record("walk")


RESULTS = records.ROOT / "results"
SINGLE = sorted(path.parent.name for path in RESULTS.glob("*/run.json"))
IMAGE_RUNS = sorted(path.parent.name for path in RESULTS.glob("*/generator.safetensors"))
SERIES_RUNS = [(path.parent.name, path.stem) for path in sorted(RESULTS.glob("*/*.json")) if path.parent.name in SERIES]
FOLDERS = sorted(path.name for path in RESULTS.iterdir() if path.is_dir())


def test_every_folder_is_a_record():
    assert set(FOLDERS) == set(SINGLE) | {series for series, _ in SERIES_RUNS}


@pytest.mark.parametrize("name", SERIES)
def test_a_series_is_complete(name):
    assert set(records.series(name)) == set(SERIES[name])


@pytest.mark.parametrize("name", FOLDERS)
def test_a_record_is_listed_and_installed(name):
    """Its command stands in results/README.md, and an installation holds it too."""
    assert f"| `{name}` |" in (RESULTS / "README.md").read_text()
    files = tomllib.loads((records.ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["data-files"]
    assert files[f"share/annotated-stylegan2-gradnorm/results/{name}"] == [f"results/{name}/*"]


@pytest.mark.parametrize("name", SINGLE)
def test_a_record_says_how_it_was_made(name):
    made = json.loads((RESULTS / name / "run.json").read_text())
    assert re.fullmatch("[0-9a-f]{12}", made["commit"]), "a run of code that was not committed"
    assert made["minutes"] > 0
    assert made["command"] in (RESULTS / "README.md").read_text() or name in IMAGE_RUNS


@pytest.mark.parametrize("name", IMAGE_RUNS)
def test_a_record_of_images_holds_together(name):
    """Settings, command, history and end agree; the weights draw the samples."""
    folder = RESULTS / name
    made, settings = json.loads((folder / "run.json").read_text()), Settings.load(folder / "settings.json")
    history = [json.loads(line)["images"] for line in (folder / "history.jsonl").read_text().splitlines()]
    assert parse(made["command"].split()[3:]).settings == settings
    assert made["seed"] == settings.seed
    assert history == sorted(set(history))
    assert history[-1] == made["images"] >= settings.images > made["images"] - settings.batch_size
    drawn = np.asarray(tile(sample(load(folder), 64), 8), dtype=float)
    kept = np.asarray(Image.open(folder / "samples.png").convert("RGB"), dtype=float)
    assert np.abs(drawn - kept).mean() < 1  # of 255 levels: other machines round elsewhere


@pytest.mark.parametrize(("name", "run"), SERIES_RUNS)
def test_a_run_of_a_series_holds_together(name, run):
    made = records.series(name)[run]
    settings = SERIES[name][run]
    assert Settings.from_dict(made["settings"]) == settings
    assert made["command"] == presets.command(settings)
    assert made["seed"] == settings.seed
    assert re.fullmatch("[0-9a-f]{12}", made["commit"])
    images = [row["images"] for row in made["measures"]]
    distances = [row["frechet"] for row in made["measures"]]
    assert len(set(distances)) == len(distances), "two measurements of one network"
    assert images == [at for at in MEASURED_AT if at <= made["images"]]
    assert (made["ended"] is None) == (made["images"] == settings.images)
    assert [row["images"] for row in made["history"]] == sorted({row["images"] for row in made["history"]})
    assert made["history"][-1]["images"] <= made["images"]
    side = settings.resolution
    assert Image.open(records.strip(name, run)).size == (8 * side, len(images) * side)
    assert all((row["rgb_std"] is not None) == (settings.generator == "skip") for row in made["measures"])


def test_a_strip_that_is_not_there():
    with pytest.raises(FileNotFoundError, match="'ablation' has no run 'Z-0'"):
        records.strip("ablation", "Z-0")


def test_the_last_samples_of_a_run():
    """Eight images, which put side by side are the last row of the strip."""
    samples = records.last_samples("failures", "tiny")
    row = np.asarray(Image.open(records.strip("failures", "tiny")).convert("RGB"))[-32:]
    assert samples.shape == (8, 3, 32, 32)
    np.testing.assert_array_equal(np.asarray(tile(samples, 8)), row)


def test_the_way_of_a_run_that_grew(tmp_path):
    """The first row of a few of its grids, enlarged pixel by pixel; not the one from before the first step."""
    (tmp_path / "samples").mkdir()
    pixels = torch.rand(8, 16, 3, 8, 8) * 2 - 1
    for i, images in enumerate(pixels):
        side = 4 if i < 4 else 8
        tile(images[..., :side, :side], 8).save(tmp_path / "samples" / f"{100 * i:010d}.png")
    way = records.on_the_way(tmp_path, most=4)
    assert list(way) == [100, 300, 500, 700]
    for seen, images in way.items():
        first = pixels[seen // 100, :8]
        expected = first if seen >= 400 else first[..., :4, :4].repeat_interleave(2, 2).repeat_interleave(2, 3)
        torch.testing.assert_close(images, expected, atol=1 / 255, rtol=0)


def test_a_series_is_made_part_by_part_and_once(tmp_path, monkeypatch, capsys):
    """A run in three parts is the run in one; a second call finds the record there."""
    tiny = Settings(resolution=8, batch_size=4, n_features=4, max_features=8, d_latent=8, mapping_layers=2, images=40)
    monkeypatch.setattr(experiments, "ROOT", tmp_path)
    monkeypatch.setattr(experiments, "SERIES", {"few": {"one": tiny}})
    monkeypatch.setattr(experiments, "MEASURED_AT", (12, 20, 40))
    monkeypatch.setattr(experiments, "IMAGES", 100)
    monkeypatch.setattr(experiments, "PAIRS", 200)
    assert experiments.record_series("few") == 0
    assert "wrote" in capsys.readouterr().out
    made = json.loads((tmp_path / "results/few/one.json").read_text())
    assert [row["images"] for row in made["measures"]] == [12, 20, 40]
    assert all(row["frechet"] > 0 and len(row["rgb_std"]) == 2 for row in made["measures"])
    Trainer(tmp_path / "whole", tiny).train()
    torch.testing.assert_close(sample(load(tmp_path / "whole"), 4),
                               sample(load(tmp_path / "runs/few/one"), 4), rtol=0, atol=0)
    experiments.record_series("few")
    assert "wrote" not in capsys.readouterr().out
    (tmp_path / "results/few/one.json").unlink()
    monkeypatch.setattr(experiments, "SERIES", {"few": {"one": replace(tiny, r1_gamma=1.0)}})
    with pytest.raises(FileExistsError, match="begun with other settings"):
        experiments.record_series("few")


def test_scores_of_what_was_seen_and_what_was_not(tmp_path, monkeypatch):
    """Equal where the discriminator cannot have learned anything by heart, apart where it knows its images alone."""
    settings = Settings(resolution=8, batch_size=4, n_features=4, max_features=8, d_latent=8, mapping_layers=2)
    fresh = experiments.seen_and_unseen(Trainer(tmp_path / "fresh", settings))
    assert fresh["score_seen"] == pytest.approx(fresh["score_unseen"], abs=0.05)
    few = Trainer(tmp_path / "few", replace(settings, subset=4, images=800, r1_gamma=0.0, path_length_weight=0.0))
    few.train()
    knows = experiments.seen_and_unseen(few)
    assert knows["score_seen"] > knows["score_unseen"] + 0.5
    grows = Settings(resolution=8, growing=True, grow_from=4, generator="plain", discriminator="plain")
    assert experiments.seen_and_unseen(Trainer(tmp_path / "grows", grows)) == {}


def test_rgb_std_is_that_of_the_layers(tmp_path):
    """The final image of a generator whose higher toRGB layers are silent is its 4² image, enlarged."""
    torch.manual_seed(0)
    settings = Settings(resolution=16, n_features=4, max_features=8, d_latent=8, mapping_layers=2)
    trained = Players(settings).average
    for block in trained.generator.blocks:
        torch.nn.init.zeros_(block.to_rgb.conv.weight)
    found = experiments.rgb_std(trained, 64)
    assert found[0] > 0
    assert found[1:] == [0, 0]


def test_series_that_are_none():
    with pytest.raises(SystemExit, match="no series 'abc'; the series are ablation, architectures, failures"):
        experiments.record_series("abc")
    with pytest.raises(SystemExit, match="no run 'G-0'"):
        experiments.record_series("ablation", ["G-0"])
