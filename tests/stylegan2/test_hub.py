"""Generators to and from the Hugging Face Hub, without its network: a folder, and a stand-in for the download."""

import socket

import pytest
import torch

from stylegan2.training import Settings
from stylegan2.weights import load, make_trained

hub = pytest.importorskip("stylegan2.hub")


@pytest.fixture
def generator(monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError("a test opened a network connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    torch.manual_seed(0)
    sizes = {"resolution": 8, "n_features": 4, "max_features": 8, "d_latent": 8, "mapping_layers": 2}
    return make_trained(Settings(**sizes, noise=True), 0).eval()


def test_there_and_back(generator, tmp_path):
    """Settings and images; and the folder is a record that every command takes."""
    hub.HubGenerator(generator).save_pretrained(tmp_path / "saved")
    z = torch.randn(2, 8)
    for back in (hub.HubGenerator.from_pretrained(str(tmp_path / "saved")), load(tmp_path / "saved")):
        assert back.settings == generator.settings
        assert torch.equal(back(z), generator(z))
        assert not back.training


def test_what_comes_from_the_hub_is_two_files(generator, tmp_path, monkeypatch):
    hub.HubGenerator(generator).save_pretrained(tmp_path)
    asked = {}

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    (tmp_path / "config.json").write_text("{}")  # which the library asks for, and ours do without
    monkeypatch.setattr("huggingface_hub.hub_mixin.hf_hub_download", lambda *_, **__: str(tmp_path / "config.json"))
    monkeypatch.setattr(hub, "snapshot_download", download)
    back = hub.HubGenerator.from_pretrained("me/faces", revision="main", local_files_only=True)
    assert torch.equal(back.mapping.mean_w, generator.mapping.mean_w)
    assert (asked["name"], asked["revision"]) == ("me/faces", "main")
    assert asked["allow_patterns"] == ["generator.safetensors", "settings.json"]
