"""Recorded runs are found wherever the book is."""

import sysconfig

import pytest

from book import records


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
